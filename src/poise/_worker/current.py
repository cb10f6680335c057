"""Which call runs here, so that the code of a call can ask whether anybody still waits for it."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poise._worker.inbox import Arrival


class Seat:
    """A thread that runs calls, and the one that it runs: a plain attribute, since every call sets it."""

    __slots__ = ("call",)

    def __init__(self) -> None:
        self.call: Arrival | None = None
        """None while the thread waits, which keeps no call's arguments alive."""


_here = threading.local()
_task_call: ContextVar[Arrival | None] = ContextVar("poise_call", default=None)


def take_seat() -> Seat:
    """Make this thread one that runs calls."""
    seat: Seat = Seat()
    _here.seat = seat
    return seat


def enter_task(call: Arrival) -> None:
    """This task, and whatever it starts, runs the call from now on."""
    call.arguments = b""  # unpacked already; a task that is left behind must not keep them alive
    call.awaited = ()
    _task_call.set(call)


def cancelled() -> bool:
    """Whether the call in which this is asked need not go on: its caller is gone, or its deadline has passed.

    For code that can stop by itself: a plain method cannot be interrupted, and occupies its worker until it returns.
    What it returns or raises then is seen by nobody. Cheap enough for an inner loop.

    Asked outside a call, in a thread that the call's own code has started, or in an actor of `Pool.of`, it is False.
    """
    call = _task_call.get()
    if call is None:
        seat: Seat | None = getattr(_here, "seat", None)
        call = None if seat is None else seat.call
    return call is not None and call.cancelled
