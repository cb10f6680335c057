"""Which call runs here, so that the code of a call can ask whether anybody still waits for it."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

from poise.errors import PoiseError

if TYPE_CHECKING:
    from poise._worker.inbox import Arrival


class _Self(Protocol):
    """What a worker can do with itself."""

    def retire(self) -> None:
        """Ask to be replaced."""


class Seat:
    """A thread that runs calls, and the one that it runs: a plain attribute, since every call sets it."""

    __slots__ = ("call",)

    def __init__(self) -> None:
        self.call: Arrival | None = None
        """None while the thread waits, which keeps no call's arguments alive."""


_here = threading.local()
_worker: ContextVar[_Self | None] = ContextVar("poise_worker", default=None)
"""Set once in each thread that runs calls, from where tasks inherit it."""
_task_call: ContextVar[Arrival | None] = ContextVar("poise_call", default=None)


def take_seat(worker: _Self) -> Seat:
    """Make this thread one that runs calls of this worker."""
    _worker.set(worker)
    seat: Seat = Seat()
    _here.seat = seat
    return seat


def enter_task(call: Arrival) -> None:
    """This task, and whatever it starts, runs the call from now on."""
    call.arguments = b""  # unpacked already; a task that is left behind must not keep them alive
    call.awaited = ()
    _task_call.set(call)


def current_call() -> Arrival | None:
    """The call in which this is asked, if it is asked in one."""
    call = _task_call.get()
    if call is None:
        seat: Seat | None = getattr(_here, "seat", None)
        call = None if seat is None else seat.call
    return call


def cancelled() -> bool:
    """Whether the call in which this is asked need not go on: its caller is gone, or its deadline has passed.

    For code that can stop by itself: a plain method cannot be interrupted, and occupies its worker until it returns.
    What it returns or raises then is seen by nobody. Cheap enough for an inner loop.

    Asked outside a call, in a thread that the call's own code has started, or in an actor of `Pool.of`, it is False.
    """
    call = current_call()
    return call is not None and call.cancelled


class ThisWorker:
    """The worker in which code runs, as `poise.this_worker()` gives it."""

    __slots__ = ("_worker",)

    def __init__(self, worker: _Self) -> None:
        """Made by `this_worker`; not for users."""
        self._worker = worker

    def retire(self) -> None:
        """Have this worker replaced: after a failure, say, from which nothing in its process recovers.

        It is given nothing more from now on, and another starts in its place at once. What it runs ends as it would
        have: the answer of this call arrives, and so do those of others beside it. Then it closes what the factory
        made, and ends. A lease keeps it until that ends. Asking again does nothing.
        """
        self._worker.retire()


def this_worker() -> ThisWorker:
    """The worker in which this is asked, by the code of a call or by a task that it has started.

    Raises:
        PoiseError: no call of a pool runs here; in an actor of `Pool.of` none is known of.
    """
    worker = _worker.get()
    if worker is None:
        raise PoiseError("this_worker() is for the code of a call, in a worker of a pool, and none runs here")
    return ThisWorker(worker)
