"""What is known of a worker's health, for a pool that looks after it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from poise._core.calls import CallId, CallRecord

INTERVAL: Final = 10
"""Seconds: the answers of the present interval and of the one before are recent."""


class Vitals:
    """One worker's."""

    __slots__ = (
        "_answers",
        "_before",
        "_failures",
        "_interval",
        "asked_at",
        "check",
        "due",
        "has_grace",
        "heard_at",
        "is_late",
        "judged_at",
        "streak",
        "strikes",
    )

    def __init__(self, now: float) -> None:
        self.due: float = math.inf
        """When it is to be looked at next. Its alarm may ring before, and is set again then."""
        self.check: CallRecord | None = None
        """The check that it runs. Invariant: it holds a slot."""
        self.asked_at: float = now
        self.heard_at: float = -math.inf
        """When it has last answered anything."""
        self.is_late: bool = False
        """Whether its check was not answered in time, so that what it says does not count any more."""
        self.has_grace: bool = False
        """Whether it has a last moment to say anything at all."""
        self.strikes: int = 0
        """Checks in a row that have failed."""
        self.streak: dict[CallId, None] = {}
        """Calls that it has failed in a row, the first ones first."""
        self.judged_at: float = -math.inf
        """When it was last held against its fellows."""
        self._interval: int = 0
        self._answers: int = 0
        self._failures: int = 0
        self._before: tuple[int, int] = (0, 0)

    def note(self, now: float, *, answers: int, failures: int) -> None:
        """It has given so many answers, of which so many are failures."""
        self._turn(now)
        self._answers += answers
        self._failures += failures

    def recent(self, now: float) -> tuple[int, int]:
        """How many answers it has lately given, and how many of them were failures."""
        self._turn(now)
        answers, failures = self._before
        return self._answers + answers, max(0, self._failures + failures)

    def forget(self) -> None:
        """Let bygones be bygones."""
        self.strikes = 0
        self.streak.clear()
        self._answers = self._failures = 0
        self._before = (0, 0)

    def _turn(self, now: float) -> None:
        interval = math.floor(now / INTERVAL)
        if interval != self._interval:
            self._before = (self._answers, self._failures) if interval == self._interval + 1 else (0, 0)
            self._answers = self._failures = 0
            self._interval = interval
