"""Calls that have failed on some workers and wait for another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from poise._core.backlog import Backlog

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Iterator

    from poise._core.alarms import Line
    from poise._core.calls import CallId, CallRecord
    from poise._core.workers import WorkerId

_Kind: TypeAlias = "tuple[frozenset[WorkerId], bool]"


class Wary:
    """Calls that avoid workers, in one queue for each set of workers that is avoided: few are sick at one time."""

    __slots__ = ("_line", "_queues", "calls")

    def __init__(self, line: Line[CallRecord]) -> None:
        self._line = line
        self.calls: OrderedDict[CallId, CallRecord] = line.watched
        """Every call, by how long it has waited."""
        self._queues: dict[_Kind, Backlog] = {}
        """Invariant: the same calls, by whom they avoid and whether they need a whole worker; no queue is empty."""

    def add(self, call: CallRecord) -> None:
        """Let a call wait for a worker that it does not avoid."""
        self._line.put(call, call.waits_since)
        self._queues.setdefault(_kind(call), Backlog()).add(call)

    def discard(self, call: CallRecord) -> None:
        """Take a call out."""
        self._line.forget(call)
        kind = _kind(call)
        queue = self._queues[kind]
        queue.discard(call)
        if not queue:
            del self._queues[kind]

    def next_like(self, call: CallRecord) -> CallRecord | None:
        """The next call that avoids the same workers and may be in a batch with this one, or None."""
        queue = self._queues.get(_kind(call))
        return None if queue is None else queue.next_like(call)

    def heads(self) -> Iterator[CallRecord]:
        """The call that is next in each queue."""
        for queue in self._queues.values():
            first = queue.first()
            assert first is not None
            yield first

    def pop_tired(self, now: float) -> Iterator[CallRecord]:
        """Take out each call that has waited for long enough."""
        while (call := self._line.due(now)) is not None:
            self.discard(call)
            yield call

    def check_invariants(self) -> None:
        """Check what is stated at the fields; for tests."""
        for kind, queue in self._queues.items():
            queue.check_invariants()
            assert queue
            for call in queue:
                assert call.avoids, call
                assert _kind(call) == kind, call
                assert self.calls[call.id] is call
        assert sum(map(len, self._queues.values())) == len(self.calls)


def _kind(call: CallRecord) -> _Kind:
    return call.avoids, call.needs_whole_worker
