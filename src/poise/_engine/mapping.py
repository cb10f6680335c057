"""Many calls of one function: items are taken lazily, results come in order or as they are ready."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from poise.errors import LeaseExpired, PoolBroken, PoolClosed

if TYPE_CHECKING:
    from poise._engine.call import Call
    from poise.options import OnError

A = TypeVar("A")
R = TypeVar("R")

_END: Any = object()
_SKIPPED: Any = object()

_ENDS = (PoolClosed, PoolBroken, LeaseExpired)
"""Errors that every further call would end with too."""


class Bar(Protocol):
    """What shows how far a map has come."""

    def start(self) -> None:
        """Be there; may be told again."""

    def advance(self, *, has_failed: bool) -> None:
        """One more result, or one more call that failed."""

    def stop(self) -> None:
        """Stay as it is; may be told again."""


class Results(AsyncIterator[R]):
    """The results of a map: use it in `async for`.

    Cancelling one `anext` loses nothing, and the next one goes on. Whatever else ends the iteration, be it an error,
    `aclose` or that nobody holds this any more, cancels the calls that are out.
    """

    __slots__ = ("__weakref__", "_mapping")

    def __init__(
        self,
        submit: Callable[[A], Call[R]],
        items: Iterable[A] | AsyncIterable[A],
        window: int,
        *,
        is_ordered: bool,
        on_error: OnError = "raise",
        bar: Bar | None = None,
    ) -> None:
        """Made by `Pool.map`; not for users.

        Args:
            submit: makes the call for one item.
            items: what is mapped.
            window: the most calls between the source and the consumer.
            is_ordered: whether results come in the order of the items.
            on_error: what becomes of a call that fails.
            bar: shows how far it has come.
        """
        # Apart, because the frames of an error that ends the iteration hold it, and must not keep this alive.
        self._mapping: _Mapping[R] = _Mapping(
            submit, _Source(items), _Window(is_ordered=is_ordered), window, on_error, bar
        )

    def __anext__(self) -> Coroutine[Any, Any, R]:
        """The next result.

        Raises:
            StopAsyncIteration: there are no more.
            RuntimeError: somebody else waits for it already.
            PoiseError: see `Pool.run`; also any exception of the function's or the source's own.
        """
        return self._mapping.next()

    async def aclose(self) -> None:
        """Cancel the calls that are out, and take no more items."""
        await self._mapping.aclose()

    def __del__(self) -> None:
        """Nobody takes results any more; the collector may say so, on any thread."""
        mapping: _Mapping[R] | None = getattr(self, "_mapping", None)  # there is none if the items cannot be iterated
        if mapping is not None:
            mapping.abandon()


class _Mapping(Generic[R]):
    """Calls that are made of items, and their results."""

    __slots__ = ("_bar", "_is_over", "_is_waiting", "_loop", "_on_error", "_out", "_source", "_submit", "_window")

    def __init__(
        self,
        submit: Callable[[Any], Call[R]],
        source: _Source,
        out: _Window[R],
        window: int,
        on_error: OnError,
        bar: Bar | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._submit = submit
        self._source = source
        self._out = out
        self._window = window
        self._on_error = on_error
        self._bar = bar
        self._is_waiting = False
        self._is_over = False

    async def next(self) -> R:
        """See `Results.__anext__`."""
        if self._is_waiting:
            raise RuntimeError("the results are being iterated by somebody else already")
        self._is_waiting = True
        try:
            if self._bar is not None and not self._is_over:
                self._bar.start()
            while True:
                while self._is_to_wait():
                    await self._news()
                if self._is_over:
                    break
                if (result := self._take()) is not _SKIPPED:
                    return result
        except asyncio.CancelledError:
            raise  # only this consumer's waiting ends
        except BaseException:
            await self.aclose()
            raise
        finally:
            self._is_waiting = False
        self._end()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """See `Results.aclose`."""
        fetch = self._source.cancel()
        self._end()
        if fetch is not None:
            await asyncio.wait({fetch})

    def abandon(self) -> None:  # runs on any thread
        """The same, for nobody who waits for it."""
        if not self._is_over and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._is_over = True
        self._out.cancel()
        self._source.cancel()
        if self._bar is not None:
            self._bar.stop()

    def _take(self) -> R:
        call = self._out.pop()
        error = call.exception()
        if self._bar is not None:
            self._bar.advance(has_failed=error is not None)
        if error is None:
            return call.result()
        if self._on_error == "raise" or isinstance(error, _ENDS) or not isinstance(error, Exception):
            del call  # the error must not hold the call that holds it
            try:
                raise error
            finally:
                del error
        return _SKIPPED if self._on_error == "skip" else cast("R", error)

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
