"""Cancellation, deadlines, and the slot that only the worker's own answer frees."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

import poise
from tests.contract.desk import Desk, is_idle

if TYPE_CHECKING:
    from tests.contract.conftest import OpenPool
    from tests.gate import Gate


async def test_a_cancelled_waiting_call_never_runs(open_pool: OpenPool, gate: Gate) -> None:  # G2
    async with open_pool(Desk, size=1) as pool:
        first = pool.submit(Desk.hold, gate.path, "first")
        second = pool.submit(Desk.hold, gate.path, "second")
        await gate.reached()
        assert second.cancel()
        assert not second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        gate.open()
        await first
        await pool.run(Desk.echo, 1)
        assert gate.marks == ["first"]
        assert pool.stats().cancelled == 1


async def test_a_cancelled_running_call_keeps_its_slot_until_the_worker_answers(
    open_pool: OpenPool, gate: Gate
) -> None:  # G3
    async with open_pool(Desk, size=1) as pool:
        call = pool.submit(Desk.hold, gate.path)
        await gate.reached()
        call.cancel()
        assert call.cancelled()
        waiting = pool.submit(Desk.echo, 1)
        stats = pool.stats()
        assert (stats.running, stats.abandoned, stats.free_slots, stats.in_flight) == (0, 1, 0, 1 + stats.ahead)
        await asyncio.sleep(0.02)
        assert not waiting.done()
        gate.open()
        assert await waiting == 1
        assert (await pool.run(Desk.witness))[1:] == (1, 2)
        assert pool.stats().in_flight == 0


async def test_cancelling_run_answers_its_caller_at_once(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=1) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await pool.run(Desk.hold, gate.path)
        assert pool.stats().abandoned == 1
        gate.open()
        await is_idle(pool)


async def test_a_cancelled_coroutine_is_cancelled_in_the_worker(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=1) as pool:
        call = pool.submit(Desk.async_hold, gate.path, "it")
        await gate.reached()
        call.cancel()
        assert await gate.reached(2) == ["it", "it cancelled"]
        await is_idle(pool)
        assert await pool.run(Desk.echo, 1) == 1


async def test_cancelling_a_call_that_has_ended_does_nothing(open_pool: OpenPool) -> None:
    async with open_pool(Desk, size=1) as pool:
        call = pool.submit(Desk.echo, 1)
        assert await call == 1
        assert not call.cancel()
        assert call.result() == 1
        assert pool.stats().cancelled == 0


async def test_a_call_cancelled_in_the_step_of_its_submission_is_forgotten(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=1) as pool:
        for _ in range(20):
            pool.submit(Desk.mark, gate.path, "x").cancel()
        assert await pool.run(Desk.echo, 1) == 1
        await is_idle(pool)


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("seed", [1, 2])
async def test_a_storm_of_cancellations_leaves_nothing_in_flight(
    open_pool: OpenPool, seed: int, concurrency: int
) -> None:  # G1, G3
    dice = random.Random(seed)
    async with open_pool(Desk, size=4, min_ready=4, concurrency=concurrency) as pool:
        functions = [(Desk.echo, 0.0), (Desk.async_echo, 0.0), (Desk.slow, 0.001), (Desk.slow, 0.005)]
        calls: dict[int, poise.Call[Any]] = {}
        doomed: list[poise.Call[Any]] = []
        cancelled = 0
        for number in range(2000):
            function, seconds = dice.choice(functions)
            args = (number, seconds) if seconds else (number,)
            calls[number] = call = pool.options(priority=dice.choice([0, 0, 1])).submit(function, *args)
            if number % 2:
                doomed.append(call)
            if dice.random() < 0.02:
                await asyncio.sleep(dice.choice([0, 0, 0.002]))
            while doomed and dice.random() < 0.45:
                cancelled += doomed.pop(dice.randrange(len(doomed))).cancel()
        dice.shuffle(doomed)
        for call in doomed:
            cancelled += call.cancel()
            if dice.random() < 0.05:
                await asyncio.sleep(0.002)
        outcomes = await asyncio.gather(*calls.values(), return_exceptions=True)
        for number, outcome in zip(calls, outcomes, strict=True):
            if isinstance(outcome, asyncio.CancelledError):
                assert number % 2
            else:
                assert outcome == number or outcome[1] == number  # type: ignore[index]
        assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes) == cancelled
        await is_idle(pool)
        stats = pool.stats()
        assert stats.in_flight == stats.running == stats.ahead == stats.abandoned == stats.waiting == 0
        assert stats.free_slots == 4 * concurrency
        assert stats.cancelled == cancelled
        assert stats.submitted == 2000
        assert stats.completed == 2000 - cancelled
        witnesses = await pool.broadcast(Desk.witness)
        assert max(most for _, most, _ in witnesses) <= concurrency
        assert sum(runs for *_, runs in witnesses) >= 2000 - cancelled
        assert stats.deaths == 0


# ---------------------------------------------------------------------------------------------------------------------
# Deadlines


async def test_a_call_that_expires_while_it_waits_never_runs(open_pool: OpenPool, gate: Gate) -> None:  # G6
    async with open_pool(Desk, size=1) as pool:
        first = pool.submit(Desk.hold, gate.path, "first")
        with pytest.raises(poise.DeadlineExceeded) as caught:
            await pool.options(timeout=0.05).run(Desk.hold, gate.path, "second")
        assert not caught.value.started
        assert caught.value.timeout == 0.05
        assert isinstance(caught.value, TimeoutError)
        await gate.reached()
        gate.open()
        await first
        await pool.run(Desk.echo, 1)
        assert gate.marks == ["first"]
        assert pool.stats().expired == 1


async def test_a_call_that_expires_while_it_runs_keeps_its_slot(open_pool: OpenPool, gate: Gate) -> None:  # G3, G6
    async with open_pool(Desk, size=1, kill_after=None) as pool:
        began = time.monotonic()
        with pytest.raises(poise.DeadlineExceeded) as caught:
            await pool.options(timeout=0.3).run(Desk.hold, gate.path)
        assert 0.29 <= time.monotonic() - began < 5
        assert caught.value.started
        stats = pool.stats()
        assert (stats.abandoned, stats.free_slots, stats.expired) == (1, 0, 1)
        gate.open()
        assert await pool.run(Desk.echo, 1) == 1
        assert pool.stats().deaths == 0


async def test_a_call_that_expires_while_it_waits_for_room_is_answered(open_pool: OpenPool, gate: Gate) -> None:  # G6
    async with open_pool(Desk, size=1, backlog=0) as pool:
        held = pool.submit(Desk.hold, gate.path)
        with pytest.raises(poise.DeadlineExceeded) as caught:
            await pool.options(timeout=0.05).run(Desk.echo, 1)
        assert not caught.value.started
        await gate.reached()
        gate.open()
        await held


async def test_calls_in_time_are_not_hurt_by_their_deadline(open_pool: OpenPool) -> None:
    async with open_pool(Desk, size=2) as pool:
        view = pool.options(timeout=60)
        assert await asyncio.gather(*(view.run(Desk.echo, n) for n in range(200))) == list(range(200))
        assert pool.stats().expired == 0


async def test_many_deadlines_are_each_met(open_pool: OpenPool, gate: Gate) -> None:  # G6
    async with open_pool(Desk, size=1) as pool:
        held = pool.submit(Desk.hold, gate.path, "held")
        await gate.reached()
        dice = random.Random(7)
        timeouts = [dice.uniform(0.01, 0.3) for _ in range(300)]
        began = time.monotonic()

        async def wait(timeout: float) -> float:
            with pytest.raises(poise.DeadlineExceeded):
                await pool.options(timeout=timeout).run(Desk.hold, gate.path, "never")
            return time.monotonic() - began - timeout

        delays = await asyncio.gather(*map(wait, timeouts))
        assert min(delays) > -0.001
        assert max(delays) < 3
        gate.open()
        await held
        await pool.run(Desk.echo, 0)
    assert gate.marks == ["held"]


async def test_a_stuck_worker_is_killed_and_replaced(open_pool: OpenPool, gate: Gate) -> None:  # G6, G8
    async with open_pool(Desk, size=1, kill_after=0.1) as pool:
        (stuck,) = pool.stats().workers
        with pytest.raises(poise.DeadlineExceeded):
            await pool.options(timeout=0.1).run(Desk.hold, gate.path)
        assert await pool.run(Desk.echo, "the next") == "the next"
        (fresh,) = pool.stats().workers
        assert fresh.id != stuck.id
        assert pool.stats().deaths == 1


async def test_a_call_that_ends_within_kill_after_saves_its_worker(open_pool: OpenPool, gate: Gate) -> None:  # G6
    async with open_pool(Desk, size=1, kill_after=2.0) as pool:
        with pytest.raises(poise.DeadlineExceeded):
            await pool.options(timeout=0.2).run(Desk.hold, gate.path)
        gate.open()
        await is_idle(pool)
        await asyncio.sleep(2.1)
        assert pool.stats().deaths == 0
        assert await pool.run(Desk.echo, 1) == 1


async def test_what_waits_behind_a_stuck_call_is_answered_elsewhere(open_pool: OpenPool, gate: Gate) -> None:  # G6, G9
    async with open_pool(Desk, size=2, min_ready=2, kill_after=0.1) as pool:
        for _ in range(30):
            await pool.run(Desk.echo, 0)
        stuck = [pool.options(timeout=0.1).submit(Desk.hold, gate.path, n) for n in range(2)]
        others = [pool.submit(Desk.echo, n) for n in range(100)]
        assert await asyncio.gather(*others) == list(range(100))
        for call in stuck:
            with pytest.raises(poise.DeadlineExceeded):
                await call
        assert pool.stats().size == 2


async def test_the_others_on_a_killed_worker_are_told_that_it_was_lost(open_pool: OpenPool, gate: Gate) -> None:  # G1
    async with open_pool(Desk, size=1, concurrency=2, kill_after=0.05) as pool:
        other = pool.submit(Desk.hold, gate.path, "other")
        await gate.reached()
        with pytest.raises(poise.DeadlineExceeded):
            await pool.options(timeout=0.05).run(Desk.hold, gate.path, "stuck")
        with pytest.raises(poise.WorkerLost, match="hold") as caught:
            await other
        assert "timeout" in caught.value.reason
        assert await pool.run(Desk.echo, 1) == 1
