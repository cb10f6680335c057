"""Calls that wait: by priority, in the order of submission, with their deadlines."""

from __future__ import annotations

import heapq
from bisect import insort
from collections import OrderedDict
from typing import TYPE_CHECKING

from poise._core.call import CallState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poise._core.call import CallId, CallRecord


class _Rank:
    """The calls of one priority. New ones are appended; returned ones go back to their place through a heap."""

    __slots__ = ("fresh", "returned", "returned_order")

    def __init__(self) -> None:
        self.fresh: OrderedDict[CallId, CallRecord] = OrderedDict()  # a plain dict finds its first key in O(n)
        self.returned: dict[CallId, CallRecord] = {}
        self.returned_order: list[CallId] = []
        """Every id of `returned`, and ids that have left it and are skipped when they come up."""

    def __len__(self) -> int:
        return len(self.fresh) + len(self.returned)

    def add(self, call: CallRecord) -> None:
        if not self.fresh or call.id > next(reversed(self.fresh)):
            self.fresh[call.id] = call
        else:
            self.returned[call.id] = call
            heapq.heappush(self.returned_order, call.id)

    def discard(self, call: CallRecord) -> bool:
        return (self.fresh.pop(call.id, None) or self.returned.pop(call.id, None)) is not None

    def first(self) -> CallRecord:
        order = self.returned_order
        while order and order[0] not in self.returned:
            heapq.heappop(order)
        if not self.fresh:
            return self.returned[order[0]]
        oldest = next(iter(self.fresh))
        if order and order[0] < oldest:
            return self.returned[order[0]]
        return self.fresh[oldest]

    def __iter__(self) -> Iterator[CallRecord]:
        yield from self.returned.values()
        yield from self.fresh.values()


class Backlog:
    """Calls without a slot. Adding, removing and looking at the first cost O(log n) at most, however many wait."""

    __slots__ = ("_priorities", "_ranks", "_size")

    def __init__(self) -> None:
        self._ranks: dict[int, _Rank] = {}
        self._priorities: list[int] = []
        """Every key of `_ranks`, ascending."""
        self._size = 0

    def __len__(self) -> int:
        """How many calls wait."""
        return self._size

    def __iter__(self) -> Iterator[CallRecord]:
        """Every call, in no particular order."""
        for rank in self._ranks.values():
            yield from rank

    def __contains__(self, call: CallRecord) -> bool:
        """Whether this call waits here."""
        rank = self._ranks.get(call.priority)
        return rank is not None and (call.id in rank.fresh or call.id in rank.returned)

    def add(self, call: CallRecord) -> None:
        """Put a call at its place: by priority, then by its number."""
        rank = self._ranks.get(call.priority)
        if rank is None:
            rank = self._ranks[call.priority] = _Rank()
            insort(self._priorities, call.priority)
        rank.add(call)
        self._size += 1

    def discard(self, call: CallRecord) -> bool:
        """Take a call out, and say whether it was here."""
        rank = self._ranks.get(call.priority)
        found = rank is not None and rank.discard(call)
        self._size -= found
        return found

    def first(self) -> CallRecord | None:
        """The call that is next, or None."""
        while self._priorities:
            rank = self._ranks[self._priorities[-1]]
            if len(rank):
                return rank.first()
            if self._priorities == [0]:  # nearly every pool: keep the one rank instead of making it anew each time
                return None
            del self._ranks[self._priorities.pop()]
        return None


class Deadlines:
    """When calls expire. A heap in which calls that have ended are skipped, and cleared out once they are the most."""

    __slots__ = ("_heap", "_live")

    def __init__(self) -> None:
        self._heap: list[tuple[float, CallId, CallRecord]] = []
        self._live = 0

    def add(self, call: CallRecord) -> None:
        """Watch this call's deadline."""
        heapq.heappush(self._heap, (call.deadline, call.id, call))
        self._live += 1

    def forget(self, count: int = 1) -> None:
        """So many watched calls have ended: amortised O(1)."""
        self._live -= count
        if len(self._heap) > 64 and len(self._heap) > 2 * self._live:
            self._heap = [entry for entry in self._heap if _is_watched(*entry)]
            heapq.heapify(self._heap)
            self._live = len(self._heap)

    def next(self) -> float | None:
        """The earliest deadline, or None."""
        while self._heap and not _is_watched(*self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_expired(self, now: float) -> Iterator[CallRecord]:
        """Take out each call whose deadline has passed, earliest first."""
        while (deadline := self.next()) is not None and deadline <= now:
            self._live -= 1
            yield heapq.heappop(self._heap)[2]


def _is_watched(deadline: float, _id: CallId, call: CallRecord) -> bool:
    """Whether the call's caller still waits for this deadline; a lease has none once it is granted."""
    return call.deadline == deadline and call.state is not CallState.DONE and call.state is not CallState.ABANDONED
