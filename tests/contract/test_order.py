"""Who runs what, and when: spreading, order, priority, admission."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import poise
from tests.contract.desk import Desk
from tests.gate import Gate, leave_mark

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.conftest import OpenPool, SharePool

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_sequential_calls_on_idle_workers_use_more_than_one(share_pool: SharePool) -> None:
    async with share_pool(Desk, size=3) as pool:
        served = Counter([await pool.run(Desk.who) for _ in range(200)])
        assert len(served) > 1
        assert max(served.values()) <= 100


async def test_as_many_calls_run_at_once_as_there_are_slots(share_pool: SharePool, gate: Gate) -> None:  # G3, G4
    async with share_pool(Desk, size=3) as pool:
        calls = [pool.submit(Desk.hold, gate.path, n) for n in range(5)]
        assert sorted(await gate.reached(3)) == ["0", "1", "2"]
        stats = pool.stats()
        assert stats.running + stats.ahead + stats.waiting == 5
        assert stats.running == 3
        assert stats.free_slots == 0
        assert len(gate.marks) == 3
        gate.open()
        assert await asyncio.gather(*calls) == list(range(5))


def set_slow(desk: Desk, slow: bool) -> None:
    desk.delay, desk.total = float(slow), 0


async def test_no_call_waits_beside_an_idle_worker_when_one_is_ten_times_slower(
    share_pool: SharePool, gate: Gate
) -> None:  # G4
    def ten_times_slower(desk: Desk, path: str, count: int) -> str:
        """Return, on the slow worker, when the others have run ten more calls or all that it has not taken."""
        if not desk.delay:
            leave_mark(path, desk.name)
            time.sleep(0.02)
        else:
            desk.total += 1
            wanted = min(10 * desk.total, count - desk.total)
            while len(Gate(Path(path)).marks) < wanted:
                time.sleep(0.002)
        return desk.name

    async with share_pool(Desk, size=3) as pool:
        async with pool.lease() as worker:
            await worker.run(set_slow, True)
            slow_one = await worker.run(Desk.who)
        async with asyncio.timeout(60):  # for ever, if a call waited for the slow one to come round
            served = Counter(await asyncio.gather(*(pool.submit(ten_times_slower, gate.path, 60) for _ in range(60))))
        await pool.broadcast(set_slow, False)
    assert len(served) == 3
    assert 1 <= served[slow_one] <= 6  # its fair share of the time in which the others do 54


async def test_short_calls_behind_a_long_one_are_done_by_the_others(share_pool: SharePool, gate: Gate) -> None:  # G4
    async with share_pool(Desk, size=2) as pool:
        for _ in range(50):  # teach the pool that these are short, so that it sends them ahead where it can
            await pool.run(Desk.echo, 0)
        crowd = [pool.submit(Desk.echo, n) for n in range(100)]
        long = pool.submit(Desk.hold, gate.path, "long")
        more = [pool.submit(Desk.echo, n) for n in range(100)]
        await gate.reached()
        assert await asyncio.gather(*crowd, *more) == [*range(100)] * 2
        assert not long.done()
        gate.open()
        await long


@pytest.mark.parametrize("long", [0, 1, 10, 150])
async def test_a_short_function_that_turns_long_holds_nobody_up(
    share_pool: SharePool, gate: Gate, long: int
) -> None:  # G4
    def short_or_long(desk: Desk, path: str, number: int) -> int:
        if number == long:
            desk.hold(path)
        return number

    async with share_pool(Desk, size=2) as pool:
        for _ in range(50):
            await pool.run(short_or_long, gate.path, -1)
        calls = [pool.submit(short_or_long, gate.path, n) for n in range(200)]
        others = [call for n, call in enumerate(calls) if n != long]
        async with asyncio.timeout(30):
            assert await asyncio.gather(*others) == [n for n in range(200) if n != long]
        assert not calls[long].done()
        gate.open()
        assert await calls[long] == long


async def test_calls_start_in_the_order_of_their_submission(share_pool: SharePool, gate: Gate) -> None:  # G5
    async with share_pool(Desk, size=1) as pool:
        calls = [pool.submit(Desk.mark, gate.path, n) for n in range(300)]
        await asyncio.gather(*calls)
    assert gate.marks == [str(n) for n in range(300)]


async def test_higher_priority_starts_first_and_equals_in_order(
    open_pool: OpenPool, gate: Gate, make_gate: Callable[[str], Gate]
) -> None:  # G5
    door = make_gate("door")
    async with open_pool(Desk, size=1) as pool:  # which does not know `mark` as short
        first = pool.submit(Desk.hold, door.path)
        await door.reached()
        calls = [
            pool.options(priority=priority).submit(Desk.mark, gate.path, f"{priority}:{n}")
            for n in range(3)
            for priority in (0, 5, -5)
        ]
        door.open()
        await asyncio.gather(first, *calls)
    assert gate.marks == [f"{priority}:{n}" for priority in (5, 0, -5) for n in range(3)]


async def test_beyond_the_backlog_submit_is_refused_with_numbers(open_pool: OpenPool, gate: Gate) -> None:  # G7
    async with open_pool(Desk, size=1, backlog=3) as pool:
        held = [pool.submit(Desk.hold, gate.path, n) for n in range(4)]
        with pytest.raises(poise.Overloaded) as caught:
            pool.submit(Desk.hold, gate.path, "too many")
        error = caught.value
        assert (error.depth, error.limit) == (3, 3)
        assert 0 < error.retry_after < 60
        assert pool.stats().rejected == 1
        gate.open()
        assert await asyncio.gather(*held) == [0, 1, 2, 3]
        assert await pool.submit(Desk.echo, "room again") == "room again"
    assert "too many" not in gate.marks


async def test_run_waits_for_room_and_keeps_the_order(open_pool: OpenPool, gate: Gate) -> None:  # G5, G7
    async with open_pool(Desk, size=1, backlog=2) as pool:
        runs = [asyncio.ensure_future(pool.run(Desk.hold, gate.path, n)) for n in range(20)]
        await gate.reached()
        await asyncio.sleep(0)
        stats = pool.stats()
        assert (stats.running, stats.waiting, stats.parked) == (1, 2, 17)
        with pytest.raises(poise.Overloaded):
            pool.submit(Desk.echo, 1)
        gate.open()
        assert await asyncio.gather(*runs) == list(range(20))
    assert gate.marks == [str(n) for n in range(20)]


async def test_a_caller_that_waits_for_room_can_be_cancelled(open_pool: OpenPool, gate: Gate) -> None:  # G7
    async with open_pool(Desk, size=1, backlog=1) as pool:
        runs = [asyncio.ensure_future(pool.run(Desk.hold, gate.path, n)) for n in range(5)]
        await gate.reached()
        runs[3].cancel()
        runs[1].cancel()
        await asyncio.wait({runs[3], runs[1]})
        assert runs[1].cancelled()
        assert runs[3].cancelled()
        assert pool.stats().parked == 1
        gate.open()
        assert [await runs[n] for n in (0, 2, 4)] == [0, 2, 4]
    assert gate.marks == ["0", "2", "4"]


async def test_a_backlog_of_nothing_takes_what_can_start_at_once(open_pool: OpenPool, gate: Gate) -> None:  # G7
    async with open_pool(Desk, size=1, backlog=0) as pool:
        held = pool.submit(Desk.hold, gate.path)
        with pytest.raises(poise.Overloaded):
            pool.submit(Desk.echo, 1)
        waiting = asyncio.ensure_future(pool.run(Desk.echo, 2))
        await gate.reached()
        gate.open()
        await held
        assert await waiting == 2


async def test_an_unlimited_backlog_takes_any_burst(open_pool: OpenPool) -> None:
    async with open_pool(Desk, size=2, backlog=None) as pool:
        calls = [pool.submit(Desk.echo, n) for n in range(3000)]
        assert await asyncio.gather(*calls) == list(range(3000))


async def test_concurrency_lets_a_worker_run_so_many_plain_calls(open_pool: OpenPool, gate: Gate) -> None:  # G3
    async with open_pool(Desk, size=1, concurrency=3) as pool:
        calls = [pool.submit(Desk.hold, gate.path, n) for n in range(6)]
        assert sorted(await gate.reached(3)) == ["0", "1", "2"]
        assert pool.stats().running == 3
        gate.open()
        await asyncio.gather(*calls)
        _, most, runs = await pool.run(Desk.witness)
        assert (most, runs) == (3, 6)


async def test_concurrency_lets_a_worker_run_so_many_coroutines(open_pool: OpenPool, gate: Gate) -> None:  # G3
    async with open_pool(Desk, size=1, concurrency=50) as pool:
        calls = [pool.submit(Desk.async_hold, gate.path, n) for n in range(80)]
        await gate.reached(50)
        assert pool.stats().running == 50
        gate.open()
        assert await asyncio.gather(*calls) == list(range(80))
        assert (await pool.run(Desk.witness))[1] == 50


async def test_concurrency_holds_for_a_mixture(open_pool: OpenPool) -> None:  # G3
    async with open_pool(Desk, size=2, concurrency=4) as pool:
        plain = [pool.submit(Desk.slow, n, 0.001) for n in range(100)]
        coroutines = [pool.submit(Desk.async_echo, n) for n in range(100)]
        await asyncio.gather(*plain, *coroutines)
        for _, most, _ in await pool.broadcast(Desk.witness):
            assert most <= 4


async def test_coroutines_of_single_slot_workers_run_one_at_a_time(share_pool: SharePool) -> None:  # G3
    async with share_pool(Desk, size=2) as pool:
        await asyncio.gather(*(pool.run(Desk.async_echo, n) for n in range(200)))
        assert max(most for _, most, _ in await pool.broadcast(Desk.witness)) == 1


async def test_one_tenants_flood_delays_anothers_call_by_one_call(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=1) as pool:  # one that has not measured what it is to run
        first = pool.submit(Desk.hold, gate.path)
        await gate.reached()
        flood = [pool.options(tenant="flood").submit(Desk.mark, gate.path, f"flood {n}") for n in range(20)]
        single = pool.options(tenant=("a", "tuple")).submit(Desk.mark, gate.path, "single")
        gate.open()
        await asyncio.gather(first, single, *flood)
        assert "single" in gate.marks[1:3]
        assert [mark for mark in gate.marks if mark.startswith("flood")] == [f"flood {n}" for n in range(20)]  # G5


async def test_a_tenants_part_of_the_backlog_is_bounded(open_pool: OpenPool, gate: Gate) -> None:  # G7
    async with open_pool(Desk, size=1, backlog_per_tenant=2) as pool:
        first = pool.submit(Desk.hold, gate.path)
        await gate.reached()
        flood = pool.options(tenant="flood")
        calls = [flood.submit(Desk.echo, n) for n in range(2)]
        with pytest.raises(poise.Overloaded, match="tenant 'flood'") as caught:
            flood.submit(Desk.echo, 2)
        assert (caught.value.tenant, caught.value.limit) == ("flood", 2)
        parked = asyncio.ensure_future(flood.run(Desk.echo, 2))
        other = pool.options(tenant="other").submit(Desk.echo, 3)
        while not pool.stats().parked:
            await asyncio.sleep(0)
        gate.open()
        assert await asyncio.gather(first, *calls, parked, other) == ["", 0, 1, 2, 3]
