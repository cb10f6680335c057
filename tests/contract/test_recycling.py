"""Workers that live and are replaced: because they are old, because somebody asks, because they ask themselves."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

import pytest

import poise
from poise.testing import LocalPool
from tests.contract.desk import Desk, break_constructor, check_constructor, mend_constructor, until
from tests.gate import Gate, leave_mark

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.contract.conftest import OpenPool


class Clerk(Desk):
    """Leaves a mark when it is closed, can ask to be replaced, and cannot be made where a file says so."""

    def __init__(self, gate: str = "") -> None:
        check_constructor(gate)
        super().__init__()
        self.gate = gate
        self.hoard: list[bytes] = []

    def grow(self, mebibytes: int) -> str:
        self.hoard.append(os.urandom(1 << 20) * mebibytes)
        return self.name

    def ask(self) -> str:
        poise.this_worker().retire()
        poise.this_worker().retire()
        return self.name

    async def ask_async(self) -> str:
        await asyncio.sleep(0)
        await asyncio.get_running_loop().create_task(self._ask_in_task())
        return self.name

    async def _ask_in_task(self) -> None:
        poise.this_worker().retire()

    def ask_in_stream(self) -> Iterator[str]:
        yield self.name
        poise.this_worker().retire()
        yield self.name

    async def ask_in_async_stream(self) -> AsyncIterator[str]:
        yield self.name
        poise.this_worker().retire()
        yield self.name

    def close(self) -> None:
        if self.gate:
            leave_mark(self.gate, f"closed {self.name}")


def is_whole(stats: poise.Stats) -> bool:
    return stats.ready == stats.size == len(stats.workers)


# ---------------------------------------------------------------------------------------------------------------------
# Because they are old


async def test_a_worker_that_has_answered_enough_calls_is_closed_and_replaced(
    open_pool: OpenPool, gate: Gate
) -> None:  # G1, G2, G3
    path = gate.path
    async with open_pool(lambda: Clerk(path), size=2, recycle=poise.Recycle(calls=20)) as pool:
        names: set[str] = set()
        number = 0
        while pool.stats().recycled < 3:
            calls = [pool.submit(Clerk.slow, n, 0.001) for n in range(number, number + 20)]
            answers = await asyncio.gather(*calls)
            assert [value for _, value in answers] == list(range(number, number + 20))
            assert pool.stats().ready >= 1, "the replacement was to be ready first"
            names |= {name for name, _ in answers}
            number += 20
        assert len(names) >= 3
        await gate.reached(3)
        assert all(mark.startswith("closed ") for mark in gate.marks)
        stats = pool.stats()
        assert (stats.deaths, stats.lost, stats.retried) == (0, 0, 0)
    assert len(set(gate.marks)) == len(gate.marks), "each is closed once"


async def test_a_worker_grows_old_and_is_replaced_while_nobody_calls(open_pool: OpenPool) -> None:
    async with open_pool(Clerk, size=1, recycle=poise.Recycle(age=0.3)) as pool:
        first = pool.stats().workers[0].id
        stats = await until(pool, lambda stats: stats.recycled > 0)
        assert first not in {worker.id for worker in stats.workers}
        assert stats.deaths == 0
        assert await pool.run(Clerk.echo, 1) == 1


async def test_a_worker_with_too_much_memory_is_replaced(open_pool: OpenPool, lane: str) -> None:
    async with open_pool(Clerk, size=1, recycle=poise.Recycle(memory="700MiB")) as pool:
        name = await pool.run(Clerk.who)
        for _ in range(3):
            assert await pool.run(Clerk.grow, 10) == name
        assert pool.stats().recycled == 0
        if isinstance(pool, LocalPool):
            pool.grow(pool.stats().workers[0].id, 800 << 20)
        else:
            assert await pool.run(Clerk.grow, 700) == name
        stats = await until(pool, lambda stats: stats.recycled == 1 and is_whole(stats))
        assert stats.deaths == 0
        assert await pool.run(Clerk.who) != name


async def test_a_worker_that_is_too_large_from_the_start_is_left_alone(
    open_pool: OpenPool, lane: str, caplog: pytest.LogCaptureFixture
) -> None:
    if lane == "local":
        pytest.skip("its workers do not look at their memory")
    with caplog.at_level(logging.WARNING, "poise"):
        async with open_pool(Clerk, size=1, recycle=poise.Recycle(memory="2MiB")) as pool:
            async with asyncio.timeout(60):
                while "another would be no better" not in caplog.text:
                    await asyncio.sleep(0.005)
            names = {await pool.run(Clerk.who) for _ in range(5)}
            assert len(names) == 1
            assert pool.stats().recycled == 0


async def test_the_worker_of_a_lease_is_replaced_when_that_ends(open_pool: OpenPool) -> None:
    async with open_pool(Clerk, size=1, recycle=poise.Recycle(calls=1)) as pool:
        async with pool.lease() as worker:
            names = {await worker.run(Clerk.who) for _ in range(10)}
            assert len(names) == 1
            assert pool.stats().recycled == 0
        await until(pool, lambda stats: stats.recycled == 1 and is_whole(stats))
        assert await pool.run(Clerk.who) not in names


@pytest.mark.parametrize("calls", [1, 3])
async def test_exactly_so_many_calls_if_it_is_to_be_exact(open_pool: OpenPool, calls: int) -> None:
    async with open_pool(Clerk, size=1, recycle=poise.Recycle(calls=calls, jitter=0, exact=True)) as pool:
        names = await asyncio.gather(*(pool.submit(Clerk.who) for _ in range(3 * calls)))
        assert names == [name for name in dict.fromkeys(names) for _ in range(calls)]
        assert len(set(names)) == 3
        assert pool.stats().lost == pool.stats().deaths == 0


async def test_one_after_the_other_goes_first_where_there_is_to_be_no_surge(open_pool: OpenPool) -> None:
    async with open_pool(Clerk, size=2, min_ready=2, recycle=poise.Recycle(calls=5, surge=False)) as pool:
        while pool.stats().recycled < 2:
            answers = await asyncio.gather(*(pool.submit(Clerk.slow, n, 0.001) for n in range(10)))
            assert [value for _, value in answers] == list(range(10))
            if isinstance(pool, LocalPool):
                assert len(pool.launcher.lanes) <= 2
        assert pool.stats().deaths == pool.stats().lost == 0


async def test_where_there_is_no_room_for_both_the_old_one_goes_first_and_the_log_says_so(
    open_pool: OpenPool, lane: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lane != "local":
        pytest.skip("Ray's room is told of in tests/ray")
    monkeypatch.setattr("poise._engine.supervisor.SHORTAGE_AFTER", 0.01)
    pool: Any = open_pool(Clerk, size=1, recycle=poise.Recycle(calls=1))
    pool.launcher.room = 1
    with caplog.at_level(logging.INFO, "poise"):
        async with pool:
            name = await pool.run(Clerk.who)
            await until(pool, lambda stats: stats.recycled == 1 and is_whole(stats))
            assert await pool.run(Clerk.who) != name
            assert pool.stats().deaths == 0
    assert "it has answered 1 calls; worker 1 starts first" in caplog.text
    assert (
        "leaves before worker 1 takes its place, because Ray has no room for both: slots: each worker needs 1"
        in caplog.text
    )


async def test_a_constructor_that_fails_costs_no_worker_that_is_old(open_pool: OpenPool, gate: Gate) -> None:  # G8
    path = gate.path
    async with open_pool(lambda: Clerk(path), size=1, recycle=poise.Recycle(calls=1)) as pool:
        break_constructor(path)
        name = await pool.run(Clerk.who)
        await until(pool, lambda stats: stats.deaths >= 2)
        assert await pool.run(Clerk.who) == name
        assert pool.stats().recycled == 0
        mend_constructor(path)
        await until(pool, lambda stats: stats.recycled == 1)
        assert await pool.run(Clerk.who) != name


# ---------------------------------------------------------------------------------------------------------------------
# Because somebody asks


async def test_a_worker_that_is_replaced_finishes_what_it_runs_and_works_until_the_new_one_is_ready(
    open_pool: OpenPool, gate: Gate
) -> None:  # G1, G2
    async with open_pool(Clerk, size=1) as pool:
        name = await pool.run(Clerk.who)
        held = pool.submit(Clerk.hold, gate.path, "held")
        await gate.reached()
        (old,) = [worker.id for worker in pool.stats().workers]
        new = await pool.replace(old)
        assert new != old
        assert await pool.run(Clerk.who) != name
        assert [worker.state for worker in pool.stats().workers if worker.id == old] == ["retiring"]
        gate.open()
        assert await held == "held"
        stats = await until(pool, is_whole)
        assert [worker.id for worker in stats.workers] == [new]
        assert stats.deaths == 0
        with pytest.raises(poise.ConfigError, match=f"worker_id={old} is not allowed.* ready: {new}"):
            await pool.replace(old)


async def test_if_the_new_one_cannot_start_the_old_one_stays(open_pool: OpenPool, gate: Gate) -> None:  # G8
    path = gate.path
    async with open_pool(lambda: Clerk(path), size=1) as pool:
        name = await pool.run(Clerk.who)
        break_constructor(path)
        with pytest.raises(poise.ReplaceFailed, match="no such model") as caught:
            await pool.replace(pool.stats().workers[0].id)
        assert isinstance(caught.value.__cause__, LookupError)
        assert {await pool.run(Clerk.who) for _ in range(5)} == {name}
        assert is_whole(pool.stats())


async def test_a_replacement_ends_with_its_pool(open_pool: OpenPool) -> None:  # G1, G12
    pool = await open_pool(Clerk, size=1).open()
    replacing = asyncio.ensure_future(pool.replace(pool.stats().workers[0].id))
    await asyncio.sleep(0)
    await pool.aclose()
    with pytest.raises(poise.PoolClosed):
        await replacing
    with pytest.raises(poise.PoolClosed):
        await pool.replace(0)


# ---------------------------------------------------------------------------------------------------------------------
# Because they ask


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("ask", [Clerk.ask, Clerk.ask_async])
async def test_a_worker_that_asks_to_be_replaced_answers_and_begins_nothing_more(
    open_pool: OpenPool, ask: Callable[[Clerk], Any], concurrency: int
) -> None:  # G2
    async with open_pool(Clerk, size=1, concurrency=concurrency) as pool:
        await asyncio.gather(*(pool.submit(Clerk.echo, n) for n in range(50)))  # so that calls are sent ahead
        asked = pool.submit(ask)
        behind = [pool.submit(Clerk.who) for _ in range(50)]
        name = await asked
        others = await asyncio.gather(*behind)
        if concurrency == 1:
            assert name not in others
        assert await pool.run(Clerk.who) != name
        stats = await until(pool, is_whole)
        assert (stats.deaths, stats.lost, stats.retried, stats.recycled) == (0, 0, 0, 0)


@pytest.mark.parametrize("ask", [Clerk.ask_in_stream, Clerk.ask_in_async_stream])
async def test_a_stream_in_which_its_worker_asks_to_be_replaced_goes_on(
    open_pool: OpenPool, ask: Callable[[Clerk], Any]
) -> None:
    async with open_pool(Clerk, size=1) as pool:
        items = [item async for item in pool.stream(ask)]
        assert len(items) == 2
        assert await pool.run(Clerk.who) not in items


async def test_a_leased_worker_that_asks_to_be_replaced_stays_with_its_lease(open_pool: OpenPool) -> None:
    async with open_pool(Clerk, size=1) as pool:
        async with pool.lease() as worker:
            name = await worker.run(Clerk.ask)
            assert {await worker.run(Clerk.who) for _ in range(10)} == {name}
        assert await pool.run(Clerk.who) != name


def test_outside_of_a_call_there_is_no_worker() -> None:
    with pytest.raises(poise.PoiseError, match="none runs here"):
        poise.this_worker()
