"""The event loop on which a worker's coroutines run, for a worker that runs several calls at once.

One daemon thread, started with the first of them. A worker that runs one call at a time has an `OwnLoop` instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from poise._protocol.outcomes import result_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class CallsLoop(Protocol):
    """Where coroutines run."""

    @property
    def turning(self) -> asyncio.AbstractEventLoop | None:
        """The loop itself, once there is one."""
        ...

    def start(self, function: Callable[[asyncio.AbstractEventLoop], object]) -> bool:
        """Let a runner's thread begin a call: the function runs on the loop. False if the loop is closed."""
        ...

    def call(self, function: Callable[..., object], *args: Any) -> bool:
        """Run the function on the loop soon, from any thread. Does nothing and returns False once it is closed."""
        ...

    def complete(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end and return its result, on the thread that serves, while no call runs there."""
        ...

    def close(self) -> None:
        """Take nothing more; cancel what runs on the loop, without waiting for it. From any thread."""

    def wind_up(self) -> None:
        """Close the loop, on the thread that serves, which has left its last call."""


class LoopThread:
    """An asyncio loop in a thread of its own."""

    def __init__(self, name: str) -> None:
        """Start nothing yet; the thread will have this name."""
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def turning(self) -> asyncio.AbstractEventLoop | None:
        """See `CallsLoop`."""
        return self._loop

    def start(self, function: Callable[[asyncio.AbstractEventLoop], object]) -> bool:
        """See `CallsLoop`."""
        loop = self._loop or self._open()
        return loop is not None and self.call(function, loop)

    def call(self, function: Callable[..., object], *args: Any) -> bool:
        """See `CallsLoop`."""
        loop = self._loop
        return loop is not None and not self._closed and call_on(loop, function, *args)

    def complete(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """See `CallsLoop`."""
        loop = self._loop or self._open()
        if loop is None:
            coroutine.close()
            raise RuntimeError("the worker's loop is closed")
        return result_of(asyncio.run_coroutine_threadsafe(coroutine, loop))

    def close(self) -> None:
        """See `CallsLoop`."""
        with self._lock:
            self._closed = True
            loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(loop.stop)

    def wind_up(self) -> None:
        """See `CallsLoop`."""
        self.close()

    def _open(self) -> asyncio.AbstractEventLoop | None:
        with self._lock:
            if self._loop is None and not self._closed:
                loop = asyncio.new_event_loop()
                try:
                    threading.Thread(target=self._run, args=(loop,), name=self._name, daemon=True).start()
                except BaseException:
                    loop.close()  # it has no thread, so nothing must be sent to it
                    raise
                self._loop = loop
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while not self._closed:
            # A task that the user's code started may raise SystemExit or KeyboardInterrupt, which asyncio lets out.
            with contextlib.suppress(BaseException):
                loop.run_forever()
        wind_up(loop)


def call_on(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: Any) -> bool:
    """Run the function on this loop soon, from any thread; False if the loop is closed."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        return False
    return True


def wind_up(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what is left on a loop that has stopped, let it end, and close the loop."""
    loop.set_task_factory(None)  # the user's own may refuse
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    with contextlib.suppress(BaseException):
        if tasks:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    with contextlib.suppress(BaseException):
        loop.run_until_complete(loop.shutdown_asyncgens())
    with contextlib.suppress(BaseException):
        loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
