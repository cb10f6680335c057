"""What a call that may be run again knows of its attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from poise._core.workers import WorkerId

PAUSE_MOST: Final = 30.0
"""Seconds that a pause between two attempts grows to."""


class Retry:
    """How often a call may still be run again, when, and where not. A call without retries has none of it."""

    __slots__ = ("avoids", "delay", "left", "pauses")

    def __init__(self, left: int, delay: float) -> None:
        self.left: int = left
        """How many more attempts may follow one that may have begun."""
        self.delay: float = delay
        """The longest first pause between two attempts, in seconds."""
        self.pauses: int = 0
        """How many pauses there were."""
        self.avoids: frozenset[WorkerId] = frozenset()
        """Workers on which it has failed."""

    def in_part(self, most_beside: int) -> RetryInPart:
        """The same for a call that has lost its worker in a batch."""
        part = RetryInPart(self.left, self.delay)
        part.pauses, part.avoids, part.most_beside = self.pauses, self.avoids, most_beside
        return part

    def avoid(self, worker_id: WorkerId) -> None:
        """The call has failed on this worker."""
        self.avoids |= {worker_id}

    def pause(self, chance: Callable[[], float]) -> float:
        """Use up one more attempt, and tell how many seconds must pass before it.

        Exponential backoff with full jitter, from Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture
        Blog, 2015: calls that failed together do not come back together.

        Args:
            chance: gives a number from 0 to 1, each as likely.
        """
        longest = min(PAUSE_MOST, self.delay * 2.0 ** min(64, self.pauses))
        self.left -= 1
        self.pauses += 1
        return longest * chance()


class RetryInPart(Retry):
    """The same for a call that may be in a smaller batch than before, since it was in one that lost its worker."""

    __slots__ = ("most_beside",)

    most_beside: int
    """The most calls in the batch, itself among them."""
