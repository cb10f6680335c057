"""The items of one call, as they come, and the credit that bounds them."""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from poise.errors import PoolClosed

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from poise._engine.call import Call

R_co = TypeVar("R_co", covariant=True)


class StreamBuffer:
    """Items that have arrived for a stream and were not taken yet, and the credit that bounds them."""

    __slots__ = ("arrived", "items", "owed", "reader", "window")

    def __init__(self, window: int) -> None:
        self.window: int = window
        """Most items that the worker may be ahead of the consumer."""
        self.items: deque[Any] = deque()
        self.owed: int = 0
        """Items taken since the worker was last given more."""
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
            call.credit(owed)
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
