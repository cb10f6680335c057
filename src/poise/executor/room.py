"""Room for calls: what `on_full="wait"` lets a submitting thread wait for."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Future


class Room:
    """Counts the calls that were accepted and have no outcome. Any thread may use it."""

    def __init__(self, limit: int) -> None:
        """Have room for so many: those that wait and those that run."""
        self._limit = limit
        self._taken = 0
        self._changed = threading.Condition()
        self._is_closed = False

    def take(self, *, may_wait: bool) -> None:
        """Take the room of one call, waiting for it.

        Args:
            may_wait: False for the thread that makes the room, which would wait for itself.
        """
        with self._changed:
            while may_wait and self._taken >= self._limit and not self._is_closed:
                self._changed.wait()
            self._taken += 1

    def give_back_with(self, future: Future[object]) -> None:
        """Give the room back when this call has its outcome."""
        future.add_done_callback(self._give_back)

    def give_back(self) -> None:
        """The call was refused after all."""
        with self._changed:
            self._taken -= 1
            self._changed.notify()

    def close(self) -> None:
        """Let nobody wait any more: nothing is accepted, which those who waited are told."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _give_back(self, _: Future[object]) -> None:
        self.give_back()
