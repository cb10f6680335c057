"""Calls that block, as those to Ray do: each is waited for on the loop, and can be left behind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("poise")

R = TypeVar("R")


async def in_thread(function: Callable[..., R], *args: Any) -> R:
    """Run a function that blocks in a thread of its own, which ends with it.

    Unlike `asyncio.to_thread` this leaves no idle thread behind, and a call that never returns does not keep the
    process from ending. Cancelling leaves the function running and drops its result.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[R] = loop.create_future()

    def settle(outcome: concurrent.futures.Future[R]) -> None:
        if done.cancelled():
            return
        error = outcome.exception()
        if error is None:
            done.set_result(outcome.result())
        else:
            done.set_exception(error)

    def run() -> None:
        outcome: concurrent.futures.Future[R] = concurrent.futures.Future()
        try:
            outcome.set_result(function(*args))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
            outcome.set_exception(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, outcome)

    thread = threading.Thread(target=run, name="poise-blocking", daemon=True)
    thread.start()
    try:
        return await done
    finally:
        if not done.cancelled():
            thread.join()  # it has nothing left to do but to end


async def in_thread_within(seconds: float, what: str, function: Callable[..., object], *args: Any) -> None:
    """Run a function that blocks as `in_thread` does, and leave it to its thread if it takes longer; the log says so.

    Args:
        seconds: how long to wait for it.
        what: what is waited for, as in "for Ray to end".
        function: what to call.
        args: arguments for it.
    """
    try:
        async with asyncio.timeout(seconds):
            await in_thread(function, *args)
    except TimeoutError:
        _log.warning("waited %.3g s %s in vain; a thread that still waits is left behind", seconds, what)


async def outcome_of(ref: Any) -> Any:
    """Wait for a Ray call. Cancelling leaves it running, as `await ref` would too, but without Ray's complaint."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(future: concurrent.futures.Future[Any]) -> None:
        if not done.done():
            error = future.exception()
            if error is None:
                done.set_result(future.result())
            else:
                done.set_exception(error)

    def on_ray_done(future: concurrent.futures.Future[Any]) -> None:  # runs on Ray's thread
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, future)

    ref.future().add_done_callback(on_ray_done)
    return await done
