"""Batches: calls of one function that begin together, in one slot of a worker.

A batch is formed where the calls wait, at the moment at which one of them is given a slot: it takes along those behind
it that wait for the same function with the same priority. So none of them waits for company, unless its function asks
for that (`Gathering`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from poise._core.attempts import Attempt
from poise._core.effects import SendBatch
from poise._core.retry import RetryInPart
from poise._core.states import ABANDONED, GRANT, WAITING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from poise._core.alarms import Times
    from poise._core.calls import CallId, CallRecord
    from poise._core.counters import Counters
    from poise._core.effects import Outbox
    from poise._core.outcomes import Outcomes
    from poise._core.queues import Queues
    from poise._core.workers import WorkerRecord


class Batching:
    """What a batched function asks for. Its calls have this as their `function`: others have nothing of it at all."""

    __slots__ = ("max", "wait")

    def __init__(self, most: int, wait: float) -> None:
        self.max: int = most
        """The most calls in one batch."""
        self.wait: float = wait
        """Seconds for which a new call may wait for company though a worker is free."""


class Batch:
    """Several calls in one slot, which is free when the last of them has been answered."""

    __slots__ = ("_luck", "calls", "overdue", "overdue_at")

    def __init__(self, calls: Sequence[CallRecord]) -> None:
        self.calls: dict[CallId, CallRecord] = {call.id: call for call in calls}
        """Those that were not answered yet."""
        self.overdue: CallRecord | None = None
        """One of them that has overrun its time, for which the worker is not ended while others are awaited."""
        self.overdue_at: float = 0.0
        self._luck: float | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether a caller still waits for one of them."""
        return any(call.state is not ABANDONED for call in self.calls.values())

    def chance(self, draw: Callable[[], float]) -> float:
        """One chance for all of them, so that calls which lost their worker together pause for the same time."""
        if self._luck is None:
            self._luck = draw()
        return self._luck

    def part(self, attempts: int) -> int:
        """How many of them may run together after their worker has died: half, to find the one that killed it.

        Less if so many further attempts would not do to get to one alone: the last is made alone.
        """
        return min((len(self.calls) + 1) // 2, 1 << min(attempts - 1, 32))


class Batches:
    """Forms batches, and takes them apart."""

    __slots__ = ("_counters", "_outbox", "_outcomes", "_queues")

    def __init__(self, queues: Queues, outcomes: Outcomes, outbox: Outbox) -> None:
        self._queues = queues
        self._outcomes = outcomes
        self._outbox = outbox
        self._counters: Counters = outcomes.counters

    def form(self, first: CallRecord, worker: WorkerRecord, now: float) -> Sequence[CallRecord]:
        """Let calls that wait go along with one that was just given a slot, and return them: if any, all are sent.

        A suspect goes with suspects alone, and each with no more of them than it may have beside it.
        """
        calls, most = [first], most_beside(first)
        while len(calls) < most and (call := self._queues.next_like(first, worker)) is not None:
            if call.deadline <= now:
                self._outcomes.expire(call)
                continue
            if (most := min(most, most_beside(call))) <= len(calls):
                break
            self._queues.take_out(call)
            call.attempt = attempt = Attempt(worker, now)
            attempt.may_have_begun = True
            call.step(GRANT)
            calls.append(call)
        if len(calls) == 1:
            return ()
        worker.batches.update(dict.fromkeys((call.id for call in calls), Batch(calls)))
        self._counters.batches += 1
        self._counters.batched += len(calls)
        self._outbox.add(SendBatch(worker.id, calls))
        return calls[1:]


def most_beside(call: CallRecord) -> int:
    """How many calls may be in a batch with this one, itself among them."""
    assert isinstance(call.function, Batching)
    most = call.function.max
    return min(most, call.retry.most_beside) if isinstance(call.retry, RetryInPart) else most


class Gathering:
    """Calls that wait for company, one group for each batched function and priority, until it is full or time is up."""

    __slots__ = ("_groups", "_times", "calls")

    def __init__(self, times: Times[CallRecord]) -> None:
        self._times = times
        self.calls: dict[CallId, CallRecord] = times.watched
        """Every call."""
        self._groups: dict[tuple[object, int], dict[CallId, CallRecord]] = {}
        """Invariant: the same calls, none of them with more than its function allows; no group is empty."""

    def add(self, call: CallRecord, until: float) -> bool:
        """Let a call wait for company until then; True if it was the last that there is room for."""
        group = self._groups.setdefault((call.function, call.priority), {})
        group[call.id] = call
        self._times.add(call, until)
        return len(group) == most_beside(call)

    def discard(self, call: CallRecord) -> None:
        """Take a call out."""
        self._times.forget(call)
        group = self._groups[call.function, call.priority]
        del group[call.id]
        if not group:
            del self._groups[call.function, call.priority]

    def next_like(self, call: CallRecord) -> CallRecord | None:
        """The first call that may be in a batch with this one."""
        group = None if call.deaths else self._groups.get((call.function, call.priority))
        return None if group is None else next(iter(group.values()))

    def pop_group(self, call: CallRecord) -> Iterator[CallRecord]:
        """Take out all that wait with a call, or would."""
        for each in list(self._groups.get((call.function, call.priority), {}).values()):
            self.discard(each)
            yield each

    def pop_due(self, now: float) -> Iterator[CallRecord]:
        """Take out every call of each group of which one's time is up."""
        for call in self._times.pop_due(now):
            yield from self.pop_group(call)

    def check_invariants(self) -> None:
        """Check what is stated at the fields; for tests."""
        assert {call_id for group in self._groups.values() for call_id in group} == self.calls.keys()
        for (function, priority), group in self._groups.items():
            assert group
            for call in group.values():
                assert (call.function, call.priority) == (function, priority), call
                assert call.state is WAITING, call
                assert len(group) < most_beside(call), call
