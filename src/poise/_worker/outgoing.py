"""What a stream has produced that goes by Ray."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poise._answers import Answer
    from poise._protocol.payloads import Packed


class Outgoing:
    """What a stream has produced and nobody has fetched yet. The stream's credit bounds it."""

    __slots__ = ("_changed", "_end", "_items")

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: list[Packed] = []
        self._end: Answer | None = None

    def add(self, item: Packed) -> None:
        """Keep an item."""
        with self._changed:
            self._items.append(item)
            self._changed.notify()

    def end(self, answer: Answer) -> None:
        """Keep the end."""
        with self._changed:
            self._end = answer
            self._changed.notify_all()

    def take(self) -> tuple[list[Packed], Answer | None]:
        """Wait until there is something."""
        with self._changed:
            while not self._items and self._end is None:
                self._changed.wait()
            items, self._items = self._items, []
            return items, self._end
