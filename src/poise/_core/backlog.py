"""Calls that wait: by priority, in the order of submission, or as tenants share it."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

from poise._core.batches import Batching

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poise._core.calls import CallId, CallRecord
    from poise._core.shares import FairRank, Shares

_Like: TypeAlias = "tuple[object, int, bool]"


class Rank:
    """Calls in the order of their numbers. New ones are appended; returned ones find their place through a heap."""

    __slots__ = ("fresh", "returned", "returned_order")

    def __init__(self) -> None:
        self.fresh: OrderedDict[CallId, CallRecord] = OrderedDict()  # a plain dict finds its first key in O(n)
        self.returned: dict[CallId, CallRecord] = {}
        self.returned_order: list[CallId] = []
        """A heap of every id of `returned`, and of ids that have left it and are skipped when they come up."""

    def __bool__(self) -> bool:
        """Whether any call is here."""
        return bool(self.fresh or self.returned)

    def __iter__(self) -> Iterator[CallRecord]:
        """Every call, in no particular order."""
        yield from self.returned.values()
        yield from self.fresh.values()

    def add(self, call: CallRecord) -> None:
        """Put a call at its place."""
        if not self.fresh or call.id > next(reversed(self.fresh)):
            self.fresh[call.id] = call
            return
        self.returned[call.id] = call
        if len(self.returned_order) > 64 and len(self.returned_order) > 2 * len(self.returned):
            self.returned_order = sorted(self.returned)  # amortised O(log n): half of it had left
        else:
            heapq.heappush(self.returned_order, call.id)

    def discard(self, call: CallRecord) -> bool:
        """Take a call out, and say whether it was here."""
        return (self.fresh.pop(call.id, None) or self.returned.pop(call.id, None)) is not None

    def first(self) -> CallRecord:
        """The call with the least number; there must be one."""
        if self.returned:
            order = self.returned_order
            while order[0] not in self.returned:
                heapq.heappop(order)
            if not self.fresh or order[0] < next(iter(self.fresh)):
                return self.returned[order[0]]
        return next(iter(self.fresh.values()))

    def check_invariants(self) -> None:
        """Check what is stated at the fields; for tests."""
        assert list(self.fresh) == sorted(self.fresh)
        assert set(self.returned) <= set(self.returned_order)


class Backlog:
    """Calls without a slot. Adding, removing and looking at the first cost O(log n) at most, however many wait."""

    __slots__ = ("_batched", "_priorities", "_ranks", "_shares", "_size")

    def __init__(self, shares: Shares | None = None) -> None:
        """Hold nothing yet.

        Args:
            shares: by which tenants share their priority; without them they are not told apart.
        """
        self._shares = shares
        self._ranks: dict[int, Rank | FairRank] = {}
        """Invariant: none of them is empty, unless it is the only one."""
        self._priorities: list[int] = []
        """Every key of `_ranks`, ascending. One that comes or goes moves those above it: 2 us with 10,000 of them."""
        self._size = 0
        self._batched: dict[_Like, Rank] = {}
        """Calls of batched functions once more, together with those that may begin with them. Invariant: none is empty.
        """

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
            rank = self._ranks[call.priority] = Rank()
            insort(self._priorities, call.priority)
        if call.tenant is not None and self._shares is not None and type(rank) is Rank:
            rank = self._ranks[call.priority] = self._shares.divide(rank)
        rank.add(call)
        self._size += 1
        if type(call.function) is Batching:
            self._batched.setdefault(_like(call), Rank()).add(call)

    def discard(self, call: CallRecord) -> bool:
        """Take a call out, and say whether it was here."""
        rank = self._ranks.get(call.priority)
        if rank is None or not rank.discard(call):
            return False
        self._size -= 1
        if type(call.function) is Batching:
            alike = self._batched[_like(call)]
            alike.discard(call)
            if not alike:
                del self._batched[_like(call)]
        if not rank and len(self._ranks) > 1:  # the last is kept: nearly always it is 0
            del self._ranks[call.priority]
            del self._priorities[bisect_left(self._priorities, call.priority)]
        return True

    def first(self) -> CallRecord | None:
        """The call that is next, or None."""
        return self._ranks[self._priorities[-1]].first() if self._size else None

    def has_before(self, call: CallRecord) -> bool:
        """Whether a call of the same tenant and the same priority comes before this one, which is not here.

        Where there are no tenants that is only seen of `first`.
        """
        rank = self._ranks.get(call.priority)
        same = None if rank is None or isinstance(rank, Rank) else rank.of(call)
        return same is not None and same.first().precedes(call)

    def next_like(self, call: CallRecord) -> CallRecord | None:
        """The call that is next among those that may be in a batch with this one, or None."""
        alike = self._batched.get(_like(call))
        return None if alike is None else alike.first()

    def check_invariants(self) -> None:
        """Check what is stated at the fields; for tests."""
        assert self._priorities == sorted(self._ranks)
        assert self._size == sum(1 for _ in self)
        for priority, rank in self._ranks.items():
            assert len(self._ranks) == 1 or rank, priority
            rank.check_invariants()
        batched = [call for call in self if type(call.function) is Batching]
        assert sum(len(list(alike)) for alike in self._batched.values()) == len(batched)
        for like, alike in self._batched.items():
            assert alike, like
            assert all(_like(call) == like for call in alike), like
            assert all(call in batched for call in alike), like


def _like(call: CallRecord) -> _Like:
    """What calls have in common that may begin together: suspects are by themselves."""
    return call.function, call.priority, call.deaths > 0
