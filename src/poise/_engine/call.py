"""What a caller holds: a future for one call, and a stream of a call's items."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from functools import partial
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from poise._core.call import CallState
from poise._wire.lane import Kind
from poise._wire.words import callable_name, is_text
from poise.errors import PoolClosed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from poise._core.call import CallRecord
    from poise._engine.dispatcher import Dispatcher
    from poise.options import CallOptions

R_co = TypeVar("R_co", covariant=True)
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

    @property
    def kind(self) -> Kind:
        """Whether the call gives a value or a stream."""
        return Kind.VALUE if self.stream is None else Kind.STREAM

    def grant(self, items: int) -> None:
        """Let the stream's producer send so many more items."""
        self._dispatcher.grant(self, items)

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


def name_of(function: Callable[..., Any] | str) -> str:
    """What to call a function in messages."""
    if type(function) is FunctionType:
        return function.__qualname__
    return function if is_text(function) else callable_name(function)


def pace_key(function: Callable[..., Any] | str) -> object:
    """What the service times of this function are averaged by: the same for each lambda made at one place."""
    return id(function.__code__) if type(function) is FunctionType else name_of(function)


def is_plain(function: Callable[..., Any] | str) -> bool:
    """Whether this is certainly plain code, which runs to its end whatever is asked of it."""
    code: Any = function
    while type(code) is partial:
        code = code.func
    if type(code) is FunctionType:
        return not code.__code__.co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR)
    return type(code) is BuiltinFunctionType


class StreamBuffer:
    """Items that have arrived for a stream and were not taken yet, and the credit that bounds them."""

    __slots__ = ("arrived", "items", "owed", "reader", "window")

    def __init__(self, window: int) -> None:
        self.window: int = window
        """Most items that the worker may be ahead of the consumer."""
        self.items: deque[Any] = deque()
        self.owed: int = 0
        """Items taken since the worker was last granted more."""
        self.arrived: asyncio.Future[None] | None = None
        """What the consumer waits for."""
        self.reader: weakref.ref[object] | None = None
        """The loop that takes the items, if it is one: dead when that has been left."""

    @property
    def is_read(self) -> bool:
        """Whether anybody is about to take items, as far as can be known."""
        return self.arrived is not None or (self.reader is not None and self.reader() is not None)

    @property
    def is_full(self) -> bool:
        """Whether the worker may send nothing before an item is taken."""
        return len(self.items) + self.owed >= self.window

    def put(self, items: Sequence[Any]) -> None:
        """Take in items from the worker."""
        self.items.extend(items)
        self.wake()

    def wake(self) -> None:
        """Let the consumer look again."""
        if self.arrived is not None and not self.arrived.done():
            self.arrived.set_result(None)


class Stream(Generic[R_co]):
    """The items of a generator method, as they come: use it in `async for`.

    The worker is at most 16 items ahead of the consumer. Leaving the loop, or `aclose`, stops the producer and frees
    its slot. With `anext` alone nobody can see that the last item was taken: use `contextlib.aclosing`, or leave the
    pool.
    """

    __slots__ = ("__weakref__", "_buffer", "_call", "_is_done", "_submit")

    def __init__(self, submit: Callable[[StreamBuffer], Call[Any]], window: int) -> None:
        """Made by `Pool.stream`; not for users."""
        self._submit = submit
        self._buffer = StreamBuffer(window)
        self._call: Call[Any] | None = None
        self._is_done = False

    def __aiter__(self) -> AsyncIterator[R_co]:
        """What a loop holds, and drops when it is left, even if the stream itself has a name."""
        reader = _Reader(self)
        self._buffer.reader = weakref.ref(reader)
        return reader

    async def __anext__(self) -> R_co:
        """The next item. The call is submitted by the first one.

        Cancelling it, as `asyncio.wait_for` does when its time is over, loses nothing: the next one goes on.

        Raises:
            StopAsyncIteration: the producer has ended.
            PoolClosed: the pool was left while nobody was about to take an item.
            RuntimeError: somebody else waits for the next item.
            PoiseError: see `Pool.run`; also any exception of the producer's own.
        """
        if self._is_done:
            raise StopAsyncIteration
        if self._call is None:
            self._call = self._submit(self._buffer)
            buffer = self._buffer  # not self, which would keep a broken-out stream alive
            self._call.add_done_callback(lambda _: buffer.wake())
        while not self._buffer.items:
            await self._arrival()
        return self._take()

    async def _arrival(self) -> None:
        """Wait until there is news, or raise what the stream has ended with."""
        if self._call is None or self._is_done:
            raise StopAsyncIteration
        if self._call.done():
            raise self._how_it_ended()
        buffer = self._buffer
        if buffer.arrived is not None:
            raise RuntimeError("the stream is being iterated by somebody else already")
        buffer.arrived = self._call.get_loop().create_future()
        try:
            await buffer.arrived
        finally:
            buffer.arrived = None

    def _how_it_ended(self) -> BaseException:
        """What the loop ends with. The call is forgotten, so that the error does not hold itself by way of it."""
        call, self._call, self._is_done = self._call, None, True
        assert call is not None
        if call.cancelled():
            return PoolClosed("the pool was left while nobody was about to take an item of this stream")
        error = call.exception()
        return StopAsyncIteration() if error is None else error

    def _take(self) -> R_co:
        buffer, call = self._buffer, self._call
        item: R_co = buffer.items.popleft()
        buffer.owed += 1
        if buffer.owed * 2 >= buffer.window and call is not None and not call.done():
            owed, buffer.owed = buffer.owed, 0
            call.grant(owed)
        return item

    async def aclose(self) -> None:
        """Stop the producer; the slot is free when the worker has closed the generator."""
        self._cancel()

    def abandon(self) -> None:
        """Nobody takes items any more; the collector may say so, on any thread."""
        call = self._call
        if call is not None and not self._is_done:
            self._is_done = True
            loop = call.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(call.drop)

    def _cancel(self) -> None:
        self._is_done = True
        if self._call is not None:
            self._call.drop()
            self._buffer.items.clear()

    def __del__(self) -> None:
        """Stop the producer of a stream that nobody holds."""
        self.abandon()

    def __repr__(self) -> str:
        """Give the call behind the stream."""
        if self._call is not None:
            return f"<Stream of {self._call!r}>"
        return "<Stream ended>" if self._is_done else "<Stream not begun>"


class _Reader(Generic[R_co]):
    """One loop over a stream."""

    __slots__ = ("__weakref__", "_stream")

    def __init__(self, stream: Stream[R_co]) -> None:
        self._stream = stream

    def __aiter__(self) -> _Reader[R_co]:
        return self

    def __anext__(self) -> Coroutine[Any, Any, R_co]:
        return self._stream.__anext__()

    def __del__(self) -> None:
        """The loop was left."""
        self._stream.abandon()
