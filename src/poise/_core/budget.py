"""How much of a pool's load may be repetitions."""

from __future__ import annotations

import math
from typing import Final

WINDOW: Final = 10
"""Seconds that count as recent, the present one among them."""
LEAST: Final = 10
"""Repetitions within the window that are always allowed, so that a pool with little to do repeats what it is told."""


class RetryBudget:
    """Bounds repetitions by a share of the recent load, so that a broken fleet is not finished off by them.

    The budget of Finagle ("Retry Budgets", Twitter's guide to its clients) and of Envoy's circuit breakers.
    """

    __slots__ = ("_calls", "_retries", "_second", "_share")

    def __init__(self, share: float) -> None:
        """Allow so many repetitions for each call."""
        self._share = share
        self._second = -math.inf
        """The latest second that was counted; its place in the rings is its number modulo their length."""
        self._calls = [0] * WINDOW
        self._retries = [0] * WINDOW

    def note_call(self, now: float) -> None:
        """The first attempt of a call has ended."""
        self._calls[self._place(now)] += 1

    def take(self, now: float) -> bool:
        """Use one repetition, if the budget has one left."""
        place = self._place(now)
        if sum(self._retries) >= LEAST + self._share * sum(self._calls):
            return False
        self._retries[place] += 1
        return True

    def _place(self, now: float) -> int:
        """The place of this second in the rings, with what is not recent any more forgotten."""
        second = math.floor(now)
        if second > self._second:
            for past in range(WINDOW if second - self._second >= WINDOW else int(second - self._second)):
                self._calls[(second - past) % WINDOW] = self._retries[(second - past) % WINDOW] = 0
            self._second = second
        return second % WINDOW
