"""Many calls of one function: items are taken lazily, results come in order or as they are ready."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from poise._engine.call import Call

A = TypeVar("A")
R = TypeVar("R")

_END: Any = object()


class Results(AsyncIterator[R]):
    """The results of a map: use it in `async for`.

    A call is submitted for each item, with at most `window` of them between the source and the consumer. Cancelling one
    `anext` loses nothing, and the next one goes on. Whatever else ends the iteration, be it an error, `aclose` or that
    nobody holds this any more, cancels the calls that are out.
    """

    __slots__ = ("_is_over", "_is_waiting", "_loop", "_out", "_source", "_submit", "_window")

    def __init__(
        self,
        submit: Callable[[A], Call[R]],
        items: Iterable[A] | AsyncIterable[A],
        window: int,
        *,
        is_ordered: bool,
    ) -> None:
        """Made by `Pool.map`; not for users."""
        self._is_over = True  # for `__del__`, if the items cannot be iterated
        self._loop = asyncio.get_running_loop()
        self._submit = submit
        self._source = _Source(items)
        self._out: _Window[R] = _Window(is_ordered=is_ordered)
        self._window = window
        self._is_waiting = False
        self._is_over = False

    async def __anext__(self) -> R:
        """The next result.

        Raises:
            StopAsyncIteration: there are no more.
            RuntimeError: somebody else waits for it already.
            PoiseError: see `Pool.run`; also any exception of the function's or the source's own.
        """
        if self._is_waiting:
            raise RuntimeError("the results are being iterated by somebody else already")
        self._is_waiting = True
        try:
            while self._is_to_wait():
                await self._news()
            if not self._is_over:
                return self._out.pop().result()  # without a name, or the error would hold the call that holds it
        except asyncio.CancelledError:
            raise  # only this consumer's waiting ends
        except BaseException:
            await self.aclose()
            raise
        finally:
            self._is_waiting = False
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Cancel the calls that are out, and take no more items."""
        self._is_over = True
        self._out.cancel()
        await self._source.aclose()

    def _is_to_wait(self) -> bool:
        """Submit what there is room for; whether there is nothing to give out yet."""
        out, source = self._out, self._source
        while len(out) < self._window and not source.is_exhausted and not self._is_over:
            item = source.take_nowait()
            if item is _END:
                break
            out.add(self._submit(item))
        if source.is_exhausted and not len(out):
            self._is_over = True
        return not self._is_over and not out.is_next_ready

    async def _news(self) -> None:
        """Wait for an item of the source or for a result, whichever is first."""
        out, source = self._out, self._source
        if source.is_exhausted or len(out) >= self._window:
            await out.wait()
        else:
            news: set[asyncio.Future[Any]] = {source.wait(), out.wait()} if len(out) else {source.wait()}
            await asyncio.wait(news, return_when=asyncio.FIRST_COMPLETED)

    def __del__(self) -> None:
        """Nobody takes results any more; the collector may say so, on any thread."""
        if not self._is_over and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_abandon, self._out, self._source)


def _abandon(out: _Window[Any], source: _Source) -> None:
    out.cancel()
    source.cancel()


class _Source:
    """A sync or async iterable, of which items are taken one at a time."""

    def __init__(self, items: Iterable[Any] | AsyncIterable[Any]) -> None:
        self.is_exhausted = False
        self._sync: Iterator[Any] | None = None
        self._async: AsyncIterator[Any] | None = None
        self._fetch: asyncio.Task[Any] | None = None
        if isinstance(items, AsyncIterable):
            self._async = aiter(items)
        else:
            self._sync = iter(items)

    def take_nowait(self) -> Any:
        """The next item, or `_END` if there is none or it has not come yet."""
        if self._sync is not None:
            item = next(self._sync, _END)
            self.is_exhausted = item is _END
            return item
        fetch = self.wait()
        if not fetch.done():
            return _END
        self._fetch = None
        try:
            return fetch.result()
        except StopAsyncIteration:
            self.is_exhausted = True
            return _END

    def wait(self) -> asyncio.Task[Any]:
        """What is done when an item has come. Only for async sources, since the others never keep one waiting."""
        assert self._async is not None
        if self._fetch is None:
            self._fetch = asyncio.ensure_future(_next(self._async))
        return self._fetch

    def cancel(self) -> asyncio.Task[Any] | None:
        """Stop waiting for an item; what is returned ends then."""
        fetch, self._fetch = self._fetch, None
        if fetch is not None:
            fetch.cancel()
            fetch.add_done_callback(_take_note)
        return fetch

    async def aclose(self) -> None:
        """Stop waiting for an item, and return when that is over."""
        fetch = self.cancel()
        if fetch is not None:
            await asyncio.wait({fetch})


def _take_note(fetch: asyncio.Task[Any]) -> None:
    """It may have failed meanwhile, and nobody asks for it any more."""
    if not fetch.cancelled():
        fetch.exception()


async def _next(source: AsyncIterator[Any]) -> Any:
    return await anext(source)


class _Window(Generic[R]):
    """Calls that were submitted and whose results were not taken yet."""

    def __init__(self, *, is_ordered: bool) -> None:
        self._is_ordered = is_ordered
        self._calls: OrderedDict[Call[R], None] = OrderedDict()  # first in, first out, in O(1)
        self._done: deque[Call[R]] = deque()
        """Those that have ended, in that order; used when results come as they are ready."""
        self._changed: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: Call[R]) -> None:
        self._calls[call] = None
        call.add_done_callback(self._on_done)

    @property
    def is_next_ready(self) -> bool:
        return next(iter(self._calls)).done() if self._is_ordered and self._calls else bool(self._done)

    def pop(self) -> Call[R]:
        call = next(iter(self._calls)) if self._is_ordered else self._done.popleft()
        del self._calls[call]
        return call

    def wait(self) -> asyncio.Future[None]:
        """What is done when another call has ended."""
        if self._changed is None or self._changed.done():
            self._changed = next(iter(self._calls)).get_loop().create_future()
        return self._changed

    def cancel(self) -> None:
        calls, self._calls = self._calls, OrderedDict()
        self._done.clear()
        for call in calls:
            call.drop()

    def _on_done(self, call: Any) -> None:
        if not self._is_ordered and call in self._calls:
            self._done.append(call)
        if self._changed is not None and not self._changed.done() and self.is_next_ready:
            self._changed.set_result(None)
