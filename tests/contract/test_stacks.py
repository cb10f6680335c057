"""A worker says what its threads and tasks are doing, whatever it runs and however it is reached."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import poise
from poise.view import engine_of
from tests.gate import wait_at, wait_at_async

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.conftest import SharePool
    from tests.gate import Gate


@pytest.mark.asyncio(loop_scope="module")  # that of the shared pool
@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_busy_worker_says_what_it_does(
    share_pool: SharePool, make_gate: Callable[[str], Gate], concurrency: int
) -> None:
    async with share_pool(size=1, concurrency=concurrency) as pool:
        (worker,) = pool.stats().workers
        for function in (wait_at, wait_at_async):
            gate = make_gate(function.__name__)
            call = pool.submit(function, gate.path)
            try:
                await gate.reached()
                async with asyncio.timeout(20):
                    while f"in {function.__name__}\n" not in await engine_of(pool).stacks(worker.id):
                        await asyncio.sleep(0.01)
            finally:
                gate.open()
            await call
        with pytest.raises(poise.ConfigError, match="worker_id=999"):
            await engine_of(pool).stacks(999)
