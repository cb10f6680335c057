"""Runs the calls of an inbox: synchronous functions on threads, coroutines on a loop, generators as streams.

At most `concurrency` calls run at once. Each thread that runs calls holds a slot, which goes with a coroutine to the
loop; the thread then waits for another. At concurrency 1 there is one thread, the one that called `run`, and every
call runs on it, coroutines included.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Generator
from queue import SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from poise._answers import RAISED, RETURNED, Answer, Ending
from poise._protocol.codec import unpack_arguments
from poise._protocol.exceptions import pack_exception
from poise._worker.advice import advise
from poise._worker.context import context_of, leave
from poise._worker.coroutines import Coroutines
from poise._worker.current import take_seat
from poise._worker.loop_thread import LoopThread
from poise._worker.outlet import Outlet, check_iterable, is_async_iterable, is_coroutine, pack_item, pack_result
from poise._worker.own_loop import OwnLoop

if TYPE_CHECKING:
    from poise._protocol.credit import Credit
    from poise._protocol.payloads import Packed
    from poise._worker.inbox import Arrival, Inbox
    from poise._worker.shelf import FunctionShelf

_log = logging.getLogger("poise")

_NEVER_AWAITED: Final = frozenset({int, float, str, bytes, bool, type(None), list, tuple, dict})


def calls_loop(inbox: Inbox, concurrency: int, name: str = "poise-runner") -> OwnLoop | LoopThread:
    """Make the loop on which a worker's coroutines will run; nothing is started yet."""
    return OwnLoop(inbox) if concurrency == 1 else LoopThread(f"{name}-loop")


