"""The slots of a worker as rows of a drawing, and which call is in which row, from when to when."""

from __future__ import annotations

import heapq
from typing import NamedTuple


class Held(NamedTuple):
    """A call in a row."""

    row: int
    since: float
    function: str


class Rows:
    """The slots of one worker, as far as they were ever used. A call takes the first that is free."""

    __slots__ = ("_ends", "_free", "taken")

    def __init__(self) -> None:
        self.taken: dict[int, Held] = {}
        """The calls that hold one."""
        self._free: list[int] = []  # a heap
        self._ends: list[float] = []
        """When the last call of each row has ended."""

    def begin(self, call: int, at: float, function: str) -> None:
        """A call takes a row."""
        self.taken[call] = Held(heapq.heappop(self._free) if self._free else self._new_row(), at, function)

    def end(self, call: int, at: float) -> Held | None:
        """It gives it back, and is drawn; None if it has none."""
        held = self.taken.pop(call, None)
        if held is not None:
            self._ends[held.row] = at
            heapq.heappush(self._free, held.row)
        return held

    def drop(self, call: int) -> None:
        """It gives it back as if it had never been there."""
        if (held := self.taken.pop(call, None)) is not None:
            heapq.heappush(self._free, held.row)

    def passed(self, at: float, running: float, function: str) -> Held:
        """A call was over before it was known that it had begun: it is drawn where one would begin now."""
        row = self._free[0] if self._free else self._new_row()
        if not self._free:
            self._free.append(row)
        since = max(self._ends[row], at - running)
        self._ends[row] = at
        return Held(row, since, function)

    def _new_row(self) -> int:
        self._ends.append(0.0)
        return len(self._ends) - 1
