"""The making of an actor, which can be given up while Ray is at it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import ray

from poise._ray.blocking import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

_ray: Any = ray  # its own types leave out some of what it takes

Made: TypeAlias = "tuple[Any, Any]"
"""The handle of an actor and the reference of its first call."""

GIVEN_UP: Final = 2.0
"""Seconds that a creation that is given up is waited for; later its own thread kills what it has made."""


class Creation:
    """Has one actor made on a thread. What it makes is taken by the launch or killed, whenever Ray is done with it."""

    def __init__(self, make: Callable[[], Made]) -> None:
        """Begin."""
        self._make = make
        self._lock = threading.Lock()
        self._is_given_up = False
        self._made: Made | None = None
        self._thread = asyncio.ensure_future(in_thread(self._run))

    async def outcome(self) -> Made:
        """The actor, once Ray has taken note of it. Cancelling does not stop the making: see `give_up`."""
        return await asyncio.shield(self._thread)

    async def give_up(self) -> Made | None:
        """The actor that was made, for the caller to kill; None if there is none, or the thread will kill it."""
        await asyncio.wait({self._thread}, timeout=GIVEN_UP)
        with self._lock:
            self._is_given_up = True
            made = self._made
        if not self._thread.cancel() and not self._thread.cancelled():
            self._thread.exception()  # there is nothing to kill then, and nobody asks
        return made

    def _run(self) -> Made:  # a thread of its own
        made = self._make()
        with self._lock:
            if not self._is_given_up:
                self._made = made
                return made
        kill_actor(made[0])
        return made


def refuse_another_ray() -> None:
    """Keep Ray from starting anew.

    Raises:
        RuntimeError: it is not running any more.
    """
    if not ray.is_initialized():
        raise RuntimeError("Ray has been shut down")


def kill_actor(host: Any) -> None:
    """Have Ray kill an actor."""
    if ray.is_initialized():
        with contextlib.suppress(Exception):  # it is dead already, or Ray is
            _ray.kill(host, no_restart=True)


def kill_forgotten(host: Any) -> None:
    """Kill an actor of a lane that was collected, on a thread of its own: the collector may run on Ray's."""
    with contextlib.suppress(RuntimeError):  # no threads any more: the interpreter ends, and Ray with it
        threading.Thread(target=kill_actor, args=(host,), name="poise-forgotten", daemon=True).start()
