"""Calls that wait: by priority, in the order of submission."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poise._core.calls import CallId, CallRecord


class _Rank:
    """The calls of one priority. New ones are appended; returned ones go back to their place through a heap."""

    __slots__ = ("fresh", "returned", "returned_order")

    def __init__(self) -> None:
        self.fresh: OrderedDict[CallId, CallRecord] = OrderedDict()  # a plain dict finds its first key in O(n)
        self.returned: dict[CallId, CallRecord] = {}
        self.returned_order: list[CallId] = []
        """A heap of every id of `returned`, and of ids that have left it and are skipped when they come up."""

    def add(self, call: CallRecord) -> None:
        if not self.fresh or call.id > next(reversed(self.fresh)):
            self.fresh[call.id] = call
            return
        self.returned[call.id] = call
        if len(self.returned_order) > 64 and len(self.returned_order) > 2 * len(self.returned):
            self.returned_order = sorted(self.returned)  # amortised O(log n): half of it had left
        else:
            heapq.heappush(self.returned_order, call.id)

    def discard(self, call: CallRecord) -> bool:
        return (self.fresh.pop(call.id, None) or self.returned.pop(call.id, None)) is not None

    def first(self) -> CallRecord:
        if self.returned:
            order = self.returned_order
            while order[0] not in self.returned:
                heapq.heappop(order)
            if not self.fresh or order[0] < next(iter(self.fresh)):
                return self.returned[order[0]]
        return next(iter(self.fresh.values()))

    def __iter__(self) -> Iterator[CallRecord]:
        yield from self.returned.values()
        yield from self.fresh.values()


class Backlog:
    """Calls without a slot. Adding, removing and looking at the first cost O(log n) at most, however many wait."""

    __slots__ = ("_priorities", "_ranks", "_size")

    def __init__(self) -> None:
        self._ranks: dict[int, _Rank] = {}
        """Invariant: none of them is empty, unless it is the only one."""
        self._priorities: list[int] = []
        """Every key of `_ranks`, ascending. One that comes or goes moves those above it: 2 us with 10,000 of them."""
        self._size = 0

    def __len__(self) -> int:
        """How many calls wait."""
        return self._size

    def __iter__(self) -> Iterator[CallRecord]:
        """Every call, in no particular order."""
        for rank in self._ranks.values():
            yield from rank

    def add(self, call: CallRecord) -> None:
        """Put a call at its place: by priority, then by its number."""
        rank = self._ranks.get(call.priority)
        if rank is None:
            if not self._size:
                self._ranks.clear()
                self._priorities.clear()
            rank = self._ranks[call.priority] = _Rank()
            insort(self._priorities, call.priority)
        rank.add(call)
        self._size += 1

    def discard(self, call: CallRecord) -> bool:
        """Take a call out, and say whether it was here."""
        rank = self._ranks.get(call.priority)
        if rank is None or not rank.discard(call):
            return False
        self._size -= 1
        if not rank.fresh and not rank.returned and len(self._ranks) > 1:  # the last is kept: nearly always it is 0
            del self._ranks[call.priority]
            del self._priorities[bisect_left(self._priorities, call.priority)]
        return True

    def first(self) -> CallRecord | None:
        """The call that is next, or None."""
        return self._ranks[self._priorities[-1]].first() if self._size else None

    def check_invariants(self) -> None:
        """Check what is stated at the fields; for tests."""
        assert self._priorities == sorted(self._ranks)
        assert self._size == sum(1 for _ in self)
        for priority, rank in self._ranks.items():
            assert len(self._ranks) == 1 or rank.fresh or rank.returned, priority
            assert list(rank.fresh) == sorted(rank.fresh)
            assert set(rank.returned) <= set(rank.returned_order)
