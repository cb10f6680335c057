"""How long calls run, and how many of them are sent ahead of their slot.

Late binding, sent ahead: with one queue and unknown service times nothing beats giving a call to a worker only when
that worker is free. The price is a round trip of idleness per call, so short calls are sent ahead of their slot, up to
`AHEAD_SECONDS` of measured work, and are recalled when they turn out to be stuck. Of longer calls that always take
about the same time a worker is sent one, while so many wait that it would be given one anyway.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

AHEAD_SECONDS = 0.002
"""Work sent ahead to one worker: twenty round trips of a local socket, and the longest that a call can be held up."""
STEADY_SECONDS = 0.05
"""The longest calls of which one is sent ahead: a round trip, which would be lost, is about 1 % of it."""
STEADY_PART = 0.25
"""The mean deviation of a steady function's service times, as a part of their mean."""
AHEAD_CALLS = 256
"""The most calls sent ahead, however short they are: it bounds what one death or one recall has to sort out."""
UNFENCED_CALLS = 16
"""The same where nothing can be taken from a worker that does not answer: so many wait for it then."""
_WEIGHT = 0.1
"""Of the newest sample in a moving average: the last 20 or so calls decide."""
_FUNCTIONS = 4096
"""Functions whose pace is remembered."""


class Pace:
    """Exponential moving averages of service time, in seconds, for each function and for all calls."""

    __slots__ = ("_by_function", "overall")

    def __init__(self) -> None:
        self._by_function: dict[Hashable, list[float]] = {}
        """For each function the average, and that of the distance from it."""
        self.overall: float | None = None

    def record(self, function: Hashable, service_time: float) -> None:
        """Take one measured service time into account."""
        known = self._by_function.get(function)
        if known is None:
            if len(self._by_function) >= _FUNCTIONS:
                del self._by_function[next(iter(self._by_function))]
            self._by_function[function] = [service_time, service_time]  # steady once some calls have shown it
        else:
            distance = service_time - known[0]
            known[0] += _WEIGHT * distance
            known[1] += _WEIGHT * (abs(distance) - known[1])
        if self.overall is None:
            self.overall = service_time
        else:
            self.overall += _WEIGHT * (service_time - self.overall)

    def of(self, function: Hashable) -> float | None:
        """The average for this function, or None if it was never measured."""
        known = self._by_function.get(function)
        return None if known is None else known[0]

    def is_long(self, function: Hashable) -> bool:
        """Whether calls of this function take longer than what is sent ahead by the dozen."""
        return (self.of(function) or 0.0) > AHEAD_SECONDS

    def ahead_limit(self, function: Hashable, *, is_deep: bool = False) -> int:
        """How many calls of this function one worker may hold beyond its slots: none before it is measured.

        Args:
            function: which.
            is_deep: whether more calls wait than all workers have slots.

        It is rounded up. With a single call in hand a worker that computes would run dry at every second call: the
        thread that reads gets the interpreter only between two calls, and the next call is on its way just then.
        """
        known = self._by_function.get(function)
        if known is None:
            return 0
        average, deviation = known
        if average > AHEAD_SECONDS:
            return int(is_deep and average <= STEADY_SECONDS and deviation <= STEADY_PART * average)
        return AHEAD_CALLS if average * AHEAD_CALLS < AHEAD_SECONDS else math.ceil(AHEAD_SECONDS / average)
