"""What ran where, from when to when: as many bars as people can look at, however many calls there are."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from poise._watch.history import Second
    from poise._watch.picture import BarPicture
    from poise._watch.rows import Held

MOST: Final = 10_000
"""Bars that are kept."""
MOST_A_SECOND: Final = 500
"""Bars that are drawn in one second; what follows is counted."""
MERGED: Final = 0.25
"""Seconds that a bar of several calls may have."""
GAP: Final = 0.01
"""Seconds between two calls that may become one bar."""


class Bar:
    """What one slot of a worker ran: see `BarPicture`."""

    __slots__ = ("begin", "calls", "end", "function", "id", "mark", "outcome", "row", "worker")

    def __init__(self, mark: int, worker: int, held: Held, end: float, outcome: str) -> None:
        self.id = self.mark = mark
        """When it was new, and when it changed last, as the model counts."""
        self.worker = worker
        self.row, self.begin, self.function = held
        self.end = end
        self.outcome = outcome
        self.calls = 1


class Bars:
    """Those of one pool."""

    __slots__ = ("_kept", "hidden")

    def __init__(self) -> None:
        self._kept: deque[Bar] = deque(maxlen=MOST)
        self.hidden = 0
        """How many were left out."""

    def draw(
        self, mark: int, second: Second, last: dict[int, Bar], worker: int, held: Held, end: float, outcome: str
    ) -> None:
        """A call has ended: let the bar before it grow, or draw a new one.

        Args:
            mark: what this change is counted as.
            second: the present one.
            last: the last bar of each row of the worker.
            worker: on which it ran.
            held: which row it had, since when.
            end: when it ended.
            outcome: how.
        """
        before = last.get(held.row)
        if (
            before is not None
            and end - before.begin < MERGED
            and held.since - before.end < GAP
            and before.function == held.function
            and before.outcome == outcome
        ):
            before.mark = mark
            before.end = end
            before.calls += 1
        elif second.bars < MOST_A_SECOND:
            second.bars += 1
            last[held.row] = bar = Bar(mark, worker, held, end, outcome)
            self._kept.append(bar)
        else:
            self.hidden += 1

    def since(self, mark: int) -> list[BarPicture]:
        """Those that are new, or have grown."""
        return [_drawn(bar) for bar in self._kept if bar.mark > mark]


def _drawn(bar: Bar) -> BarPicture:
    return {
        "id": bar.id,
        "worker": bar.worker,
        "row": bar.row,
        "function": bar.function,
        "begin": bar.begin,
        "end": bar.end,
        "outcome": bar.outcome,
        "calls": bar.calls,
    }
