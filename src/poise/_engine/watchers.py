"""Waiting for something to become true."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poise._engine.clock import alarm

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from poise._engine.clock import Clock


class Watchers:
    """What is awaited, each as a question that is asked again whenever something may have changed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        """Nobody waits yet."""
        self._loop = loop
        self._clock = clock
        self.watching: list[tuple[Callable[[], bool], asyncio.Future[bool]]] = []
        """Those who wait. A list, because it is asked after every step whether there are any."""

    async def until(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until this is true.

        Returns:
            False if it did not become true within `timeout` seconds of the clock.
        """
        if predicate():
            return True
        watcher: asyncio.Future[bool] = self._loop.create_future()
        entry = (predicate, watcher)
        self.watching.append(entry)
        timer = None if timeout is None else alarm(self._clock, timeout, watcher, result=False)
        try:
            return await watcher
        finally:
            self.watching.remove(entry)
            if timer is not None:
                timer.cancel()

    def look(self) -> None:
        """Something may have changed."""
        for predicate, watcher in list(self.watching):
            if not watcher.done() and predicate():
                watcher.set_result(True)
