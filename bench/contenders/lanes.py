"""Poise, by either lane."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

import poise
from bench.contenders.contender import Contender
from bench.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poise.options import LaneName


class _Lane(Contender):
    lane: ClassVar[LaneName]

    def __init__(self) -> None:
        self.pool: poise.Pool[Worker] | None = None

    async def open(self, workers: int) -> None:
        """Open a pool and wait for all of its workers."""
        self.pool = poise.Pool(Worker, size=workers, min_ready=workers, lane=self.lane)
        await self.pool.open()

    async def call(self, method: str, *args: Any) -> Any:
        """`await pool.run(Worker.method, ...)`."""
        assert self.pool is not None
        return await self.pool.run(getattr(Worker, method), *args)

    async def together(self, method: str, values: Sequence[Any]) -> Sequence[Any]:
        """Gather the futures that `pool.submit` gives."""
        assert self.pool is not None
        function, submit = getattr(Worker, method), self.pool.submit
        return await asyncio.gather(*[submit(function, value) for value in values])

    async def close(self) -> None:
        """Close the pool."""
        if self.pool is not None:
            await self.pool.aclose()


class Express(_Lane):
    """The express lane; futures of `submit` are gathered."""

    key = "express"
    label = "poise, express"
    lane = "express"


class ExpressRun(Express):
    """The express lane; coroutines of `run` are gathered, which costs an asyncio task each."""

    key = "express-run"
    label = "poise, express, gather(run)"

    async def together(self, method: str, values: Sequence[Any]) -> Sequence[Any]:
        """Gather coroutines."""
        return await asyncio.gather(*[self.call(method, value) for value in values])


class Freight(_Lane):
    """The freight lane."""

    key = "freight"
    label = "poise, freight"
    lane = "freight"
