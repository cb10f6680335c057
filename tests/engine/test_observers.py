"""Who observes a pool hears of everything once, in order, and cannot hurt it."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

import poise
from poise import events
from poise.testing import Faults, LocalPool, ManualClock
from tests.gate import Gate, wait_at
from tests.hearing import Everything

if TYPE_CHECKING:
    from collections.abc import Callable


class Model:
    def predict(self, x: int) -> int:
        return x * 2

    def fail(self) -> None:
        raise LookupError("no such thing")


class Ends(poise.Observer):
    def __init__(self) -> None:
        self.heard: list[events.CallEnded] = []

    def call_ended(self, event: events.CallEnded, /) -> None:
        self.heard.append(event)


async def test_a_life_is_told_from_opening_to_end() -> None:
    ear = Everything()
    async with LocalPool(Model, size=2, min_ready=2, observers=[ear]) as pool:
        assert await pool.run(Model.predict, 2) == 4
        assert ear.kinds() == [
            "PoolOpening",
            *("WorkerStarting", "WorkerStarting", "WorkerReady", "WorkerReady", "PoolWhole"),
            *("CallAdmitted", "CallGranted", "CallBegun", "CallEnded"),
        ]
    assert ear.kinds()[-3:] == ["WorkerRetired", "WorkerRetired", "PoolEnded"]
    assert {event.pool for event in ear.heard} == {"Model"}
    assert [event.at for event in ear.heard] == sorted(event.at for event in ear.heard)
    (end,) = ear.of(events.CallEnded)
    assert (end.call, end.function, end.attempt, end.outcome, end.error) == (1, "Model.predict", 1, "returned", None)
    assert end.worker in (0, 1)
    assert min(end.waiting, end.travelling, end.running) >= 0
    (admitted,) = ear.of(events.CallAdmitted)
    assert end.waiting + end.travelling + end.running == pytest.approx(end.at - admitted.at, abs=0.01)


async def test_what_nobody_wants_to_hear_of_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = Ends()

    def refuse(*_: Any) -> None:
        raise AssertionError("nobody has asked for it")

    for kind in ("CallAdmitted", "CallGranted", "CallBegun"):
        monkeypatch.setattr(f"poise._core.observed.{kind}.__new__", refuse)
    async with LocalPool(Model, size=1, observers=[ends]) as pool:
        call = pool.submit(Model.predict, 1)
        assert "Observed" in type(call.record).__name__
        assert await call == 2
        pool.remove_observer(ends)
        call = pool.submit(Model.predict, 1)
        assert "Observed" not in type(call.record).__name__
        assert await call == 2
    assert [end.outcome for end in ends.heard] == ["returned"]


async def test_one_that_raises_is_logged_once_and_hears_no_more(caplog: pytest.LogCaptureFixture) -> None:
    class Bad(Ends):
        def call_ended(self, event: events.CallEnded, /) -> None:
            super().call_ended(event)
            raise ZeroDivisionError("a fault of the observer's")

    bad, good = Bad(), Ends()
    async with LocalPool(Model, size=1, observers=[bad, good]) as pool:
        with caplog.at_level(logging.ERROR, "poise"):
            for number in range(3):
                assert await pool.run(Model.predict, number) == 2 * number
    assert (len(bad.heard), len(good.heard)) == (1, 3)
    assert [record.getMessage() for record in caplog.records if "observes it no more" in record.getMessage()] == [
        f"pool of Model: {bad!r} has failed, and observes it no more"
    ]
    assert "a fault of the observer's" in caplog.text


async def test_one_may_come_and_go_while_the_pool_works_from_any_thread() -> None:
    ends = Ends()
    async with LocalPool(Model, size=1) as pool:
        await pool.run(Model.predict, 1)
        await asyncio.to_thread(pool.add_observer, ends)
        pool.add_observer(ends)
        await pool.run(Model.predict, 2)
        await asyncio.to_thread(pool.remove_observer, ends)
        pool.remove_observer(ends)
        await pool.run(Model.predict, 3)
    assert [end.call for end in ends.heard] == [2]


async def test_one_may_come_before_the_pool_is_open() -> None:
    ear = Everything()
    pool = LocalPool(Model, size=1)
    pool.add_observer(ear)
    async with pool:
        pass
    assert ear.kinds() == ["PoolOpening", "WorkerStarting", "WorkerReady", "PoolWhole", "WorkerRetired", "PoolEnded"]


async def test_one_may_call_the_pool_it_observes() -> None:
    class Curious(Ends):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[asyncio.Future[int]] = []

        def call_ended(self, event: events.CallEnded, /) -> None:
            super().call_ended(event)
            if len(self.calls) < 3:
                self.calls.append(pool.submit(Model.predict, 10))

    curious = Curious()
    async with LocalPool(Model, size=1, observers=[curious]) as pool:
        await pool.run(Model.predict, 1)
        await pool.until(lambda stats: stats.completed == 4)
        assert await asyncio.gather(*curious.calls) == [20, 20, 20]
    assert len(curious.heard) == 4


async def test_the_times_of_a_call_are_those_that_it_waited_travelled_and_ran(gate: Gate) -> None:
    clock, ends = ManualClock(), Ends()
    async with LocalPool(size=1, clock=clock, observers=[ends]) as pool:
        first = pool.submit(wait_at, gate.path)
        second = pool.submit(abs, -1)
        await gate.reached()
        await clock.advance(3.0)
        gate.open()
        await asyncio.gather(first, second)
    one, other = ends.heard
    assert one.waiting == 0.0
    assert one.travelling + one.running == pytest.approx(3.0)
    assert other.waiting == pytest.approx(3.0, abs=0.5)  # a worker has a clock of its own
    assert other.waiting + other.travelling + other.running == pytest.approx(3.0)


async def test_a_call_that_is_given_up_ends_at_once_and_is_released_later(gate: Gate) -> None:  # G3
    ear = Everything()
    async with LocalPool(size=1, observers=[ear]) as pool:
        with pytest.raises(poise.DeadlineExceeded):
            await pool.options(timeout=0.02).run(wait_at, gate.path)
        cancelled = pool.submit(abs, -1)
        cancelled.cancel()
        gate.open()
        await pool.until(lambda stats: not stats.abandoned)
    ends = ear.of(events.CallEnded)
    assert [(end.outcome, end.error, end.is_abandoned) for end in ends] == [
        ("expired", poise.DeadlineExceeded, True),
        ("cancelled", None, False),
    ]
    assert [released.call for released in ear.of(events.CallReleased)] == [1]


async def test_a_refused_call_is_told_as_that_alone(gate: Gate) -> None:
    ear = Everything()
    async with LocalPool(size=1, backlog=0, observers=[ear]) as pool:
        held = pool.submit(wait_at, gate.path)
        with pytest.raises(poise.Overloaded):
            pool.options(tenant="somebody").submit(abs, 2)
        gate.open()
        await held
    assert [(refused.function, refused.error) for refused in ear.of(events.CallRefused)] == [("abs", poise.Overloaded)]
    assert len(ear.of(events.CallAdmitted)) == len(ear.of(events.CallEnded)) == 1


async def test_a_death_says_its_cause_and_a_retry_that_it_is_one() -> None:
    ear, faults = Everything(), Faults()
    async with LocalPool(Model, size=1, faults=faults, observers=[ear]) as pool:
        faults.die(function=Model.predict)
        assert await pool.options(retries=1, retry_delay=0).run(Model.predict, 1) == 2
        with pytest.raises(LookupError):
            await pool.run(Model.fail)
    (death,) = ear.of(events.WorkerDied)
    assert (death.worker, death.cause, death.functions) == (0, "crash", ("Model.predict",))
    assert death.replaced_in is not None
    assert [(back.worker, back.attempt, back.is_retry) for back in ear.of(events.CallPutBack)] == [(0, 1, True)]
    ends = ear.of(events.CallEnded)
    assert [(end.worker, end.attempt, end.outcome, end.error) for end in ends] == [
        (1, 2, "returned", None),
        (1, 1, "raised", LookupError),
    ]
    assert len(ear.of(events.PoolWhole)) == 2


async def test_a_pool_that_breaks_says_so_once_and_a_killed_worker_why() -> None:
    ear, faults, clock = Everything(), Faults(), ManualClock()
    async with LocalPool(Model, size=1, faults=faults, clock=clock, kill_after=1.0, observers=[ear]) as pool:
        faults.hang(function=Model.predict)
        call = pool.options(timeout=1.0).submit(Model.predict, 1)
        await faults.happened()
        faults.refuse_start(100, cause=ValueError("no weights"))
        await clock.advance(2.0)
        with pytest.raises(poise.DeadlineExceeded):
            await call
        while pool.state != "broken":
            await clock.advance(0.5)
        faults.clear()
        await clock.advance(31.0)
        await pool.until(lambda stats: stats.ready == 1)
    causes = [death.cause for death in ear.of(events.WorkerDied)]
    assert causes[0] == "kill"
    assert set(causes[1:]) == {"start"}
    (broke,) = ear.of(events.PoolBroke)
    assert "no weights" in broke.reason
    assert not broke.is_final
    assert len(ear.of(events.PoolWhole)) == 2


async def test_replacing_and_resizing_are_told() -> None:
    ear = Everything()
    async with LocalPool(Model, size=1, observers=[ear]) as pool:
        new = await pool.replace(0)
        await pool.until(lambda stats: len(stats.workers) == 1)
        await pool.resize(2)
        await pool.until_ready()
    (change,) = ear.of(events.WorkerReplacing)
    assert (change.worker, change.heir, change.is_heir_first) == (0, new, True)
    assert [start.is_spare for start in ear.of(events.WorkerStarting)] == [False, True, False]
    first, *others = [gone.worker for gone in ear.of(events.WorkerRetired)]
    assert (first, sorted(others)) == (0, [1, 2])
    assert [whole.size for whole in ear.of(events.PoolWhole)] == [1, 2]


async def test_a_worker_that_is_not_wanted_any_more_before_it_has_started_is_told_of_too() -> None:
    ear = Everything()
    async with LocalPool(Model, size=1, observers=[ear]) as pool:
        pool.launcher.hold()
        await pool.resize(3)
        await pool.resize(1)
    starts = [start.worker for start in ear.of(events.WorkerStarting)]
    assert sorted(gone.worker for gone in ear.of(events.WorkerRetired)) == starts == [0, 1, 2]


async def test_a_lease_is_told_as_a_call() -> None:
    ear = Everything()
    async with LocalPool(Model, size=1, observers=[ear]) as pool, pool.lease() as worker:
        await worker.run(Model.predict, 1)
    ends = [(end.function, end.outcome, end.attempt) for end in ear.of(events.CallEnded)]
    assert ends == [("Model.predict", "returned", 1), ("lease", "returned", 1)]


@poise.batched(max=10)
def double(values: list[int]) -> list[int]:
    return [value * 2 for value in values]


async def test_each_call_of_a_batch_ran_as_long_as_the_batch(gate: Gate) -> None:
    ends = Ends()
    async with LocalPool(size=1, observers=[ends]) as pool:
        held = pool.submit(wait_at, gate.path)
        calls = [pool.submit(double, number) for number in range(4)]
        await gate.reached()
        gate.open()
        await asyncio.gather(held, *calls)
        assert pool.stats().batches == 1
        (worker,) = pool.stats().workers
    batch = [end.running for end in ends.heard if end.function != "wait_at"]
    assert len(set(batch)) == 1
    assert sum(end.running for end in ends.heard if end.function == "wait_at") + batch[0] == pytest.approx(
        worker.busy, abs=0.001
    )


def test_an_executor_tells_on_a_thread_of_its_own() -> None:
    class Where(Ends):
        def __init__(self) -> None:
            super().__init__()
            self.threads: set[int] = set()

        def call_ended(self, event: events.CallEnded, /) -> None:
            super().call_ended(event)
            self.threads.add(threading.get_ident())

    from poise.testing import local_pools

    where, later = Where(), Where()
    with local_pools(), poise.Executor(max_workers=1, observers=[where]) as executor:
        assert executor.submit(abs, -1).result() == 1
        executor.add_observer(later)
        assert executor.submit(abs, -2).result() == 2
        executor.remove_observer(later)
        assert executor.submit(abs, -3).result() == 3
    assert (len(where.heard), len(later.heard)) == (3, 1)
    assert threading.get_ident() not in where.threads


class Awaited(poise.Observer):
    async def call_ended(self, event: events.CallEnded) -> None:  # type: ignore[override]
        """Never run."""


@pytest.mark.parametrize("observers", [[print], [poise.Observer], 3, [Awaited()]])
def test_what_is_no_observer_is_refused(observers: Any) -> None:
    with pytest.raises(poise.ConfigError, match="observer"):
        poise.Pool(observers=observers)


class Misspelt(poise.Observer):
    def call_end(self, event: events.CallEnded) -> None:
        """Never called."""


class Camel(poise.Observer):
    def workerDied(self, event: events.WorkerDied) -> None:  # noqa: N802 (as its author writes elsewhere)
        """Never called."""


class Handler(poise.Observer):
    def on_pool_whole(self, event: events.PoolWhole) -> None:
        """Never called."""


class Heir(Misspelt):
    def pool_of_mine(self) -> None:
        """No event's."""


