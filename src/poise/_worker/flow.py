"""Credit: how many more items a stream may send before its consumer asks for more."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Flow:
    """The credit of one stream. Any thread may grant; the stream's own thread or task waits."""

    __slots__ = ("_changed", "_credit", "_stopped", "_wake")

    def __init__(self, credit: int) -> None:
        """Start with this much credit, in items."""
        self._changed = threading.Condition()
        self._credit = credit
        self._stopped = False
        self._wake: Callable[[], object] | None = None

    def grant(self, items: int) -> None:
        """Add credit."""
        with self._changed:
            self._credit += items
            self._notify()

    def stop(self) -> None:
        """Let every wait end: the consumer is gone."""
        with self._changed:
            self._stopped = True
            self._notify()

    def take(self) -> bool:
        """Use the credit of one item, waiting for it; False if the stream is to stop."""
        with self._changed:
            while not self._credit and not self._stopped:
                self._changed.wait()
            return self._use()

    def take_or_wake(self, wake: Callable[[], object]) -> bool | None:
        """As `take`, but None instead of waiting; `wake` is called once, from any thread, when it is worth asking."""
        with self._changed:
            if not self._credit and not self._stopped:
                self._wake = wake
                return None
            return self._use()

    def _use(self) -> bool:
        if self._stopped:
            return False
        self._credit -= 1
        return True

    def _notify(self) -> None:
        self._changed.notify_all()
        if self._wake is not None:
            wake, self._wake = self._wake, None
            wake()
