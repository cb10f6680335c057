"""A clock that stands still until a test moves it on."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class ManualClock:
    """A clock that stands still until the test moves it on.

    Hand it to `LocalPool` or `local_pools`: timeouts, backoff, `kill_after`, `start_timeout` and every other time of
    the pool's then pass when the test says so. What workers do takes as long as it takes: wait for that with the call
    itself, or with `LocalPool.until`.
    """

    def __init__(self, now: float = 1000.0) -> None:
        """Start at this moment."""
        self._now = now
        self._timers: list[_ManualTimer] = []  # a heap; cancelled ones are skipped
        self._numbers = itertools.count()

    def time(self) -> float:
        """The moment at which it stands, in seconds."""
        return self._now

    def call_at(self, when: float, callback: Callable[[], object], /) -> _ManualTimer:
        """Call a function when the clock is moved to this moment or past it; what is due already is called soon."""
        timer = _ManualTimer(when, next(self._numbers), callback)
        if when <= self._now:
            asyncio.get_running_loop().call_soon(timer.ring)
        else:
            heapq.heappush(self._timers, timer)
        return timer

    async def advance(self, seconds: float) -> None:
        """Move on by so many seconds, ringing each timer at its own moment and letting the loop react to it.

        Raises:
            ValueError: `seconds` is negative.
        """
        if not seconds >= 0:
            raise ValueError(f"seconds={seconds!r} is not allowed: a clock does not go back")
        end = self._now + seconds
        await _let_react()
        while self._timers and self._timers[0].when <= end:
            timer = heapq.heappop(self._timers)
            self._now = max(self._now, timer.when)
            timer.ring()
            await _let_react()
        self._now = end
        await _let_react()

    def __repr__(self) -> str:
        return f"<ManualClock at {self._now:g} s>"


class _ManualTimer:
    """A function that is to be called at a certain moment."""

    def __init__(self, when: float, number: int, callback: Callable[[], object]) -> None:
        self.when = when
        self._number = number
        self._callback: Callable[[], object] | None = callback

    def __lt__(self, other: _ManualTimer) -> bool:
        return (self.when, self._number) < (other.when, other._number)

    def ring(self) -> None:
        """Do it, unless it was cancelled."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def cancel(self) -> None:
        """Let it not happen."""
        self._callback = None


async def _let_react() -> None:
    """Let the tasks that were woken run, and those that they wake: a chain of a few."""
    for _ in range(10):
        await asyncio.sleep(0)
