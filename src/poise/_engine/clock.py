"""Where the engine takes the time from: its event loop, or the clock of a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

R = TypeVar("R")


class Timer(Protocol):
    """Something that is to happen at a certain time."""

    def cancel(self) -> None:
        """Let it not happen."""


class Clock(Protocol):
    """Tells the time and wakes at it. An event loop is one."""

    def time(self) -> float:
        """Seconds from some moment; never goes back."""
        ...

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        """Call a function, on the loop, at this time."""
        ...


def alarm(clock: Clock, seconds: float, future: asyncio.Future[R], result: R) -> Timer:
    """Give the future this result after so many seconds, unless it has one by then."""

    def ring() -> None:
        if not future.done():
            future.set_result(result)

    return clock.call_at(clock.time() + seconds, ring)
