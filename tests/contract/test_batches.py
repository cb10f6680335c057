"""Batched functions: their calls share a slot, and nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import ray

import poise
from tests.contract.desk import Desk, is_idle
from tests.gate import Gate, leave_mark, wait_at, wait_at_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.contract.conftest import Crash, OpenPool, SharePool

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Refuses:
    """What can be pickled and not unpickled."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


class Press(Desk):
    """Runs what it is given together, and keeps a record of it."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[Any]] = []

    @poise.batched(max=4)
    def double(self, values: list[int]) -> list[int]:
        with self.busy():
            self.batches.append(values)
            return [2 * value for value in values]

    @poise.batched(max=4)
    async def double_async(self, values: list[int]) -> list[int]:
        self.batches.append(values)
        await asyncio.sleep(0)
        return [2 * value for value in values]

    @poise.batched(max=100, wait=30.0)
    def patiently(self, values: list[int]) -> list[int]:
        self.batches.append(values)
        return values

    @poise.batched(max=100, wait=0.02)
    def briefly(self, values: list[int]) -> list[int]:
        self.batches.append(values)
        return values

    @poise.batched(max=3, wait=30.0)
    def in_threes(self, values: list[int]) -> list[int]:
        self.batches.append(values)
        return values

    @poise.batched(max=8)
    def give(self, values: list[Any]) -> list[Any]:
        """What a value says: an exception fails, a lock cannot be pickled, all else comes back."""
        self.batches.append(values)
        results: list[Any] = [threading.Lock() if value == "lock" else value for value in values]
        results = [Refuses() if value == "refuses" else value for value in results]
        return [poise.Failed(value) if isinstance(value, Exception) else value for value in results]

    @poise.batched(max=8)
    def keep(self, values: list[Any]) -> list[Any]:
        self.batches.append(values)
        return values

    @poise.batched(max=8)
    def give_what(self, whats: list[str]) -> list[Any]:
        if whats[0] == "raise":
            raise KeyError(len(whats))
        if whats[0] == "exit":
            raise SystemExit(len(whats))
        results: dict[str, Any] = {"short": whats[1:], "long": [*whats, "more"], "none": None, "tuple": tuple(whats)}
        results["array"] = np.zeros(len(whats))
        results["generator"] = (what for what in whats)
        returned: list[Any] = results[whats[0]]
        return returned

    @poise.batched(max=8)
    def hold_all(self, jobs: list[tuple[str, Any]]) -> list[Any]:
        with self.busy():
            wait_at(jobs[0][0], ",".join(str(job[1]) for job in jobs))
            return [job[1] for job in jobs]

    @poise.batched(max=8)
    async def hold_all_async(self, jobs: list[tuple[str, Any]]) -> list[Any]:
        try:
            await wait_at_async(jobs[0][0], ",".join(str(job[1]) for job in jobs))
        except asyncio.CancelledError:
            leave_mark(jobs[0][0], "cancelled")
            raise
        return [job[1] for job in jobs]

    @poise.batched(max=32)
    def die_of(self, jobs: list[tuple[str, int]]) -> list[int]:
        """Stop at what is negative, until the worker is killed."""
        gate = jobs[0][0]
        leave_mark(gate, " ".join(str(job[1]) for job in jobs))
        if any(job[1] < 0 for job in jobs):
            wait_at(gate, "dies")
        return [job[1] for job in jobs]

    def took(self) -> list[list[Any]]:
        taken, self.batches = self.batches, []
        return taken


@poise.batched(max=4)
def add_name(press: Press, values: list[int]) -> list[tuple[str, int, int]]:
    return [(press.name, len(values), value) for value in values]


@poise.batched(max=4)
def square(values: list[int]) -> list[tuple[int, int]]:
    return [(len(values), value * value) for value in values]


def local_function(factor: int) -> Callable[[int], tuple[int, int]]:
    @poise.batched(max=4)
    def times(values: list[int]) -> list[tuple[int, int]]:
        return [(len(values), value * factor) for value in values]

    return times


async def together(pool: poise.Pool[Any], gate: Gate, submit: Callable[[], list[poise.Call[Any]]]) -> list[Any]:
    """Submit calls while the only worker is held, so that they wait, and give what becomes of them."""
    before = len(gate.marks)
    held = pool.submit(Press.hold, gate.path)
    await gate.reached(before + 1)
    calls = submit()
    gate.open()
    await held
    return await outcomes(calls)


async def outcomes(calls: list[Any]) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


# ---------------------------------------------------------------------------------------------------------------------
# How they form


async def test_what_waits_goes_together_and_never_more_than_the_most(share_pool: SharePool, gate: Gate) -> None:
    async with share_pool(Press, size=1) as pool:
        await pool.run(Press.took)
        assert await together(pool, gate, lambda: [pool.submit(Press.double, n) for n in range(10)]) == [
            2 * n for n in range(10)
        ]
        assert await pool.run(Press.took) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_an_idle_worker_takes_what_is_there_at_once(share_pool: SharePool) -> None:
    async with share_pool(Press, size=1) as pool:
        await pool.run(Press.took)
        before = pool.stats().batches
        for number in range(3):
            assert await pool.run(Press.double, number) == 2 * number
        assert await pool.run(Press.took) == [[0], [1], [2]]
        assert pool.stats().batches == before


async def test_coroutines_are_batched_too(share_pool: SharePool, gate: Gate) -> None:
    async with share_pool(Press, size=1) as pool:
        await pool.run(Press.took)
        assert await together(pool, gate, lambda: [pool.submit(Press.double_async, n) for n in range(6)]) == [
            2 * n for n in range(6)
        ]
        assert await pool.run(Press.double_async, 7) == 14
        assert await pool.run(Press.took) == [[0, 1, 2, 3], [4, 5], [7]]


async def test_only_one_function_and_one_priority_go_together(share_pool: SharePool, gate: Gate) -> None:
    async with share_pool(Press, size=1) as pool:
        await pool.run(Press.took)
        urgent = pool.options(priority=1)

        def submit() -> list[poise.Call[Any]]:
            calls: list[poise.Call[Any]] = [pool.submit(Press.double, 1), pool.submit(Press.give, 2)]
            calls += [urgent.submit(Press.double, 3), pool.submit(Press.double, 4), pool.submit(Press.give, 5)]
            return calls

        assert await together(pool, gate, submit) == [2, 2, 6, 8, 5]
        assert await pool.run(Press.took) == [[3], [1, 4], [2, 5]]


async def test_calls_wait_for_company_only_if_told(share_pool: SharePool) -> None:
    async with share_pool(Press, size=2) as pool:
        await pool.broadcast(Press.took)
        calls = [pool.submit(Press.in_threes, n) for n in range(5)]
        assert await asyncio.gather(*calls[:3]) == [0, 1, 2]
        assert not calls[3].done()
        assert not calls[4].done()
        assert pool.stats().waiting == 2
        assert await asyncio.gather(*calls[3:], pool.submit(Press.in_threes, 5)) == [3, 4, 5]
        assert sorted(batch for took in await pool.broadcast(Press.took) for batch in took) == [[0, 1, 2], [3, 4, 5]]


async def test_nobody_waits_for_company_longer_than_told(share_pool: SharePool) -> None:
    async with share_pool(Press, size=1) as pool:
        await pool.run(Press.took)
        assert await pool.run(Press.briefly, 1) == 1
        assert await asyncio.gather(*(pool.run(Press.briefly, n) for n in range(3))) == [0, 1, 2]
        assert await pool.run(Press.took) == [[1], [0, 1, 2]]


async def test_one_that_waits_for_company_can_give_up_and_expire(share_pool: SharePool) -> None:  # G6
    async with share_pool(Press, size=1) as pool:
        await pool.run(Press.took)
        call = pool.submit(Press.patiently, 1)
        with pytest.raises(poise.DeadlineExceeded) as caught:
            await pool.options(timeout=0.05).run(Press.patiently, 2)
        assert not caught.value.started
        assert call.cancel()
        assert await pool.run(Press.took) == []


async def test_functions_travel_by_name_and_by_value(share_pool: SharePool, gate: Gate) -> None:
    async with share_pool(Press, size=1) as pool:
        name = await pool.run(Press.who)
        assert await together(pool, gate, lambda: [pool.submit(add_name, n) for n in range(3)]) == [
            (name, 3, n) for n in range(3)
        ]


async def test_functions_without_an_instance_are_batched(share_pool: SharePool) -> None:
    async with share_pool(None, size=1) as pool:
        for function, expected in ((square, [n * n for n in range(9)]), (local_function(5), [5 * n for n in range(9)])):
            results: list[tuple[int, int]] = await asyncio.gather(*(pool.run(function, n) for n in range(9)))
            assert [value for _, value in results] == expected
            assert Counter(count for count, _ in results) == {1: 1, 4: 8}


async def test_map_keeps_enough_of_them_out(share_pool: SharePool) -> None:
    async with share_pool(Press, size=1) as pool:
        await pool.run(Press.took)
        assert [x async for x in pool.map(Press.double, range(21))] == [2 * n for n in range(21)]
        sizes = [len(batch) for batch in await pool.run(Press.took)]
        assert sum(sizes) == 21
        assert max(sizes) == 4


async def test_a_lease_gathers_what_is_submitted_to_it(share_pool: SharePool, gate: Gate) -> None:
    async with share_pool(Press, size=1) as pool:
        await pool.run(Press.took)
        async with pool.lease() as worker:
            others = [pool.submit(Press.double, 100)]
            held = worker.submit(Press.hold, gate.path)
            await gate.reached()
            calls = [worker.submit(Press.double, n) for n in range(3)]
            gate.open()
            await held
            assert await asyncio.gather(*calls) == [0, 2, 4]
        assert await asyncio.gather(*others) == [200]
        assert await pool.run(Press.took) == [[0, 1, 2], [100]]


async def test_each_slot_has_a_batch_of_its_own(open_pool: OpenPool, gate: Gate) -> None:  # G3
    async with open_pool(Press, size=1, concurrency=2) as pool:
        calls = [pool.submit(Press.hold_all, (gate.path, n)) for n in range(6)]
        await gate.reached(2)
        stats = pool.stats()
        assert (stats.running, stats.waiting, stats.free_slots) == (2, 4, 0)
        gate.open()
        assert await asyncio.gather(*calls) == list(range(6))
        assert await pool.run(Press.witness) == (await pool.run(Press.who), 2, 3)
        assert sorted(gate.marks) == ["0", "1", "2,3,4,5"]
        assert (pool.stats().batches, pool.stats().batched) == (1, 4)


# ---------------------------------------------------------------------------------------------------------------------
# To each its own


async def test_one_failed_value_fails_its_caller_alone(share_pool: SharePool, gate: Gate) -> None:  # G9
    async with share_pool(Press, size=1) as pool:
        values: list[Any] = [1, ValueError("mine"), 3]
        got = await together(pool, gate, lambda: [pool.submit(Press.give, value) for value in values])
        assert (got[0], repr(got[1]), got[2]) == (1, "ValueError('mine')", 3)
        with pytest.raises(ValueError, match="mine"):
            await pool.run(Press.give, ValueError("mine"))


async def test_what_cannot_travel_is_the_trouble_of_its_caller_alone(share_pool: SharePool, gate: Gate) -> None:  # G9
    async with share_pool(Press, size=1) as pool:
        await pool.run(Press.took)
        values: list[Any] = [1, threading.Lock(), "lock", Refuses(), "refuses", 6]
        got = await together(pool, gate, lambda: [pool.submit(Press.give, value) for value in values])
        assert (got[0], got[5]) == (1, 6)
        assert all(isinstance(error, poise.PayloadError) for error in got[1:5]), got
        assert [error.what for error in got[1:5]] == ["argument 1", "the result", "the arguments", "the result"]
        assert [error.started for error in got[1:5]] == [False, True, False, True]
        assert await pool.run(Press.took) == [[1, "lock", "refuses", 6]]


async def test_what_it_raises_all_of_them_get_each_for_himself(share_pool: SharePool, gate: Gate) -> None:  # G10
    async with share_pool(Press, size=1) as pool:
        got = await together(pool, gate, lambda: [pool.submit(Press.give_what, "raise") for _ in range(3)])
        assert [repr(error) for error in got] == ["KeyError(3)"] * 3
        assert len({id(error) for error in got}) == 3
        assert all("give_what" in str(error.__cause__) for error in got)
        assert "batching.py" not in str(got[0].__cause__)
        with pytest.raises(poise.RemoteError, match="SystemExit"):
            await pool.run(Press.give_what, "exit")


@pytest.mark.parametrize(
    ("what", "returned"),
    [("short", 1), ("long", 3), ("none", None), ("tuple", None), ("array", None), ("generator", None)],
)
async def test_no_list_of_the_right_length_is_an_error_for_all(
    share_pool: SharePool, gate: Gate, what: str, returned: int | None
) -> None:
    async with share_pool(Press, size=1) as pool:
        got = await together(pool, gate, lambda: [pool.submit(Press.give_what, what) for _ in range(2)])
        assert all(isinstance(error, poise.BatchError) for error in got), got
        assert [(error.function, error.expected, error.returned) for error in got] == [
            ("Press.give_what", 2, returned)
        ] * 2
        assert "poise.Failed(error)" in str(got[0])
        with pytest.raises(poise.BatchError, match="1 value"):
            await pool.run(Press.give_what, what)


async def test_large_values_and_arrays_travel_in_batches(share_pool: SharePool, gate: Gate) -> None:
    async with share_pool(Press, size=1) as pool:
        await pool.run(Press.took)
        values: list[Any] = [np.arange(10), b"x" * 200_000, np.ones(3_000_000), "y" * 100_000, list(range(100_000))]
        got = await together(pool, gate, lambda: [pool.submit(Press.keep, value) for value in values])
        for value, result in zip(values, got, strict=True):
            assert type(result) is type(value)
            assert np.array_equal(result, value) if isinstance(value, np.ndarray) else result == value
        assert [len(batch) for batch in await pool.run(Press.took)] == [5]
        got[0][0] = 1  # a small array may be written to, as everywhere


async def test_results_are_each_callers_own(share_pool: SharePool, gate: Gate) -> None:
    async with share_pool(Press, size=1) as pool:
        one: list[int] = []
        first, second = await together(pool, gate, lambda: [pool.submit(Press.keep, one) for _ in range(2)])
        first.append(1)
        assert second == []


async def test_references_go_alone_and_arrive_as_values(share_pool: SharePool, gate: Gate, shared_ray: None) -> None:
    async with share_pool(Press, size=1) as pool:
        await pool.run(Press.took)
        ref = ray.put(7)
        got = await together(pool, gate, lambda: [pool.submit(Press.keep, value) for value in (1, ref, [ref], 4)])
        assert (got[0], got[1], got[3]) == (1, 7, 4)
        assert ray.get(got[2]) == [7]
        assert sorted(len(batch) for batch in await pool.run(Press.took)) == [1, 3]


async def test_a_value_that_nobody_waits_for_leaves_the_batch(share_pool: SharePool, gate: Gate) -> None:
    async with share_pool(Press, size=1) as pool:
        await pool.run(Press.took)

        def submit() -> list[poise.Call[Any]]:
            calls = [pool.submit(Press.double, n) for n in range(4)]
            calls[1].cancel()
            return calls

        got = await together(pool, gate, submit)
        assert (got[0], type(got[1]), got[2:]) == (0, asyncio.CancelledError, [4, 6])
        assert await pool.run(Press.took) == [[0, 2, 3]]


async def holding(pool: poise.Pool[Press], gate: Gate, method: Any) -> list[poise.Call[Any]]:
    """A batch of three that runs until the gate is open."""
    first = Gate(gate.path + "-first")  # type: ignore[arg-type]
    held = pool.submit(Press.hold, first.path)
    await first.reached()
    calls = [pool.submit(method, (gate.path, n)) for n in range(3)]
    first.open()
    await held
    await gate.reached()
    assert gate.marks == ["0,1,2"]
    return calls


@pytest.mark.parametrize("method", [Press.hold_all, Press.hold_all_async])
async def test_giving_one_up_leaves_the_others_alone(share_pool: SharePool, gate: Gate, method: Any) -> None:
    async with share_pool(Press, size=1) as pool:
        calls = await holding(pool, gate, method)
        calls[0].cancel()
        stats = pool.stats()
        assert (stats.running, stats.abandoned, stats.free_slots) == (2, 1, 0)
        assert (stats.workers[0].running, stats.workers[0].shared, stats.workers[0].load) == (3, 2, 1.0)
        gate.open()
        assert await asyncio.gather(*calls[1:]) == [1, 2]
        assert gate.marks == ["0,1,2"]


async def test_a_coroutine_is_cancelled_when_all_have_given_up(share_pool: SharePool, gate: Gate) -> None:
    async with share_pool(Press, size=1) as pool:
        calls = await holding(pool, gate, Press.hold_all_async)
        for call in calls:
            call.cancel()
        if pool.stats().workers[0].lane != "":
            await gate.reached(2)
        assert gate.marks == ["0,1,2", "cancelled"]
        await is_idle(pool)


async def test_each_has_a_deadline_of_its_own(share_pool: SharePool, gate: Gate) -> None:  # G6
    async with share_pool(Press, size=1, kill_after=0.05) as pool:
        hasty = pool.options(timeout=0.2)
        got: list[poise.Call[Any]] = []
        first = Gate(gate.path + "-first")  # type: ignore[arg-type]
        held = pool.submit(Press.hold, first.path)
        await first.reached()
        got += [pool.submit(Press.hold_all, (gate.path, 0)), hasty.submit(Press.hold_all, (gate.path, 1))]
        first.open()
        await held
        with pytest.raises(poise.DeadlineExceeded) as caught:
            await got[1]
        assert caught.value.timeout == 0.2
        await asyncio.sleep(0.1)  # past `kill_after`: the worker lives, because the other is awaited
        gate.open()
        assert await got[0] == 0


# ---------------------------------------------------------------------------------------------------------------------
# Deaths


async def kill_when_told(pool: poise.Pool[Any], crash: Crash, gate: Gate) -> None:
    """Kill the worker each time that a call says that it is to die."""
    deaths = 0
    while True:
        if gate.marks.count("dies") > deaths:
            deaths += 1
            for worker in pool.stats().workers:
                if worker.running:
                    crash(pool, worker.id)
        await asyncio.sleep(0.002)


async def die(pool: poise.Pool[Any], view: poise.View[Any], crash: Crash, gate: Gate, jobs: list[int]) -> list[Any]:
    first = Gate(gate.path + "-first")  # type: ignore[arg-type]
    held = pool.submit(Press.hold, first.path)
    await first.reached()
    killing = asyncio.create_task(kill_when_told(pool, crash, gate))
    try:
        calls = [view.submit(Press.die_of, (gate.path, job)) for job in jobs]
        first.open()
        await held
        return await outcomes(calls)
    finally:
        killing.cancel()
        await asyncio.wait([killing])


def sizes(gate: Gate) -> list[int]:
    return [len(mark.split()) for mark in gate.marks if mark != "dies"]


async def test_a_batch_that_kills_its_worker_is_halved_to_find_the_culprit(
    open_pool: OpenPool, crash: Crash, gate: Gate
) -> None:  # G2, G9
    async with open_pool(Press, size=1) as pool:
        jobs = [0, -1, 2, 3]
        got = await die(pool, pool.options(retries=2, retry_delay=0), crash, gate, jobs)
        assert [value for value in got if isinstance(value, int)] == [0, 2, 3]
        assert isinstance(got[1], poise.PoisonCall)
        assert (got[1].deaths, got[1].function) == (3, "Press.die_of")
        assert sorted(sizes(gate)) == [1, 1, 2, 2, 4]
        assert pool.stats().deaths == 3


async def test_with_one_retry_each_is_tried_once_more_alone(open_pool: OpenPool, crash: Crash, gate: Gate) -> None:
    async with open_pool(Press, size=1) as pool:
        got = await die(pool, pool.options(retries=1), crash, gate, [0, -1, 2])
        assert (got[0], type(got[1]), got[2]) == (0, poise.WorkerLost, 2)
        assert sizes(gate) == [3, 1, 1, 1]


async def test_without_retries_none_of_them_runs_twice(open_pool: OpenPool, crash: Crash, gate: Gate) -> None:  # G2
    async with open_pool(Press, size=1) as pool:
        got = await die(pool, pool, crash, gate, [0, -1, 2])
        assert [type(error) for error in got] == [poise.WorkerLost] * 3
        assert sizes(gate) == [3]
        assert await pool.run(Press.double, 4) == 8


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


async def test_a_batched_function_takes_one_value(share_pool: SharePool) -> None:
    double: Any = Press.double  # which type checkers would refuse
    refused: list[Callable[[poise.Pool[Any]], Awaitable[Any]]] = [
        lambda pool: pool.run(double, 1, 2),
        lambda pool: pool.run(double),
        lambda pool: pool.run(double, values=[1]),
        lambda pool: anext(pool.stream(double, 1)),
    ]
    async with share_pool(Press, size=1) as pool:
        for refuse in refused:
            with pytest.raises(poise.ConfigError, match="batched"):
                await refuse(pool)
        with pytest.raises(poise.ConfigError, match="such as a tuple"):
            await pool.run(double, 1, 2)
        assert await pool.run("double", 4) == 8  # by its name it is not known to be batched, and goes alone
