"""Runs coroutines and asynchronous streams on the worker's loop."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from poise._answers import RAISED, RETURNED, Ending
from poise._protocol.exceptions import pack_exception
from poise._worker.current import enter_task
from poise._worker.outlet import Outlet, check_iterable, is_async_iterable, is_coroutine, pack_item, pack_result

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable

    from poise._protocol.credit import Credit
    from poise._protocol.payloads import Packed
    from poise._worker.inbox import Arrival
    from poise._worker.loop_thread import CallsLoop


class Coroutines:
    """The asynchronous half of a runner."""

    def __init__(
        self, outlet: Outlet, end: Callable[[Arrival, Ending, Packed | None, float], None], loop: CallsLoop
    ) -> None:
        """Start nothing yet.

        Args:
            outlet: takes stream items.
            end: called on the loop's thread when a call has ended, with its verdict, packed value and beginning.
            loop: where they run.
        """
        self._item = outlet.item
        self._end = end
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps only weak references
        # Invariant: a call is here from its beginning until `end` is called for it.
        self._open: set[int] = set()

    def start(self, call: Arrival, coroutine: Coroutine[Any, Any, Any], began: float) -> None:
        """Run a coroutine to its end. From a runner's thread."""
        self._launch(call, coroutine, partial(self._run, call, coroutine), began)

    def start_stream(self, call: Arrival, credit: Credit, source: Any, began: float) -> None:
        """Send the items of an asynchronous iterable, or of what a coroutine returns. From a runner's thread."""
        stream = _Stream(call, credit, self._item, self._loop)
        self._launch(call, source, partial(stream.run, source), began)

    def close(self) -> None:
        """Cancel everything, without waiting for it."""
        self._loop.close()

    def _launch(
        self, call: Arrival, source: Any, run: Callable[[], Coroutine[Any, Any, Packed | None]], began: float
    ) -> None:
        def create(loop: asyncio.AbstractEventLoop) -> None:
            self._open.add(call.call_id)
            work = self._drive(call, run, began)
            try:
                task = loop.create_task(work)
            except BaseException as error:  # noqa: BLE001 - the user's own task factory, or no memory
                work.close()
                _discard(source)
                self._finish(call, RAISED, pack_exception(error), began)
                return
            self._tasks.add(task)
            task.add_done_callback(partial(self._sweep, call, source, began))

        if not self._loop.start(create):
            _discard(source)

    async def _drive(self, call: Arrival, run: Callable[[], Coroutine[Any, Any, Packed | None]], began: float) -> None:
        try:
            packed = await run()
        except BaseException as error:  # noqa: BLE001 - SystemExit would stop the loop for every other call
            self._finish(call, RAISED, pack_exception(error, skip_frames=2), began)
        else:
            self._finish(call, RETURNED, packed, began)

    def _finish(self, call: Arrival, ending: Ending, packed: Packed | None, began: float) -> None:
        self._open.remove(call.call_id)
        self._end(call, ending, packed, began)

    def _sweep(self, call: Arrival, source: Any, began: float, task: asyncio.Task[None]) -> None:
        """The task is over: answer for one that was cancelled by others before its first step, which never took it."""
        self._tasks.discard(task)
        if call.call_id in self._open:
            _discard(source)
            self._finish(call, RAISED, pack_exception(asyncio.CancelledError()), began)

    async def _run(self, call: Arrival, coroutine: Coroutine[Any, Any, Any]) -> Packed:
        # `stop` is set here, inside the task, and not where the task is made: a task that is cancelled before its
        # first step never takes one, and would never answer.
        task = _this_task()
        enter_task(call)
        call.stop = lambda: self._loop.call(task.cancel)
        if call.cancelled:
            task.cancel()
        return pack_result(await coroutine)


class _Stream:
    """One asynchronous stream."""

    def __init__(self, call: Arrival, credit: Credit, send: Callable[[int, Packed], None], loop: CallsLoop) -> None:
        self._call = call
        self._credit = credit
        self._send = send
        self._loop = loop
        self._producing = False  # whether the user's own ending is being awaited, which alone is cancelled

    async def run(self, source: Any) -> None:
        """Send the items until they end or nobody wants more."""
        task = _this_task()
        enter_task(self._call)
        self._call.stop = lambda: self._loop.call(self._interrupt, task)
        if is_coroutine(source):
            if self._call.cancelled:
                source.close()
                return
            source = await self._produce(source)
        items: AsyncIterable[Any] = source if is_async_iterable(source) else _one_by_one(check_iterable(source))
        await self._send_all(aiter(items))

    async def _send_all(self, iterator: AsyncIterator[Any]) -> None:
        try:
            while await self._credit.take_on_loop(self._loop.call):
                try:
                    item = await self._produce(anext(iterator))
                except StopAsyncIteration:
                    return
                packed = pack_item(item)
                item = None  # so that its buffers need not be copied for fear of this
                self._send(self._call.call_id, packed)
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()

    async def _produce(self, step: Any) -> Any:
        self._producing = True
        try:
            return await step
        finally:
            self._producing = False

    def _interrupt(self, task: asyncio.Task[Any]) -> None:
        if self._producing:
            task.cancel()


def _discard(source: Any) -> None:
    """Close a coroutine that will not be awaited, so that Python does not complain of it."""
    if is_coroutine(source):
        source.close()


async def _one_by_one(items: Iterable[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
