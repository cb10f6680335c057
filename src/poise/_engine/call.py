"""What a caller holds: a future for one call."""

from __future__ import annotations

import asyncio
import logging
import math
from functools import partial
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any, TypeVar

from poise._answers import RETRYABLE, Answer
from poise._core.states import CallState
from poise._lanes.lane import Parcel
from poise._protocol.pickling import is_object_ref
from poise._protocol.traces import add_note
from poise._protocol.words import callable_name, is_text
from poise.batching import ASYNC_ONE, ONE, batching_of, check_arguments
from poise.errors import ConfigError, DeadlineExceeded

if TYPE_CHECKING:
    from collections.abc import Callable

    from poise._core.calls import CallRecord
    from poise._core.scheduler import Scheduler
    from poise._engine.dispatcher import Dispatcher
    from poise._engine.stream import StreamBuffer
    from poise._protocol.messages import Headers
    from poise.options import CallOptions

logger = logging.getLogger("poise")

R = TypeVar("R")


class Call(asyncio.Future[R]):
    """A call that was submitted to a pool: await it, gather it, cancel it.

    It is an `asyncio.Future` of the pool's own loop. Cancelling answers its caller at once; a call that has not begun
    will then never run, and one that runs keeps its worker's slot until the worker answers, or until `kill`.
    """

    __slots__ = ("_dispatcher", "args", "function", "kwargs", "may_begin", "name", "options", "record", "stream")

    def __init__(
        self,
        dispatcher: Dispatcher,
        function: Callable[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
        stream: StreamBuffer | None = None,
    ) -> None:
        """Made by `Pool.submit`; not for users."""
        super().__init__(loop=dispatcher.loop)
        self._dispatcher = dispatcher
        self.function: Callable[..., Any] | str = function
        self.args: tuple[Any, ...] = args
        self.kwargs: dict[str, Any] = kwargs
        self.options: CallOptions = options
        self.stream: StreamBuffer | None = stream
        self.name: str = name_of(function)
        self.record: CallRecord | None = None
        self.may_begin: Callable[[], bool] | None = None
        """Asked each time before the call is sent to a worker; False cancels it instead."""

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the call: its caller gets `CancelledError` now, and it never runs if it has not begun.

        Returns:
            False if the call had its outcome already.

        Raises:
            WrongLoop: cancelled from another loop or thread than the pool's own while that runs.
        """
        if self._dispatcher.loop.is_running():  # when it does not, asyncio is cancelling what is left
            self._dispatcher.check_loop()
        if not super().cancel(msg):
            return False
        self._dispatcher.cancel(self)
        return True

    def kill(self) -> bool:
        """Cancel the call, and end the worker that runs it; another one takes that worker's place at once.

        For plain code, which nothing else can stop. The worker ends abruptly, without `finally` or `close`; calls
        beside this one, with `concurrency` above 1, are lost or retried as at any death. A call that has not begun is
        only cancelled, and harms no worker. Works also for a call that was cancelled or timed out before, and still
        occupies its worker.

        Returns:
            False if the call has ended, so that no worker holds it.

        Raises:
            WrongLoop: called from another loop or thread than the pool's own.
            ConfigError: it is a call of `Pool.of`, whose actors are not the pool's to kill.
        """
        dispatcher, record = self._dispatcher, self.record
        dispatcher.check_loop()
        dispatcher.check_may_kill("kill", self)
        if record is None or record.state is CallState.DONE:
            return False
        super().cancel()  # does nothing to one that was answered before
        dispatcher.kill(self, 0.0)
        return True

    def parcel(self, record: CallRecord) -> Parcel:
        """What goes to a worker of an attempt."""
        credit = None if self.stream is None else self.stream.window
        is_ahead = record.state is CallState.AHEAD
        return Parcel(record.id, self.function, self.args, self.kwargs, is_ahead, credit)

    def headers(self, record: CallRecord) -> Headers | None:  # noqa: ARG002 - what a `CarryingCall` gives
        """What else a worker is told of an attempt."""
        return None

    def credit(self, items: int) -> None:
        """Let the stream's producer send so many more items."""
        self._dispatcher.credit(self, items)

    def drop(self) -> None:
        """Cancel the call, or take note of its outcome: nobody will ask for it."""
        if not self.cancel() and not self.cancelled():
            self.exception()  # keeps asyncio from reporting an error that was never retrieved

    def release(self) -> None:
        """Let go of what the call no longer needs, so that a kept future keeps no argument alive."""
        self.args = ()
        self.kwargs = {}
        self.may_begin = None
        if self.record is not None:
            self.record.tag = None

    def __repr__(self) -> str:
        """Give the call's number, its function and where it stands."""
        record = self.record
        number = "" if record is None else f" {record.id}"
        place = ""
        if self.done():
            state = "cancelled" if self.cancelled() else "failed" if self._exception is not None else "done"
        elif record is None:
            state = "new"
        else:
            state = record.state.name.lower()
            worker = record.worker  # read once: the loop may take it away from a thread that looks
            place = f" on worker {worker.id}" if worker is not None else ""
        return f"<Call{number} {self.name} {state}{place}>"


def judged(call: Call[Any] | None, answer: Answer) -> Answer:
    """Whether the caller wants another attempt after this exception."""
    if call is None or not call.options.retry_on:
        return answer
    try:
        is_retryable = isinstance(answer.value, call.options.retry_on)
    except Exception:  # `__instancecheck__` is the user's own code, and others are answered in this step too
        logger.exception("retry_on of %s cannot be asked about an exception, so it is not tried again", call.name)
        return answer
    return answer._replace(ending=RETRYABLE) if is_retryable else answer


def time_limit(options: CallOptions, now: float) -> tuple[float, float]:
    """How long a call may take from now on, and until when.

    Raises:
        DeadlineExceeded: the view's deadline has passed.
    """
    # A number of numpy's would make the sum as imprecise as it is itself.
    timeout = math.inf if options.timeout is None else float(options.timeout)
    if options.deadline is not None:
        timeout = min(timeout, float(options.deadline) - now)
        if timeout <= 0:
            raise DeadlineExceeded(0.0, started=False)
    return timeout, now + timeout


def results_of(calls: list[Call[Any]]) -> list[Any]:
    """What each call of a broadcast has returned; the first failure is raised, with a note that counts them."""
    failures = [error for call in calls if (error := call.exception()) is not None]
    if not failures:
        return [call.result() for call in calls]
    first = failures[0]
    add_note(first, f"(the broadcast failed on {len(failures)} of {len(calls)} workers)")
    failures.clear()
    try:
        raise first
    finally:
        del first


def name_of(function: Callable[..., Any] | str) -> str:
    """What to call a function in messages."""
    if type(function) is FunctionType:
        return function.__qualname__
    return function if is_text(function) else callable_name(function)


def no_function(value: object) -> ConfigError:
    """What is raised for something that cannot be called."""
    allowed = "a function, a method of the workers' class, or a method's name, and after it the arguments: "
    return ConfigError("fn", value, f"{allowed}pool.run(f, x), and not pool.run(f(x))")


def new_record(scheduler: Scheduler, options: CallOptions) -> Callable[..., CallRecord]:
    """What makes the record of a call with these options: it takes no more room than they need."""
    shares, tenant = scheduler.shares, options.tenant
    if options.key is None:
        return shares.nobodys_call if tenant is None else shares.new_record(tenant, options.weight)
    owner = None if tenant is None else shares.tenant(tenant, options.weight)
    return partial(shares.keyed_call, options.key, options.patience, owner)


def pace_key(call: Call[Any]) -> object:
    """What the service times of the call's function are averaged by: the same for each lambda made at one place.

    Of a batched function it is what that asks for, by which its calls are put together.

    Raises:
        ConfigError: the function is batched, and what it is given does not suit that.
    """
    function = call.function
    if type(function) is not FunctionType:
        return call.name
    code = function.__code__
    return _batching_key(call) if code is ONE or code is ASYNC_ONE else id(code)


def _is_batched(function: object) -> bool:
    return type(function) is FunctionType and function.__code__ in (ONE, ASYNC_ONE)


def _batching_key(call: Call[Any]) -> object:
    check_arguments(call.name, call.args, call.kwargs, is_stream=call.stream is not None)
    batching = batching_of(call.function)
    # With a reference to an object of Ray's it goes alone: others would wait for the object, and might fail by it.
    return id(batching) if is_object_ref(call.args[0]) else batching


def most_together(function: Callable[..., Any] | str) -> int:
    """How many calls of this function may share a slot: one, unless it is batched."""
    return batching_of(function).max if _is_batched(function) else 1


def is_plain(function: Callable[..., Any] | str) -> bool:
    """Whether this is certainly plain code, which runs to its end whatever is asked of it."""
    code: Any = function
    while type(code) is partial:
        code = code.func
    if type(code) is FunctionType:
        return not code.__code__.co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR)
    return type(code) is BuiltinFunctionType
