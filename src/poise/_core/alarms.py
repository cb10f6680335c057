"""Times at which something is to happen to calls."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poise._core.calls import CallId, CallRecord


class Deadlines:
    """A time for each of some calls. Adding, forgetting and popping one cost O(log n) at most, amortised."""

    __slots__ = ("_calls", "_heap")

    def __init__(self) -> None:
        self._calls: dict[CallId, CallRecord] = {}
        """The watched calls: one that has ended is forgotten at once, so that nothing here keeps it alive."""
        self._heap: list[tuple[float, CallId]] = []
        """Their times, and those of forgotten calls, which are skipped, and cleared out once they are the most."""

    def __len__(self) -> int:
        """How many calls are watched."""
        return len(self._calls)

    def __contains__(self, call: CallRecord) -> bool:
        """Whether the call is watched."""
        return call.id in self._calls

    def add(self, call: CallRecord, when: float) -> None:
        """Watch a call until then: one that was not forgotten before its time had come.

        Of two times the earlier one counts.
        """
        self._calls[call.id] = call
        heapq.heappush(self._heap, (when, call.id))

    def forget(self, call: CallRecord) -> None:
        """Watch the call no longer, if it was watched."""
        if self._calls.pop(call.id, None) is None:
            return
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self._calls):
            self._heap = [entry for entry in self._heap if entry[1] in self._calls]
            heapq.heapify(self._heap)

    def next(self) -> float:
        """The earliest time, `math.inf` if no call is watched."""
        while self._heap and self._heap[0][1] not in self._calls:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def pop_due(self, now: float) -> Iterator[CallRecord]:
        """Take out each call whose time has come, the earliest first; others may be forgotten meanwhile."""
        while self.next() <= now:
            yield self._calls.pop(heapq.heappop(self._heap)[1])