class Runner:
    """Takes calls from an inbox and runs them on an instance."""

    def __init__(
        self,
        inbox: Inbox,
        shelf: FunctionShelf,
        outlet: Outlet,
        concurrency: int = 1,
        name: str = "poise-runner",
        loop: OwnLoop | LoopThread | None = None,
        *,
        writable: bool = False,
    ) -> None:
        """Run nothing yet; see `run`.

        Args:
            inbox: where calls arrive.
            shelf: finds what a call is to run.
            outlet: takes results, errors and stream items.
            concurrency: how many calls may run at once.
            name: how the names of its own threads begin.
            loop: what `calls_loop` gave for the same, if it was used before.
            writable: whether large arrays arrive writable, as small ones do.
        """
        self._inbox = inbox
        self._find = shelf.find
        self._adds_instance = shelf.adds_instance
        self._outlet = outlet
        self._reply = outlet.reply
        self._concurrency = concurrency
        self._writable = writable
        self._name = name
        self._loop = loop or calls_loop(inbox, concurrency, name)
        self._own_loop = self._loop if isinstance(self._loop, OwnLoop) else None
        self._coroutines = Coroutines(outlet, self._end_coroutine, self._loop)
        # Invariant: tokens here + threads that hold a slot + coroutines that run == concurrency.
        self._slots: SimpleQueue[None] = SimpleQueue()
        for _ in range(concurrency - 1):
            self._slots.put(None)
        self._lock = threading.Lock()
        self._threads = 1  # the one that calls `run`
        self._idle = 0  # threads that wait for a slot or a call

    def run(self, at_end: Callable[[], object] | None = None) -> None:
        """Run calls on this thread until the inbox is closed.

        If it raises, or returns before that was asked for, poise itself has failed, and the worker must end: nobody
        would answer.

        Args:
            at_end: called on this thread after the last call, while the loop of the coroutines still stands.
        """
        try:
            if self._own_loop is not None:
                self._run_alone(self._own_loop)
            else:
                self._idle += 1
                self._run_among_others()
            if at_end is not None:
                at_end()
        finally:
            self._loop.wind_up()

    def _run_alone(self, loop: OwnLoop) -> None:
        take, begin = self._inbox.take, self._begin
        seat = take_seat(self._outlet)
        while (call := take(loop.wait)) is not None:
            seat.call = call
            handed_over = begin(call) if call.headers is None else self._begin_within(call)
            seat.call = call = None  # a thread that waits must not keep the last call's arguments alive
            if handed_over:
                loop.finish()

    def close(self) -> None:
        """Let the threads end. A synchronous call that runs is left alone; coroutines and streams are stopped."""
        self._inbox.close()
        self._coroutines.close()
        for _ in range(self._concurrency):
            self._slots.put(None)

    # -----------------------------------------------------------------------------------------------------------------
    # Threads: before one of them blocks in a synchronous call it makes sure that another waits for the next call.

    def _run_among_others(self) -> None:
        seat = take_seat(self._outlet)
        while (call := self._inbox.take()) is not None:
            with self._lock:
                self._idle -= 1
            seat.call = call
            handed_over = self._begin(call) if call.headers is None else self._begin_within(call)
            seat.call = call = None
            with self._lock:
                self._idle += 1
            if handed_over:
                self._slots.get()

    def _let_another_follow(self) -> None:
        with self._lock:
            if self._idle or self._threads >= self._concurrency:
                return
            self._threads += 1
            self._idle += 1
            name = f"{self._name}-{self._threads}"
        try:
            threading.Thread(target=self._follow, name=name, daemon=True).start()
        except (RuntimeError, MemoryError) as error:  # the system gives no more threads: fewer calls run at once
            _log.warning("a worker cannot start its thread %s of %s: %s", name, self._concurrency, error)
            with self._lock:
                self._threads -= 1
                self._idle -= 1

    def _follow(self) -> None:
        self._slots.get()
        try:
            self._run_among_others()
        except BaseException:
            self._inbox.close()  # its slot is lost, so the other threads end too, and the worker with them
            raise

    # -----------------------------------------------------------------------------------------------------------------
    # One call

    def _begin(self, call: Arrival) -> bool:
        """Run the call to its end and return False, or hand it over to the loop with its slot and return True."""
        began = perf_counter()
        try:
            args, kwargs = unpack_arguments(call.arguments, call.awaited, writable=self._writable)
            function = self._find(call.target)
            if self._concurrency > 1 and not _is_async(function):
                self._let_another_follow()
            try:
                result = function(*args, **kwargs)
            except TypeError as error:
                advise(error, function, args, kwargs, adds_instance=self._adds_instance(call.target))
                raise
            if call.credit is not None:
                if is_coroutine(result) or is_async_iterable(result):
                    self._coroutines.start_stream(call, call.credit, result, began)
                    return True
                self._produce(call.call_id, call.credit, result)
                packed = None
            elif type(result) not in _NEVER_AWAITED and is_coroutine(result):
                self._coroutines.start(call, result, began)
                return True
            else:
                packed = pack_result(result)
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises ends this call alone
            self._end(call, RAISED, pack_exception(error, skip_frames=1), began)
        else:
            del args, kwargs, result  # so that a buffer of the result need not be copied for fear of these
            self._end(call, RETURNED, packed, began)
        return False

    def _begin_within(self, call: Arrival) -> bool:
        """Do so in the context that its caller gives it, from where its tasks inherit that."""
        began = perf_counter()
        try:
            context = context_of(call)
        except BaseException as error:  # noqa: BLE001 - a class of the user's own is unpickled there
            call.headers = None
            self._end(call, RAISED, pack_exception(error), began)
            return False
        return context.run(self._begin, call)

    def _end(self, call: Arrival, ending: Ending, packed: Packed | None, began: float) -> None:
        self._inbox.ended(call.call_id)
        seconds = perf_counter() - began
        if call.headers is not None:
            leave()
        try:
            self._reply(Answer(call.call_id, ending, packed, seconds))
        except BaseException as error:  # noqa: BLE001 - a value that cannot be passed on, most likely for want of memory
            self._reply(Answer(call.call_id, RAISED, pack_exception(error), seconds))

    def _end_coroutine(self, call: Arrival, ending: Ending, packed: Packed | None, began: float) -> None:
        try:
            self._end(call, ending, packed, began)
        except BaseException:
            self._inbox.close()  # as in `_follow`
            raise
        finally:
            if self._own_loop is None:
                self._slots.put(None)
            else:
                self._own_loop.ended()

    def _produce(self, call_id: int, credit: Credit, source: Any) -> None:
        """Send the items of a synchronous iterable, on this thread, until it ends or nobody wants more."""
        iterator = iter(check_iterable(source))
        try:
            while credit.take():
                try:
                    item = next(iterator)
                except StopIteration:
                    return
                packed = pack_item(item)
                item = None  # as in `_begin`
                self._outlet.item(call_id, packed)
        finally:
            if isinstance(iterator, Generator):
                iterator.close()


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
