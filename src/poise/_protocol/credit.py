"""Credit: how many more items a stream may send before its consumer asks for more."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Credit:
    """The credit of one stream, where its items are sent. Any thread may add; the stream's own thread or task waits."""

    __slots__ = ("_changed", "_items", "_stopped", "_wake")

    def __init__(self, items: int) -> None:
        """Start with credit for so many items."""
        self._changed = threading.Condition()
        self._items = items
        self._stopped = False
        self._wake: Callable[[], object] | None = None

    def add(self, items: int) -> None:
        """Let so many more items be sent."""
        with self._changed:
            self._items += items
            self._notify()

    def stop(self) -> None:
        """Let every wait end: the consumer is gone."""
        with self._changed:
            self._stopped = True
            self._notify()

    def take(self) -> bool:
        """Use the credit of one item, waiting for it; False if the stream is to stop."""
        with self._changed:
            while not self._items and not self._stopped:
                self._changed.wait()
            return self._use()

    async def take_on_loop(self, call: Callable[[Callable[[], Any]], object]) -> bool:
        """As `take`, on a loop that `call` calls into, from any thread."""
        while True:
            woken = asyncio.Event()
            with self._changed:
                if self._items or self._stopped:
                    return self._use()
                self._wake = partial(call, woken.set)
            await woken.wait()

    def _use(self) -> bool:
        if self._stopped:
            return False
        self._items -= 1
        return True

    def _notify(self) -> None:
        self._changed.notify_all()
        if self._wake is not None:
            wake, self._wake = self._wake, None
            wake()