@pytest.mark.parametrize(
    ("observer", "said"),
    [
        (Misspelt(), "no event has a method call_end: did you mean call_ended?"),
        (Camel(), "no event has a method workerDied: did you mean worker_died?"),
        (Handler(), "no event has a method on_pool_whole: did you mean pool_whole?"),
        (Heir(), "no event has a method pool_of_mine: .* such as _pool_of_mine"),
    ],
)
def test_a_method_that_no_event_has_is_refused_with_the_name_that_was_meant(
    observer: poise.Observer, said: str
) -> None:
    with pytest.raises(poise.ConfigError, match=said):
        poise.Pool(observers=[observer])
    with pytest.raises(poise.ConfigError, match=said):
        LocalPool(size=1).add_observer(observer)


class Mixed:
    def call_mother(self) -> None:
        """A mixin knows nothing of observers."""


class Helped(Mixed, Ends):
    pool_name = "mine"

    def _call_of(self) -> None:
        """A helper."""

    def report(self) -> None:
        """Another."""


def test_helpers_of_its_own_are_an_observers_own_business() -> None:
    LocalPool(size=1, observers=[Helped()]).add_observer(Helped())


def test_each_event_has_a_method_and_each_method_an_event() -> None:
    from poise._engine.observers import METHODS

    named = {name for name in vars(poise.Observer) if name.startswith(("call_", "worker_", "pool_"))}
    assert named == set(METHODS.values())
    assert {METHODS[kind] for kind in METHODS} == named
    for kind, name in METHODS.items():
        hints: Callable[..., Any] = getattr(poise.Observer, name)
        assert hints.__annotations__["event"] == kind.__name__
