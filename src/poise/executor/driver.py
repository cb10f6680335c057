"""Between the threads: a pool on a loop and a thread of its own.

Futures go in by one door, in batches; the pool asks each of them whether it may still begin at the moment of sending
it, and that is where `cancel()` stops to work.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
from concurrent import futures
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, TypeVar

from poise._lanes.door import Door
from poise._ray.forks import forked_error
from poise.errors import PoolBroken, PoolClosed
from poise.executor.accepted import AcceptedCall
from poise.executor.broken import ExecutorBroken, as_original, broken
from poise.executor.exit import EXIT
from poise.executor.processes import processes_of
from poise.options import CallOptions
from poise.view import engine_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from poise._engine.call import Call
    from poise.executor.processes import WorkerProcess
    from poise.executor.room import Room
    from poise.pool import Pool
    from poise.stats import Stats

R = TypeVar("R")

INTERRUPTED_FOR: Final = 2.0
"""Seconds that running calls have after the first Ctrl-C."""


STARTED_WITHIN: Final = 10.0
"""Seconds for which somebody who asks for the processes waits for all of them: Ray may have no room for some."""


class Driver:
    """Runs a pool on an event loop and a thread of its own, from the first call until it is shut and all is done.

    It knows nothing of its executor, so that one that is forgotten can be collected.
    """

    def __init__(
        self,
        pool: Pool[Any],
        room: Room | None = None,
        on_broken: Callable[[ExecutorBroken], None] | None = None,
    ) -> None:
        self._pool = pool
        self._carries = engine_of(pool).carries
        self._on_broken = on_broken
        self._room = room
        """What `submit` waits for; None if it never waits."""
        self._lock = threading.RLock()  # the collector may end another executor in the midst of anything
        self._refusal: Callable[[], Exception] | None = None
        """Why nothing more is accepted."""
        self._thread: threading.Thread | None = None
        # Below: once there is a thread.
        self._loop: asyncio.AbstractEventLoop
        self._door: Door[AcceptedCall[Any]]
        self._shut: asyncio.Event
        # Below: touched on the loop alone.
        self._unsettled: dict[AcceptedCall[Any], Call[Any] | None] = {}
        """Accepted calls without an outcome, in order; None for those that the pool has not been told of."""
        self._opening: asyncio.Task[Any] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._is_open = False
        # Below: touched by whoever is interrupted, which is the main thread.
        self._interrupts = 0

    # ---------------------------------------------------------------- any thread

    @property
    def state(self) -> str:
        """Where it is in its life."""
        if self._refusal is not None:
            return "shut down"
        return "not started" if self._thread is None else "started"

    def submit(
        self, function: Callable[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AcceptedCall[Any]:
        """Accept a call.

        Raises:
            RuntimeError, ExecutorBroken: nothing more is accepted.
        """
        context = copy_context() if self._carries else None
        future: AcceptedCall[Any] = AcceptedCall(self, (function, args, kwargs, context))
        room = self._room
        if room is None:
            self._accept(future)
            return future
        room.take(may_wait=threading.current_thread() is not self._thread)
        try:
            self._accept(future)
        except BaseException:
            room.give_back()
            raise
        room.give_back_with(future)
        return future

    def _accept(self, future: AcceptedCall[Any]) -> None:
        with self._lock:
            if self._refusal is not None:
                raise self._refusal()
            if self._thread is None:
                self._start()
            self._door.put(future)

    def tell(self, future: AcceptedCall[Any]) -> None:
        """A future that was accepted has been cancelled."""
        self._door.put(future)

    def shut(self, *, cancel_futures: bool = False, when: str = "shutdown") -> None:
        """Accept nothing more; end when everything that was accepted has its outcome."""
        with self._lock:
            if self._refusal is None:
                self._refusal = functools.partial(RuntimeError, f"cannot schedule new futures after {when}")
            self._call(self._on_shut, cancel_futures)
        self._let_nobody_wait()

    def interrupt(self) -> None:
        """The user wants the program to end: give running calls a moment, or none if it is the second time."""
        self._interrupts += 1
        self.end_within(INTERRUPTED_FOR if self._interrupts == 1 else 0)

    def end_within(self, seconds: float) -> None:
        """Cancel what has not begun, and after so many seconds kill the workers that still run something."""
        self.shut(cancel_futures=True)
        self._call(self._give_up_within, seconds)

    def join(self) -> None:
        """Wait until nothing is left.

        Raises:
            KeyboardInterrupt: the user has interrupted it, once for a quick end or twice for a quicker one.
        """
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        interrupted: KeyboardInterrupt | None = None
        while thread.is_alive():
            try:
                thread.join()
            except KeyboardInterrupt as error:
                if self._interrupts > 1:
                    raise
                interrupted = error
                self.interrupt()
        if interrupted is not None:
            raise interrupted

    def stats(self) -> Stats:
        """What the pool is doing.

        Raises:
            PoolClosed: it has not been opened.
        """
        return self._pool.stats()

    def processes(self) -> dict[int, WorkerProcess]:
        """The processes of the workers on this machine; waits a while until all have started."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return {}
        starting = self._all_started()
        try:
            started = asyncio.run_coroutine_threadsafe(starting, self._loop)
        except RuntimeError:  # the loop is closed
            starting.close()
            return {}
        with contextlib.suppress(futures.CancelledError, TimeoutError):  # it is being closed
            started.result(2 * STARTED_WITHIN)
        return processes_of(self.stats().workers)

    def ask(self, of_the_pool: Callable[[Pool[Any]], Coroutine[Any, Any, R]]) -> R:
        """Ask something of the pool, once it is open, and wait for the answer.

        Raises:
            PoolClosed: there is none yet, or none any more.
            RuntimeError: here runs a callback of a future, on the thread that would answer.
            Exception: what the pool raises.
        """
        thread = self._thread
        if thread is None:
            raise PoolClosed("nothing has been submitted to the executor yet, so it has no workers")
        if thread is threading.current_thread():
            raise RuntimeError("a callback of a future must not wait for its executor: do this in another thread")
        asking = self._once_open(of_the_pool)
        try:
            answer = asyncio.run_coroutine_threadsafe(asking, self._loop)
        except RuntimeError as error:  # the loop is closed
            asking.close()
            raise PoolClosed("the executor has been shut down") from error
        try:
            return answer.result()
        except futures.CancelledError as error:
            raise PoolClosed("the executor was shut down meanwhile") from error

    @property
    def failure(self) -> ExecutorBroken | None:
        """Why nothing is accepted any more, if that is not because it was shut down."""
        refusal = None if self._refusal is None else self._refusal()
        return refusal if isinstance(refusal, ExecutorBroken) else None

    def forget(self) -> None:
        """This is a forked child, in which the thread does not live and the loop's sockets are the parent's."""
        self._lock = threading.RLock()
        self._thread = None
        self._refusal = functools.partial(forked_error, os.getppid(), "which has started this executor")

    def _let_nobody_wait(self) -> None:
        if self._room is not None:
            self._room.close()

    def _call(self, function: Callable[..., object], *args: Any) -> None:
        """Call something on the loop, if there is one that runs."""
        if self._thread is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                self._loop.call_soon_threadsafe(function, *args)

    def _start(self) -> None:
        if EXIT.has_begun:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._run, name="poise-executor", daemon=True)
        self._loop, self._door, self._shut = loop, Door(loop, self._deliver), asyncio.Event()
        EXIT.drivers.add(self)
        try:
            thread.start()
        except BaseException:
            EXIT.drivers.discard(self)
            loop.close()
            raise
        self._thread = thread

    # ---------------------------------------------------------------- the loop's thread

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._live())
        finally:
            EXIT.drivers.discard(self)

    async def _live(self) -> None:
        reason: Exception | None = None
        try:
            self._serving = asyncio.ensure_future(self._serve())
            await asyncio.wait({self._serving})
            if not self._serving.cancelled():
                self._serving.result()
        except Exception as error:  # noqa: BLE001 - whatever it is, the futures must hear of it
            reason = error.with_traceback(None)
        finally:
            await self._end(reason)

    async def _serve(self) -> None:
        if self._needs_no_pool:  # asked in the step that begins to open: a shutdown comes before it or finds the task
            return
        self._opening = asyncio.ensure_future(self._pool.open())
        try:
            await asyncio.wait({self._opening})
        except asyncio.CancelledError:
            self._opening.cancel()
            await asyncio.wait({self._opening})
            raise
        if not self._opening.cancelled():
            self._opening.result()
            self._take_up()
            await self._shut.wait()
            await self._pool.drain()

    async def _all_started(self) -> None:
        if self._opening is not None:
            await asyncio.wait({self._opening})
            with contextlib.suppress(TimeoutError, PoolBroken, PoolClosed):
                async with asyncio.timeout(STARTED_WITHIN):
                    await self._pool.until_ready()

    async def _once_open(self, of_the_pool: Callable[[Pool[Any]], Coroutine[Any, Any, R]]) -> R:
        await asyncio.sleep(0)  # a thread that has just begun opens the pool in its next step
        if self._opening is not None:
            await asyncio.wait({self._opening})
        return await of_the_pool(self._pool)

    def _take_up(self) -> None:
        """The pool is open: tell it of the calls that came before."""
        self._is_open = True
        for future in list(self._unsettled):
            self._hand_over(future)

    async def _end(self, reason: Exception | None) -> None:
        """Leave nothing: no future without an outcome, and nothing of the pool's."""
        with self._lock:
            if self._refusal is None:
                self._refusal = functools.partial(broken, reason)
        self._let_nobody_wait()
        if reason is not None and self._on_broken is not None:
            self._on_broken(broken(reason))
        await self._pool.aclose()
        await asyncio.sleep(0)  # what came through the door before the refusal has been delivered then
        for future in list(self._unsettled):
            self._fail(future, broken(reason))

    def _on_shut(self, cancel_futures: bool) -> None:  # noqa: FBT001 (call_soon passes no keywords)
        if cancel_futures:
            for future in list(self._unsettled):
                if future.cancel():
                    self._drop(future)
        self._shut.set()
        self._open_only_if_needed()

    @property
    def _needs_no_pool(self) -> bool:
        return self._shut.is_set() and not self._unsettled

    def _open_only_if_needed(self) -> None:
        if self._needs_no_pool and self._opening is not None:
            self._opening.cancel()

    def _give_up_within(self, seconds: float) -> None:
        if self._serving is not None:
            self._loop.call_later(seconds, self._serving.cancel)

    # ---------------------------------------------------------------- calls, on the loop

    def _deliver(self, arrived: list[AcceptedCall[Any]]) -> None:
        for future in arrived:
            if future.is_given_up:
                self._drop(future)
                continue
            self._unsettled[future] = None
            if self._is_open:
                self._hand_over(future)

    def _hand_over(self, future: AcceptedCall[Any]) -> None:
        """Submit the call to the pool."""
        assert future.order is not None
        (function, args, kwargs, context), future.order = future.order, None
        submit = functools.partial(
            engine_of(self._pool).submit, may_begin=future.may_begin, may_park=self._room is not None
        )
        order = function, args, kwargs, CallOptions()
        try:
            call = submit(*order) if context is None else context.run(submit, *order)
        except Exception as error:  # noqa: BLE001 - Overloaded, PoolBroken...
            self._fail(future, error)
            return
        if not call.done():
            self._unsettled[future] = call
        call.add_done_callback(functools.partial(self._settle, future))

    def _settle(self, future: AcceptedCall[Any], call: Any) -> None:
        if call.cancelled():
            self._drop(future)
        elif (error := call.exception()) is not None:
            self._fail(future, error)
        else:
            self._unsettled.pop(future, None)
            if future.may_begin():
                future.set_result(call.result())

    def _fail(self, future: AcceptedCall[Any], error: BaseException) -> None:
        error = as_original(error)
        # Without the frames it came through: these hold this future, which would hold itself.
        BaseException.with_traceback(error, None)
        self._unsettled.pop(future, None)
        future.order = None
        if future.may_begin():
            future.set_exception(error)

    def _drop(self, future: AcceptedCall[Any]) -> None:
        """Forget a future that was cancelled."""
        future.order = None
        future.may_begin()  # lets those who wait for it know
        call = self._unsettled.pop(future, None)
        if call is not None:
            call.drop()
        self._open_only_if_needed()
