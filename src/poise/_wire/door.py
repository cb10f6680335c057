"""The one way from foreign threads to the engine's loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
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
