"""The last fifteen minutes, second by second, in bounded memory."""

from __future__ import annotations

from collections import defaultdict, deque
from math import log2
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from poise._watch.picture import Quantiles, SecondPicture

SECONDS: Final = 900
"""How many are kept."""
LATELY: Final = 10
"""Seconds over which present rates are taken."""
STEPS: Final = 8
"""Classes of times for each doubling, so that what is said is within 5 %."""
TINY: Final = 2.0**-25
"""Seconds that are added to each time, so that zero has a class."""
OFFSET: Final = 25 * STEPS
"""Makes the class of that the first."""

Times = defaultdict[int, int]
"""How many times of each class there were: of `seconds` it is `int(log2(seconds + TINY) * STEPS + OFFSET)`."""


def add_time(times: Times, seconds: float) -> None:
    """Note one more. Where calls end it is written out, because this is told of each."""
    times[int(log2(seconds + TINY) * STEPS + OFFSET)] += 1


def quantiles(several: Iterable[Times]) -> Quantiles | None:
    """Two quantiles of all these times, None if there are none."""
    counts: dict[int, int] = {}
    for times in several:
        for number, count in times.items():
            counts[number] = counts.get(number, 0) + count
    total = sum(counts.values())
    if not total:
        return None
    ordered = sorted(counts.items())
    return {"p50": _quantile(ordered, 0.5 * total), "p99": _quantile(ordered, 0.99 * total)}


def _quantile(ordered: list[tuple[int, int]], rank: float) -> float:
    reached = 0
    for number, count in ordered:
        reached += count
        if reached >= rank:
            middle: float = 2.0 ** ((number + 0.5 - OFFSET) / STEPS)
            return round(max(0.0, middle - TINY), 7)
    raise AssertionError("no rank is greater than the number of times")


class Second:
    """One second of a pool."""

    __slots__ = (
        "at",
        "backlog",
        "bars",
        "busy",
        "deaths",
        "drawn",
        "ended",
        "mark",
        "refused",
        "runs",
        "slots",
        "waits",
    )

    def __init__(self, at: int, slots: int, backlog: int) -> None:
        self.at = at
        self.ended: defaultdict[str, int] = defaultdict(int)
        self.refused = 0
        self.waits: Times = Times(int)
        self.runs: Times = Times(int)
        self.slots = slots
        self.busy = 0.0
        """Seconds for which slots were in use, all together; known when it is over."""
        self.backlog = backlog
        self.deaths = 0
        self.bars = 0
        """How many were drawn in it."""
        self.mark = 0
        """When it was over, as the model counts."""
        self.drawn: SecondPicture | None = None
        """What it was like, once it is over."""

    def draw(self) -> SecondPicture:
        """What it was like, or is so far."""
        return self.drawn or {
            "at": self.at,
            "ended": dict(self.ended),
            "refused": self.refused,
            "waits": quantiles([self.waits]),
            "runs": quantiles([self.runs]),
            "busy": None,
            "backlog": self.backlog,
            "deaths": self.deaths,
        }

    def end(self, mark: int, busy: float) -> None:
        """It is over. It is drawn now: nine hundred of them at once would hold the loop up."""
        self.mark, self.busy = mark, busy
        self.drawn = {**self.draw(), "busy": _share(busy, self.slots)}


class History:
    """The seconds that there were, one after the other without a gap, and the present one."""

    __slots__ = ("present", "seconds")

    def __init__(self, now: float) -> None:
        self.present = Second(int(now), 0, 0)
        self.seconds: deque[Second] = deque([self.present], SECONDS)

    def next(self) -> Second:
        """The next second begins as this one ends."""
        before = self.present
        if len(self.seconds) > LATELY:
            past = self.seconds[-LATELY - 1]
            past.waits, past.runs = Times(int), Times(int)  # nobody asks for them again
        self.present = Second(before.at + 1, before.slots, before.backlog)
        self.seconds.append(self.present)
        return self.present

    def since(self, mark: int) -> list[SecondPicture]:
        """What each second was like that ended after this, and the present one."""
        return [second.draw() for second in self.seconds if second is self.present or second.mark > mark]

    def lately(self) -> list[Second]:
        """The last full seconds, from which present rates are taken."""
        return list(self.seconds)[-LATELY - 1 : -1]


def share_of(seconds: list[Second]) -> float | None:
    """The share of the slots that were in use."""
    return _share(sum(each.busy for each in seconds), sum(each.slots for each in seconds))


def _share(busy: float, slots: int) -> float | None:
    return round(min(1.0, busy / slots), 4) if slots else None
