"""Room for calls: what `on_full="wait"` lets a submitting thread wait for."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from poise.checks import check_one_of
from poise.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future

OnFull: TypeAlias = Literal["refuse", "wait"]
"""What becomes of a call for which there is no room."""


def room_for(on_full: str, options: Mapping[str, Any], workers: int) -> Room | None:
    """What `submit` waits for: that fewer calls wait and run than the backlog and the slots of so many workers hold.

    Raises:
        ConfigError: there is no such way, or nothing to wait for.
    """
    check_one_of("on_full", on_full, get_args(OnFull))
    if on_full == "refuse":
        return None
    backlog = options.get("backlog")
    if backlog is None:
        raise ConfigError("on_full", on_full, "give a backlog= too: without a limit there is nothing to wait for")
    return Room(backlog + workers * options.get("concurrency", 1))


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
