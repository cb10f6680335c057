"""Calls that have failed on some workers and wait for another one."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeAlias

from poise._core.backlog import Backlog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poise._core.calls import CallId, CallRecord
    from poise._core.workers import WorkerId

WARY_FOR: Final = 30.0
"""Seconds for which a call waits for a worker where it has not failed; after that any will do, so that none waits for
ever beside a free worker, whatever holds the others."""

_Kind: TypeAlias = "tuple[frozenset[WorkerId], bool]"


class Wary:
    """Calls that avoid workers, in one queue for each set of workers that is avoided: few are sick at one time."""

    __slots__ = ("_queues", "calls")

    def __init__(self) -> None:
        self.calls: OrderedDict[CallId, CallRecord] = OrderedDict()
        """Every call, in the order in which they came here, which `since` tells."""
        self._queues: dict[_Kind, Backlog] = {}
        """Invariant: the same calls, by whom they avoid and whether they need a whole worker; no queue is empty."""

    def add(self, call: CallRecord) -> None:
        """Let a call wait for a worker that it does not avoid."""
        self.calls[call.id] = call
        self._queues.setdefault(_kind(call), Backlog()).add(call)

    def discard(self, call: CallRecord) -> None:
        """Take a call out."""
        del self.calls[call.id]
        kind = _kind(call)
        queue = self._queues[kind]
        queue.discard(call)
        if not queue:
            del self._queues[kind]

    def heads(self) -> Iterator[CallRecord]:
        """The call that is next in each queue."""
        for queue in self._queues.values():
            first = queue.first()
            assert first is not None
            yield first

    def next_tired(self) -> float:
        """When the first call will have waited for long enough, `math.inf` if none waits."""
        return next(iter(self.calls.values())).since + WARY_FOR if self.calls else math.inf

    def pop_tired(self, now: float) -> Iterator[CallRecord]:
        """Take out each call that has waited for long enough."""
        while self.next_tired() <= now:
            call = next(iter(self.calls.values()))
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
        came = [call.since for call in self.calls.values()]
        assert came == sorted(came)


def _kind(call: CallRecord) -> _Kind:
    return call.avoids, call.needs_whole_worker
