"""Xoscar, the actor framework of Xorbits."""

from __future__ import annotations

import asyncio
import importlib
import itertools
from typing import TYPE_CHECKING, Any

from bench.contenders.contender import Contender, Missing

if TYPE_CHECKING:
    from collections.abc import Iterator


class Xoscar(Contender):
    """One actor in each process, called in turn."""

    key = "xoscar"
    label = "xoscar"
    needs_ray = False

    def __init__(self) -> None:
        self._pool: Any = None
        self._refs: list[Any] = []

    async def open(self, workers: int) -> None:
        """Start the processes and an actor in each."""
        try:
            xoscar = importlib.import_module("xoscar")
        except ImportError as error:
            raise Missing(str(error)) from None
        from bench.contenders.xoscar_actor import WorkerActor

        self._pool = await xoscar.create_actor_pool("127.0.0.1", n_process=workers)
        place = xoscar.allocate_strategy.ProcessIndex
        for number in range(1, workers + 1):  # process 0 is this one
            address = self._pool.external_address
            ref = await xoscar.create_actor(WorkerActor, address=address, allocate_strategy=place(number))
            self._refs.append(ref)
        self._next: Iterator[Any] = itertools.cycle(self._refs)
        await asyncio.gather(*[ref.echo(0) for ref in self._refs])

    async def call(self, method: str, *args: Any) -> Any:
        """The next actor's turn."""
        return await getattr(next(self._next), method)(*args)

    async def close(self) -> None:
        """Stop the processes."""
        self._refs.clear()
        if self._pool is not None:
            await self._pool.stop()
