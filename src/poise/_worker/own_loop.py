"""The event loop of a worker that runs one call at a time, on the very thread that runs its calls.

What the constructor made there (a connection of sqlite3, a browser, a context of a GPU) is used by plain methods and
coroutines alike, because all of them run on that one thread. The loop stands still while a plain method runs, which
may therefore have a loop of its own, as with `asyncio.run`. It turns while a coroutine runs, and from the first
coroutine on also while the worker waits for its next call, so that tasks which the user's code has left there go on.
"""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

from poise._worker.loop_thread import call_on, wind_up

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from poise._worker.inbox import Inbox

T = TypeVar("T")

STANDS_FOR: Final = 1e-3
"""Seconds after which the loop gets a turn between two plain calls, however many more wait."""


class OwnLoop:
    """An asyncio loop on the thread that runs the calls. All but `call` and `close` are for that thread alone."""

    def __init__(self, inbox: Inbox) -> None:
        """Make nothing yet; the loop is made for the first coroutine.

        Args:
            inbox: what the thread waits for.
        """
        self._inbox = inbox
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_busy = False
        """Whether a coroutine of a call runs."""
        self._is_closed = False
        self._turned_at = 0.0
        self.wait: Callable[[], None] | None = None
        """What the thread does before it takes a call, once there is a loop: lets that turn until one has come."""

    @property
    def turning(self) -> asyncio.AbstractEventLoop | None:
        """See `CallsLoop`."""
        return self._loop

    def start(self, function: Callable[[asyncio.AbstractEventLoop], object]) -> bool:
        """See `CallsLoop`; `finish` must follow."""
        if self._is_closed:
            return False
        self._is_busy = True
        function(self._loop or self._open())
        return True

    def finish(self) -> None:
        """Let the loop turn until the call that was started has ended."""
        while self._is_busy:
            self._turn()

    def ended(self) -> None:
        """The call has ended."""
        self._is_busy = False
        if self._loop is not None:
            self._loop.stop()

    def call(self, function: Callable[..., object], *args: Any) -> bool:
        """See `CallsLoop`."""
        return self._loop is not None and call_on(self._loop, function, *args)

    def complete(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """See `CallsLoop`."""
        task = (self._loop or self._open()).create_task(coroutine)
        task.add_done_callback(lambda _: self.ended())
        self._is_busy = True
        self.finish()
        return task.result()

    def close(self) -> None:
        """See `CallsLoop`. What runs is cancelled by the inbox, which is closed at the same time."""
        self._is_closed = True

    def wind_up(self) -> None:
        """See `CallsLoop`."""
        self._is_closed = True
        loop, self._loop = self._loop, None
        if loop is not None:
            wind_up(loop)

    def _open(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.new_event_loop()
        self.wait = self._wait
        return self._loop

    def _turn(self) -> None:
        """Let the loop run until it is stopped: by `ended`, by a call that has come, or by the user's own code."""
        assert self._loop is not None
        if self._loop.is_closed():
            raise RuntimeError("the worker's own event loop was closed by the code that runs in it")
        # A task that the user's code started may raise SystemExit or KeyboardInterrupt, which asyncio lets out.
        with contextlib.suppress(BaseException):
            self._loop.run_forever()
        self._turned_at = monotonic()

    def _wait(self) -> None:
        assert self._loop is not None
        inbox = self._inbox
        if inbox.is_quiet:
            inbox.on_news = self._on_news
            try:
                while inbox.is_quiet:  # asked only now that news would stop the loop
                    self._turn()
            finally:
                inbox.on_news = None
        elif monotonic() - self._turned_at > STANDS_FOR:
            self._loop.call_soon(self._loop.stop)
            self._turn()

    def _on_news(self) -> None:  # runs on any thread
        loop = self._loop
        if loop is not None:
            self.call(loop.stop)
