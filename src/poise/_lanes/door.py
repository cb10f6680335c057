"""The one way from foreign threads to the engine's loop."""

from __future__ import annotations

import logging
import weakref
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_log = logging.getLogger("poise")

T = TypeVar("T")
R = TypeVar("R")


class Door(Generic[T]):
    """Carries what other threads hear to the loop; what comes at once is delivered at once."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[list[T]], None],
        on_fault: Callable[[Exception], object] | None = None,
    ) -> None:
        """Deliver on this loop.

        Args:
            loop: where `deliver` and `on_fault` are called.
            deliver: takes what has arrived.
            on_fault: called if that raises: what was to be delivered is lost, and whoever waits for it must be told.
                If it is None, the loop's own handler hears of it.
        """
        self._loop = loop
        self._deliver = deliver
        self._on_fault = on_fault
        self._arrived: deque[T] = deque()
        # Invariant: whatever arrived after a delivery began has a delivery to come.
        self._scheduled = False

    def put(self, item: T) -> None:  # runs on any thread
        """Deliver the item soon."""
        self._arrived.append(item)
        if not self._scheduled:
            self._scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._open)
            except RuntimeError:  # the loop is closed, and with it whoever was listening
                self._arrived.clear()

    def way_in(self) -> Callable[[T], None]:
        """`put` for what may outlive the door, as a call of Ray's that never ends: it does not keep the door alive."""
        door = weakref.ref(self)

        def put(item: T) -> None:  # runs on any thread
            if (there := door()) is not None:
                there.put(item)

        return put

    def _open(self) -> None:
        self._scheduled = False
        items: list[T] = []
        while self._arrived:
            items.append(self._arrived.popleft())
        if not items:
            return
        try:
            self._deliver(items)
        except Exception as error:
            if self._on_fault is None:
                raise
            _log.exception("poise has a fault and gives a worker up; please report it")
            self._on_fault(error)
