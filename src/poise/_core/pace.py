"""How long calls run, and how many of them are sent ahead of their slot.

Late binding, sent ahead: with one queue and unknown service times nothing beats giving a call to a worker only when
that worker is free. The price is a round trip of idleness per call, so calls are sent ahead of their slot, up to
`AHEAD_SECONDS` of measured work but at least one, and are recalled when another worker is idle, or when they turn out
to be stuck.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

AHEAD_SECONDS = 0.002
"""Work sent ahead to one worker: twenty round trips of a local socket, and the longest that a call can be held up."""
LONGEST_AHEAD = 0.05
"""The longest calls, in the mean, of which one is sent ahead: a round trip, which would be lost, is about 1 % of it."""
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
        self._by_function: dict[Hashable, float] = {}
        self.overall: float | None = None

    def record(self, function: Hashable, service_time: float) -> None:
        """Take one measured service time into account."""
        known = self._by_function.get(function)
        if known is None:
            if len(self._by_function) >= _FUNCTIONS:
                del self._by_function[next(iter(self._by_function))]
            self._by_function[function] = service_time
        else:
            self._by_function[function] = known + _WEIGHT * (service_time - known)
        if self.overall is None:
            self.overall = service_time
        else:
            self.overall += _WEIGHT * (service_time - self.overall)

    def of(self, function: Hashable) -> float | None:
        """The average for this function, or None if it was never measured."""
        return self._by_function.get(function)

    def is_long(self, function: Hashable) -> bool:
        """Whether calls of this function take longer than what is sent ahead by the dozen."""
        return (self.of(function) or 0.0) > AHEAD_SECONDS

    def ahead_limit(self, function: Hashable) -> int:
        """How many calls of this function one worker may hold beyond its slots: none before it is measured.

        It is rounded up. With a single call in hand a worker that computes would run dry at every second call: the
        thread that reads gets the interpreter only between two calls, and the next call is on its way just then.
        """
        average = self._by_function.get(function)
        if average is None or average > LONGEST_AHEAD:
            return 0
        return AHEAD_CALLS if average * AHEAD_CALLS < AHEAD_SECONDS else math.ceil(AHEAD_SECONDS / average)
