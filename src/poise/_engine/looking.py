"""Looking at a pool from any thread: its loop takes the snapshot, between two steps, so that the numbers add up."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final, TypeVar

from poise.errors import ConfigError, LoopBlocked, PoiseError

if TYPE_CHECKING:
    from collections.abc import Callable

    from poise._engine.dispatcher import Dispatcher
    from poise.stats import Stats

R = TypeVar("R")

TELLS_IN: Final = 5.0
"""Seconds that a worker has to say what it does."""
LOOKS_FOR: Final = 5.0
"""Seconds for which another thread waits for the loop to take a snapshot."""


def look(loop: asyncio.AbstractEventLoop, thread: int, see: Callable[[], R], within: float = LOOKS_FOR) -> R:
    """What `see` returns where nothing changes meanwhile; it must not wait.

    Args:
        loop: the only one that changes what is looked at.
        thread: the identifier of the thread in which that loop runs.
        see: what to look at.
        within: seconds to wait for a loop that is busy.

    Raises:
        LoopBlocked: the loop has not come to it in time.
    """
    if _is_here(loop, thread):
        return see()
    seen: Future[R] = Future()
    try:
        loop.call_soon_threadsafe(_answer, seen, see)
    except RuntimeError:  # it is closed, so nothing changes any more
        return see()
    try:
        return seen.result(within if loop.is_running() else 0.0)
    except TimeoutError:
        if not seen.cancel():  # it has come to it just now
            return seen.result()
    if loop.is_running():
        raise LoopBlocked(within)
    return see()


def stats_of(dispatcher: Dispatcher) -> Stats:
    """A snapshot, with where each worker runs."""
    stats = dispatcher.scheduler.stats(dispatcher.clock.time())
    origins = {worker_id: lane.origin for worker_id, lane in dispatcher.lanes.items()}
    workers = tuple(
        dataclasses.replace(worker, pid=origin.pid, node=origin.node, lane=origin.lane)
        if (origin := origins.get(worker.id)) is not None
        else worker
        for worker in stats.workers
    )
    return dataclasses.replace(stats, workers=workers)


async def stacks_of(dispatcher: Dispatcher, worker_id: int) -> str:
    """What the threads and tasks of a worker are doing.

    Raises:
        ConfigError: no worker of that number has started.
        PoiseError: it has ended meanwhile, does not answer, or cannot be asked.
    """
    lane = dispatcher.lanes.get(worker_id)
    if lane is None:
        started = ", ".join(map(str, dispatcher.lanes)) or "none"
        raise ConfigError("worker_id", worker_id, f"the number of a worker that has started: {started}")
    try:
        async with asyncio.timeout(TELLS_IN):
            return await lane.stacks()
    except TimeoutError:
        pid, node = lane.origin.pid, lane.origin.node
        raise PoiseError(
            f"worker {worker_id} has not answered within {TELLS_IN:g} s: its process is stopped, or C code keeps its "
            f"interpreter; where it runs, `py-spy dump --native --pid {pid}` looks at it from outside (node {node})"
        ) from None


def _is_here(loop: asyncio.AbstractEventLoop, thread: int) -> bool:
    if threading.get_ident() == thread:  # also where another loop runs inside a callback of this one
        return True
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _answer(seen: Future[R], see: Callable[[], R]) -> None:  # runs on the loop
    if not seen.set_running_or_notify_cancel():
        return
    try:
        seen.set_result(see())
    except BaseException as error:  # noqa: BLE001 - it belongs to the thread that asked
        seen.set_exception(error)
