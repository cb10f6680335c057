"""A number of workers that follows the load: asleep, awake, more, fewer."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import poise
from tests.contract.desk import Desk, break_constructor, check_constructor, mend_constructor, until
from tests.gate import Gate, leave_mark

if TYPE_CHECKING:
    from tests.contract.conftest import Crash, OpenPool


class Clerk(Desk):
    """Leaves a mark when it is closed, and cannot be made where a file says so."""

    def __init__(self, gate: str = "") -> None:
        check_constructor(gate)
        super().__init__()
        self.gate = gate

    def close(self) -> None:
        if self.gate:
            leave_mark(f"{self.gate}-ends", f"closed {self.name}")


def is_asleep(stats: poise.Stats) -> bool:
    return stats.size == len(stats.workers) == 0


async def test_a_pool_sleeps_while_nobody_calls_and_every_way_to_call_wakes_it(open_pool: OpenPool) -> None:  # G1
    async with open_pool(Clerk, size=poise.Elastic(0, 2, idle=0.05)) as pool:
        stats = pool.stats()
        assert (stats.least, stats.size, stats.most, stats.workers) == (0, 0, 2, ())
        assert "0/0 workers ready (of 0 to 2)" in repr(pool)
        await pool.until_ready()
        assert await pool.broadcast(Clerk.who) == []
        assert await pool.run(Clerk.echo, 1) == 1
        await until(pool, is_asleep)
        assert [item async for item in pool.map(Clerk.echo, range(20))] == list(range(20))
        await until(pool, is_asleep)
        async with pool.lease() as worker:
            names = {await worker.run(Clerk.who) for _ in range(3)}
            assert len(names) == 1
        await until(pool, is_asleep)
        with pytest.raises(poise.DeadlineExceeded) as caught:
            await pool.options(timeout=1e-6).run(Clerk.echo, 2)
        assert not caught.value.started  # G6
        await pool.reload()
        assert pool.stats().generation == 1
        assert await pool.run(Clerk.echo, 3) == 3
        await until(pool, is_asleep)
        stats = pool.stats()
        assert (stats.deaths, stats.lost, stats.retried, stats.recycled) == (0, 0, 0, 0)


async def test_a_pool_grows_for_calls_that_wait_and_shrinks_again_and_no_call_fails(
    open_pool: OpenPool, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:  # G1, G2, G12
    path = gate.path
    with caplog.at_level(logging.INFO, "poise"):
        async with open_pool(lambda: Clerk(path), size=poise.Elastic(1, 3, idle=0.2)) as pool:
            held = [pool.submit(Clerk.hold, path, number) for number in range(4)]
            await gate.reached(3)  # each on a worker of its own
            stats = pool.stats()
            assert (stats.size, stats.most, stats.waiting) == (3, 3, 1)
            gate.open()
            assert await asyncio.gather(*held) == list(range(4))
            await until(pool, lambda stats: stats.size == 1)
            assert await pool.run(Clerk.echo, 5) == 5
            await Gate(Path(f"{path}-ends")).reached(2)
            stats = pool.stats()
            assert (stats.deaths, stats.lost, stats.retried) == (0, 0, 0)
    assert "the pool grows from 1 to 3 workers, because 3 calls wait" in caplog.text
    assert "leaves after 0.2 s of idleness; 1 stay" in caplog.text


async def test_one_caller_needs_one_worker(open_pool: OpenPool) -> None:
    async with open_pool(Clerk, size=poise.Elastic(1, 2, idle=0.2)) as pool:
        await pool.resize(2)
        await pool.until_ready()
        assert pool.stats().least == pool.stats().most == 2
        await pool.resize(poise.Elastic(1, 2, idle=0.2))
        async with asyncio.timeout(60):
            while pool.stats().size > 1:
                await pool.run(Clerk.slow, 1, 0.001)
        assert pool.stats().deaths == pool.stats().lost == 0


async def test_workers_that_cannot_start_fail_the_call_that_has_woken_their_pool(
    open_pool: OpenPool, gate: Gate
) -> None:  # G1, G8
    path = gate.path
    break_constructor(path)
    async with open_pool(lambda: Clerk(path), size=poise.Elastic(0, 2, idle=0.05)) as pool:
        with pytest.raises(poise.PoolBroken, match="no such model") as caught:
            await pool.run(Clerk.echo, 1)
        assert isinstance(caught.value.__cause__, LookupError)
        assert pool.state == "broken"
        mend_constructor(path)
        await until(pool, lambda stats: stats.ready > 0 or stats.size == 0)
        assert await pool.run(Clerk.echo, 2) == 2


async def test_the_death_of_a_worker_is_no_reason_to_grow(open_pool: OpenPool, crash: Crash) -> None:  # G8
    async with open_pool(Clerk, size=(1, 4)) as pool:
        crash(pool, pool.stats().workers[0].id)
        await until(pool, lambda stats: stats.deaths == 1)
        await pool.until_ready()
        assert pool.stats().size == 1
        assert await pool.run(Clerk.echo, 1) == 1
