"""Many calls of one function: items are taken lazily, results come in order or as they are ready."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from poise._engine.call import Call

A = TypeVar("A")
R = TypeVar("R")

_END: Any = object()


async def map_calls(
    submit: Callable[[A], Call[R]], items: Iterable[A] | AsyncIterable[A], window: int, *, is_ordered: bool
) -> AsyncGenerator[R]:
    """Submit a call for each item, with at most `window` of them between the source and the consumer.

    Whatever ends the iteration, be it an error or the consumer's leaving, cancels the calls that are out.
    """
    source = _Source(items)
    out: _Window[R] = _Window(is_ordered=is_ordered)
    try:
        while True:
            while len(out) < window and not source.is_exhausted:
                item = source.take_nowait()
                if item is _END:
                    if out.is_next_ready or source.is_exhausted:
                        break
                    await _either(source.wait(), out)
                else:
                    out.add(submit(item))
            if not len(out):
                return
            if not out.is_next_ready:
                await (out.wait() if source.is_exhausted or len(out) >= window else _either(source.wait(), out))
            if out.is_next_ready:
                yield out.pop().result()
    finally:
        out.cancel()
        await source.aclose()


async def _either(item: asyncio.Future[Any], out: _Window[Any]) -> None:
    """Wait for an item of the source or for a result, whichever is first."""
    if len(out):
        await asyncio.wait({item, out.wait()}, return_when=asyncio.FIRST_COMPLETED)
    else:
        await asyncio.wait({item})


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

    async def aclose(self) -> None:
        """Stop waiting for an item."""
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.wait({self._fetch})
            if not self._fetch.cancelled():
                self._fetch.exception()  # it had failed meanwhile, and nobody takes it any more


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
        for call in self._calls:
            call.drop()

    def _on_done(self, call: Any) -> None:
        if not self._is_ordered and call in self._calls:
            self._done.append(call)
        if self._changed is not None and not self._changed.done() and self.is_next_ready:
            self._changed.set_result(None)
