"""Workers die, and the pool heals: every call ends, and none runs twice without leave."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

import poise
from tests.contract.desk import Desk
from tests.gate import Gate, leave_mark

if TYPE_CHECKING:
    from tests.contract.conftest import Crash, OpenPool, SharePool


async def is_whole(pool: poise.Pool[Any]) -> None:
    """Wait until the pool has its size again."""
    async with asyncio.timeout(60):
        while pool.stats().ready < pool.stats().size:
            await asyncio.sleep(0.005)


def marked(desk: Desk, gate: str, number: int) -> int:
    leave_mark(gate, number)
    return desk.slow(number, 0.001)[1]  # type: ignore[no-any-return]


@pytest.mark.parametrize("size", [1, 2])
async def test_under_load_every_call_ends_and_none_runs_twice(
    open_pool: OpenPool, crash: Crash, gate: Gate, size: int
) -> None:  # G1, G2, G8
    async with open_pool(Desk, size=size, min_ready=size) as pool:
        calls = [pool.submit(marked, gate.path, n) for n in range(400)]
        await gate.reached(50)
        victim = pool.stats().workers[0].id
        crash(pool, victim)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        lost = [n for n, outcome in enumerate(outcomes) if outcome != n]
        assert all(isinstance(outcomes[n], poise.WorkerLost) for n in lost)
        assert len(lost) <= 17  # those that had begun, and those that may have
        assert [n for n, outcome in enumerate(outcomes) if outcome == n] == [n for n in range(400) if n not in lost]
        ran = gate.marks
        assert len(ran) == len(set(ran)), "a call ran twice"
        await is_whole(pool)
        stats = pool.stats()
        assert stats.ready == stats.size == size
        assert stats.deaths == 1
        assert stats.lost == len(lost)
        assert victim not in {worker.id for worker in stats.workers}


@pytest.mark.parametrize("size", [1, 2])
async def test_with_retries_every_call_is_answered(
    open_pool: OpenPool, crash: Crash, gate: Gate, size: int
) -> None:  # G2, G8
    async with open_pool(Desk, size=size, min_ready=size) as pool:
        calls = [pool.options(retries=5).submit(marked, gate.path, n) for n in range(300)]
        await gate.reached(50)
        crash(pool, pool.stats().workers[-1].id)
        assert await asyncio.gather(*calls) == list(range(300))


async def test_a_lost_call_says_which_worker_and_why(open_pool: OpenPool, crash: Crash, gate: Gate) -> None:
    async with open_pool(Desk, size=1) as pool:
        call = pool.submit(Desk.hold, gate.path)
        await gate.reached()
        number = pool.stats().workers[0].id
        crash(pool, number)
        with pytest.raises(poise.WorkerLost) as caught:
            await call
        assert caught.value.worker_id == number
        assert caught.value.reason
        assert not isinstance(caught.value, poise.PoisonCall)


async def test_what_had_not_begun_keeps_its_place(open_pool: OpenPool, crash: Crash, gate: Gate) -> None:  # G2, G5
    async with open_pool(Desk, size=1) as pool:
        first = pool.submit(Desk.hold, gate.path, "first")
        rest = [pool.submit(Desk.mark, gate.path, n) for n in range(20)]
        await gate.reached()
        crash(pool, pool.stats().workers[0].id)
        late = pool.submit(Desk.mark, gate.path, "late")
        with pytest.raises(poise.WorkerLost):
            await first
        assert await asyncio.gather(*rest) == list(range(20))
        await late
    assert gate.marks == ["first", *map(str, range(20)), "late"]


async def test_a_call_that_keeps_killing_its_worker_is_named(
    open_pool: OpenPool, crash: Crash, gate: Gate
) -> None:  # G9
    async with open_pool(Desk, size=1, poison_after=2) as pool:
        call = pool.options(retries=10).submit(Desk.hold, gate.path)
        innocent = [pool.submit(Desk.echo, n) for n in range(20)]
        for death in range(2):
            await gate.reached(death + 1)
            (worker,) = [w for w in pool.stats().workers if w.running]
            crash(pool, worker.id)
        with pytest.raises(poise.PoisonCall) as caught:
            await call
        assert caught.value.deaths == 2
        assert "Desk.hold" in str(caught.value)
        assert await asyncio.gather(*innocent) == list(range(20))
        assert len(gate.marks) == 2


async def test_retries_end_before_poison_when_there_are_few(open_pool: OpenPool, crash: Crash, gate: Gate) -> None:
    async with open_pool(Desk, size=1) as pool:
        call = pool.options(retries=1).submit(Desk.hold, gate.path)
        for death in range(2):
            await gate.reached(death + 1)
            (worker,) = [w for w in pool.stats().workers if w.running]
            crash(pool, worker.id)
        with pytest.raises(poise.WorkerLost) as caught:
            await call
        assert type(caught.value) is poise.WorkerLost  # no PoisonCall
        assert pool.stats().retried == 1


async def test_an_abandoned_calls_slot_ends_with_its_worker(
    open_pool: OpenPool, crash: Crash, gate: Gate
) -> None:  # G3
    async with open_pool(Desk, size=1) as pool:
        call = pool.submit(Desk.hold, gate.path)
        await gate.reached()
        call.cancel()
        crash(pool, pool.stats().workers[0].id)
        assert await pool.run(Desk.echo, 1) == 1
        assert pool.stats().abandoned == 0


async def test_a_chaos_of_deaths_and_cancellations_ends_every_call(open_pool: OpenPool, crash: Crash) -> None:  # G1, G8
    dice = random.Random(3)
    async with open_pool(Desk, size=3, concurrency=2) as pool:
        calls = [
            pool.options(retries=dice.choice([0, 3]), priority=dice.choice([0, 1])).submit(Desk.slow, n, 0.002)
            for n in range(600)
        ]
        for _ in range(4):
            await asyncio.sleep(0.05)
            for call in dice.sample(calls, 30):
                call.cancel()
            ready = [worker.id for worker in pool.stats().workers if worker.state == "ready"]
            if ready:
                crash(pool, dice.choice(ready))
        async with asyncio.timeout(60):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, tuple):
                assert outcome[1] == number
            else:
                assert isinstance(outcome, poise.WorkerLost | asyncio.CancelledError)
        await is_whole(pool)
        stats = pool.stats()
        assert stats.in_flight == stats.waiting == 0
        assert stats.free_slots == 6


# ---------------------------------------------------------------------------------------------------------------------
# Retries after exceptions


async def test_beyond_the_retry_budget_a_call_ends_with_its_own_error(open_pool: OpenPool) -> None:  # G2
    async with open_pool(Desk, size=1, retry_budget=0.0) as pool:
        again = pool.options(retries=1000, retry_on=ValueError, retry_delay=0)
        with pytest.raises(ValueError, match="never"):  # if need be once ten seconds are over
            await again.run(Desk.fail, ValueError("never"))
        stats = pool.stats()
        assert (stats.over_budget, stats.failed) == (1, 1)
        assert stats.retried < 1000
        assert await pool.run(Desk.echo, 1) == 1


@pytest.mark.asyncio(loop_scope="module")
async def test_a_call_is_run_again_after_an_exception_that_retry_on_names(
    share_pool: SharePool, gate: Gate
) -> None:  # G2
    async with share_pool(Desk, size=2) as pool:
        before = pool.stats().retried
        again = pool.options(retries=3, retry_on=(ValueError, KeyError))
        assert await again.run(Desk.fail_first, gate.path, 2) == 3
        assert pool.stats().retried == before + 2


@pytest.mark.asyncio(loop_scope="module")
async def test_other_exceptions_are_not_retried(share_pool: SharePool, gate: Gate) -> None:  # G2
    async with share_pool(Desk, size=2) as pool:
        with pytest.raises(ValueError, match="try 1"):
            await pool.options(retries=3, retry_on=KeyError).run(Desk.fail_first, gate.path, 2)
        assert len(gate.marks) == 1


@pytest.mark.asyncio(loop_scope="module")
async def test_without_retries_left_the_last_exception_arrives(share_pool: SharePool, gate: Gate) -> None:
    async with share_pool(Desk, size=2) as pool:
        with pytest.raises(ValueError, match="try 3"):
            await pool.options(retries=2, retry_on=ValueError).run(Desk.fail_first, gate.path, 9)
        assert len(gate.marks) == 3


@pytest.mark.asyncio(loop_scope="module")
async def test_a_retried_call_keeps_its_deadline(share_pool: SharePool, gate: Gate) -> None:  # G6
    def fail_slowly(desk: Desk) -> None:
        desk.slow(0, 0.05)
        raise ValueError

    async with share_pool(Desk, size=2) as pool:
        with pytest.raises(poise.DeadlineExceeded) as caught:
            await pool.options(retries=1000, retry_on=ValueError, timeout=0.3).run(fail_slowly)
        assert caught.value.started
