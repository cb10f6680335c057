"""Keeps a forked child off what only lives in the process that it was forked from."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from poise.errors import WrongLoop

if TYPE_CHECKING:
    from collections.abc import Callable


class _Forks:
    """What this process must not use because it was forked."""

    def __init__(self) -> None:
        self.parent: int | None = None
        """The process whose Ray was connected, or being connected, when this one was forked from it."""
        self.is_connecting = False
        self.closers: set[Callable[[], None]] = set()
        """Called in a forked child: to close what would otherwise stay open for as long as the child lives."""
        if _is_ray_of_another():
            self.parent = os.getppid()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_in_child)

    def _after_in_child(self) -> None:
        if self.is_connecting or _is_ray_initialised():
            self.parent = os.getppid()
        self.is_connecting = False
        closers, self.closers = self.closers, set()
        for close in closers:
            close()


def refuse_forked() -> None:
    """Keep a forked child from Ray's connection, of which it has the memory and not the threads.

    Raises:
        WrongLoop: Ray was connected when this process was forked.
    """
    if forks.parent is not None:
        raise forked_error(forks.parent, "whose Ray was connected by then")


def forked_error(parent: int, why: str) -> WrongLoop:
    """What a forked child is told."""
    return WrongLoop(
        f"process {os.getpid()} was forked from process {parent}, {why}: threads and connections do not outlive a "
        'fork, so neither can be used here. Start the child with multiprocessing.get_context("spawn"), or fork it '
        "before Ray is connected and open the pool in the child"
    )


def _is_ray_initialised() -> bool:
    ray: Any = sys.modules.get("ray")
    return ray is not None and getattr(ray, "is_initialized", bool)()


def _is_ray_of_another() -> bool:
    """Whether Ray was connected by the process that this one was forked from, before this module was there to notice.

    Python marks the threads that a fork has left behind as ended; this one lives for as long as a program is connected.
    """
    if not _is_ray_initialised():
        return False
    worker: Any = getattr(sys.modules.get("ray._private.worker"), "global_worker", None)
    listener = getattr(worker, "listener_thread", None)
    return listener is not None and not listener.is_alive()


forks = _Forks()
