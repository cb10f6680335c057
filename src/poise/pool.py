"""The pool, its views and its leases: the public async API."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import random
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from poise._core.call import CallRecord, CallState
from poise._core.scheduler import Scheduler
from poise._core.stats import Stats
from poise._engine.call import Call, Stream, StreamBuffer, name_of, pace_key
from poise._engine.dispatcher import Dispatcher
from poise._engine.launchers import foreign_launcher, own_launcher
from poise._engine.mapping import map_calls
from poise.errors import ConfigError, LeaseExpired, PoolBroken, PoolClosed
from poise.options import CallOptions, LaneName, PoolOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from poise._core.worker import WorkerRecord
    from poise._wire.lane import Launcher

T = TypeVar("T")
R = TypeVar("R")
A = TypeVar("A")
P = ParamSpec("P")

logger = logging.getLogger("poise")

STREAM_WINDOW = 16
"""Items by which a producer may be ahead of its consumer, if the caller does not say."""


class RemoteClass(Protocol):
    """A class decorated with `@ray.remote`."""

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Ray's own way to make an actor of it."""


class View(Generic[T]):
    """A way to call a pool's workers with certain options. `T` is what each worker holds, None if it holds nothing.

    In `submit`, `run`, `map`, `stream` and `broadcast` the function is a method of `T` (`Model.predict`), a method's name
    as `str`, or any function whose first parameter takes the worker's instance. In a pool without a factory it is any
    function at all. Functions and arguments are pickled, plain functions and lambdas by value.
    """

    __slots__ = ("_lease", "_options", "_pool")

    def __init__(self, pool: Pool[T], options: CallOptions, lease: CallRecord | None = None) -> None:
        """Made by `Pool.options` and `Pool.lease`; not for users."""
        self._pool = pool
        self._options = options
        self._lease = lease

    # ---------------------------------------------------------------- one call

    @overload
    def submit(
        self: View[None], fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Call[R]: ...
    @overload
    def submit(self: View[None], fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
    @overload
    def submit(
        self, fn: Callable[Concatenate[T, P], Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Call[R]: ...
    @overload
    def submit(self, fn: Callable[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
    @overload
    def submit(self, fn: str, /, *args: Any, **kwargs: Any) -> Call[Any]: ...
    def submit(self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Call[Any]:
        """Hand in a call and get its future at once; never blocks.

        Args:
            fn: a method of the workers' class, its name, or a function of the instance (see the class).
            args: positional arguments for it.
            kwargs: keyword arguments for it.

        Returns:
            A future: await it, gather it, cancel it. It ends with the result, with the exception that the function
            raised (its `__cause__` holds the remote traceback), or with one of the `PoiseError` that `run` lists.

        Raises:
            Overloaded: the backlog is full; the call was not accepted.
            PoolClosed: the pool is not open.
            PoolBroken: no worker can start.
            WrongLoop: called from another loop or thread than the pool's own.
        """
        return self._submit(fn, args, kwargs)

    @overload
    async def run(
        self: View[None], fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def run(self: View[None], fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run(
        self, fn: Callable[Concatenate[T, P], Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def run(self, fn: Callable[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run(self, fn: str, /, *args: Any, **kwargs: Any) -> Any: ...
    async def run(self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function on whichever worker is free, waiting for room and then for the result.

        Cancelling it answers the caller at once. A call that has not begun never runs then; one that runs keeps its
        worker's slot until it ends there (a coroutine on the worker is cancelled).

        Args:
            fn: a method of the workers' class, its name, or a function of the instance (see the class).
            args: positional arguments for it.
            kwargs: keyword arguments for it.

        Returns:
            What the function returned.

        Raises:
            DeadlineExceeded: the view's `timeout` has passed.
            WorkerLost: the worker died with the call on it; PoisonCall if that happened again and again.
            PayloadError: an argument or the result could not be pickled.
            RemoteError: the function raised what cannot travel as itself.
            PoolClosed: the pool is not open, or was closed before the call began.
            PoolBroken: no worker can start.
            WrongLoop: called from another loop or thread than the pool's own.
        """
        return await self._submit(fn, args, kwargs, may_park=True)

    # ---------------------------------------------------------------- many calls

    @overload
    def map(
        self: View[None],
        fn: Callable[[A], Coroutine[Any, Any, R]],
        items: Iterable[A] | AsyncIterable[A],
        /,
        *,
        buffersize: int | None = None,
        progress: bool = False,
    ) -> AsyncIterator[R]: ...
    @overload
    def map(
        self: View[None],
        fn: Callable[[A], R],
        items: Iterable[A] | AsyncIterable[A],
        /,
        *,
        buffersize: int | None = None,
        progress: bool = False,
    ) -> AsyncIterator[R]: ...
    @overload
    def map(
        self,
        fn: Callable[[T, A], Coroutine[Any, Any, R]],
        items: Iterable[A] | AsyncIterable[A],
        /,
        *,
        buffersize: int | None = None,
        progress: bool = False,
    ) -> AsyncIterator[R]: ...
    @overload
    def map(
        self,
        fn: Callable[[T, A], R],
        items: Iterable[A] | AsyncIterable[A],
        /,
        *,
        buffersize: int | None = None,
        progress: bool = False,
    ) -> AsyncIterator[R]: ...
    @overload
    def map(
        self,
        fn: str,
        items: Iterable[Any] | AsyncIterable[Any],
        /,
        *,
        buffersize: int | None = None,
        progress: bool = False,
    ) -> AsyncIterator[Any]: ...
    def map(
        self,
        fn: Callable[..., Any] | str,
        items: Iterable[Any] | AsyncIterable[Any],
        /,
        *,
        buffersize: int | None = None,
        progress: bool = False,
    ) -> AsyncIterator[Any]:
        """Call a function for each item; results come in the order of the items.

        Items are taken lazily, as room comes free, so the source may be endless. The first exception ends the iteration;
        whatever ends it cancels the calls that are still out.

        Args:
            fn: as in `run`, called with one item.
            items: a sync or async iterable.
            buffersize: the most items taken from the source whose results were not taken yet; twice the slots if None.
            progress: show a live bar (needs `pip install 'poise[progress]'`).

        Raises:
            ConfigError: `buffersize` is less than 1.
            PoiseError: and the function's own exceptions, as `run` says.
        """
        return self._map(fn, items, buffersize, progress=progress, is_ordered=True)

    @overload
    def map_unordered(
        self: View[None],
        fn: Callable[[A], Coroutine[Any, Any, R]],
        items: Iterable[A] | AsyncIterable[A],
        /,
        *,
        buffersize: int | None = None,
        progress: bool = False,
    ) -> AsyncIterator[R]: ...
    @overload
    def map_unordered(
        self: View[None],
        fn: Callable[[A], R],
        items: Iterable[A] | AsyncIterable[A],
        /,
        *,
        buffersize: int | None = None,
        progress: bool = False,
    ) -> AsyncIterator[R]: ...
    @overload
    def map_unordered(
        self,
        fn: Callable[[T, A], Coroutine[Any, Any, R]],
        items: Iterable[A] | AsyncIterable[A],
        /,
        *,
        buffersize: int | None = None,
        progress: bool = False,
    ) -> AsyncIterator[R]: ...
    @overload
    def map_unordered(
        self,
        fn: Callable[[T, A], R],
        items: Iterable[A] | AsyncIterable[A],
        /,
        *,
        buffersize: int | None = None,
        progress: bool = False,
    ) -> AsyncIterator[R]: ...
    @overload
    def map_unordered(
        self,
        fn: str,
        items: Iterable[Any] | AsyncIterable[Any],
        /,
        *,
        buffersize: int | None = None,
        progress: bool = False,
    ) -> AsyncIterator[Any]: ...
    def map_unordered(
        self,
        fn: Callable[..., Any] | str,
        items: Iterable[Any] | AsyncIterable[Any],
        /,
        *,
        buffersize: int | None = None,
        progress: bool = False,
    ) -> AsyncIterator[Any]:
        """Call a function for each item; results come as they are ready. Otherwise like `map`."""
        return self._map(fn, items, buffersize, progress=progress, is_ordered=False)

    @overload
    def stream(
        self: View[None],
        fn: Callable[P, Iterable[R] | AsyncIterable[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Stream[R]: ...
    @overload
    def stream(
        self,
        fn: Callable[Concatenate[T, P], Iterable[R] | AsyncIterable[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Stream[R]: ...
    @overload
    def stream(self, fn: str, /, *args: Any, **kwargs: Any) -> Stream[Any]: ...
    def stream(self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Stream[Any]:
        """Call a generator, or an async generator, and get its items as they come.

        The call is submitted, and waits for room, at the first item. The producer is at most 16 items ahead of the
        consumer. Breaking out of the loop stops it and frees its slot. An exception in the producer comes after the items
        before it.

        Raises:
            PoiseError: and the function's own exceptions, as `run` says, from the iteration.
        """
        view = self

        def submit(buffer: StreamBuffer) -> Call[Any]:
            return view._submit(fn, args, kwargs, may_park=True, stream=buffer)

        return Stream(submit, STREAM_WINDOW)

    @overload
    async def broadcast(
        self: View[None], fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> list[R]: ...
    @overload
    async def broadcast(self: View[None], fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> list[R]: ...
    @overload
    async def broadcast(
        self, fn: Callable[Concatenate[T, P], Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> list[R]: ...
    @overload
    async def broadcast(
        self, fn: Callable[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> list[R]: ...
    @overload
    async def broadcast(self, fn: str, /, *args: Any, **kwargs: Any) -> list[Any]: ...
    async def broadcast(self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> list[Any]:
        """Call a function once on every worker, those that are still starting among them.

        Each worker runs it at its next free slot, before what waits in the backlog. A worker that is started later, for
        one that died, begins from the factory and does not run it.

        Returns:
            The results, one for each worker.

        Raises:
            Exception: the first failure, after all have ended, with a note that counts the failures; as `run` says.
        """
        pool, options = self._pool, dataclasses.replace(self._options, retries=0, retry_on=())
        pool._dispatcher.check_loop()
        workers = pool._scheduler.members() if self._lease is None else [None]
        calls = [View(pool, options, self._lease)._submit(fn, args, kwargs, worker=worker) for worker in workers]
        try:
            await asyncio.wait(calls)
        finally:
            for call in calls:
                call.cancel()
        failures = [error for call in calls if (error := call.exception()) is not None]
        if failures:
            failures[0].add_note(f"(the broadcast failed on {len(failures)} of {len(calls)} workers)")
            raise failures[0]
        return [call.result() for call in calls]

    # ---------------------------------------------------------------- views and leases

    def options(
        self,
        *,
        timeout: float | None = ...,  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]
        priority: int = ...,  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]
        retries: int = ...,  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]
        retry_on: tuple[type[Exception], ...] | type[Exception] = ...,  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]
    ) -> View[T]:
        """A view of the same pool whose calls have these options; those not given stay as they are.

        Args:
            timeout: seconds for waiting and running together; None waits for ever.
            priority: higher starts first; equal ones start in the order of submission.
            retries: how many more times a call may run after its worker died, or after an exception in `retry_on`. Only
                for what may safely run twice.
            retry_on: exception classes after which a call is run again.

        Raises:
            ConfigError: an option is outside its range.
        """
        given = {"timeout": timeout, "priority": priority, "retries": retries, "retry_on": retry_on}
        changes = {name: value for name, value in given.items() if value is not ...}
        return View(self._pool, self._options.but(**changes), self._lease)

    @asynccontextmanager
    async def lease(self, *, timeout: float | None = None) -> AsyncIterator[Worker[T]]:
        """Take a whole worker for a while: nobody else's call runs on it until the block ends.

        Calls of the lease that have not begun when the block ends are refused; one that runs keeps the worker busy until
        it ends.

        Args:
            timeout: seconds to wait for a worker; None waits for ever. It says nothing about the calls of the lease.

        Yields:
            The worker, with `submit`, `run`, `map`, `stream` and `options` of its own.

        Raises:
            DeadlineExceeded: no worker was free in time.
            LeaseExpired: from calls on the worker after it has died, or after the block.
        """
        if self._lease is not None:
            raise LeaseExpired(-1, "released") if self._lease.state is CallState.DONE else ConfigError(
                "lease", self, "a leased worker cannot be leased again"
            )
        view = View(self._pool, dataclasses.replace(self._options, timeout=timeout, retries=0, retry_on=()))
        call = view._submit("lease", (), {}, may_park=True, is_lease=True)
        record = call.record
        assert record is not None
        try:
            worker_id: int = await call
            yield Worker(self._pool, dataclasses.replace(self._options), record, worker_id)
        finally:
            call.cancel()
            self._pool._dispatcher.release(record)

    # ---------------------------------------------------------------- inside

    def _submit(
        self,
        fn: Callable[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        may_park: bool = False,
        stream: StreamBuffer | None = None,
        worker: WorkerRecord | None = None,
        is_lease: bool = False,
    ) -> Call[Any]:
        dispatcher = self._pool._dispatcher
        dispatcher.check_loop()
        if not (callable(fn) or isinstance(fn, str)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError("fn", fn, "a function, a method of the workers' class, or a method's name")
        options = self._options
        call: Call[Any] = Call(dispatcher, fn, args, kwargs, options.retry_on, stream)
        timeout = math.inf if options.timeout is None else options.timeout
        record = CallRecord(
            dispatcher.next_call_id(),
            pace_key(fn),
            name=name_of(fn),
            priority=options.priority,
            deadline=math.inf if options.timeout is None else dispatcher.loop.time() + timeout,
            timeout=timeout,
            retries=options.retries,
            lease=self._lease,
            is_lease=is_lease,
        )
        record.bound_for = worker
        dispatcher.submit(call, record, may_park=may_park)
        return call

    def _map(
        self,
        fn: Callable[..., Any] | str,
        items: Iterable[Any] | AsyncIterable[Any],
        buffersize: int | None,
        *,
        progress: bool,
        is_ordered: bool,
    ) -> AsyncIterator[Any]:
        if buffersize is not None and (isinstance(buffersize, bool) or buffersize < 1):
            raise ConfigError("buffersize", buffersize, "a whole number of at least 1, or None for twice the slots")
        self._pool._dispatcher.check_loop()
        slots = self._pool._scheduler.slots * (1 if self._lease is not None else self._pool._scheduler.size)
        results = map_calls(
            lambda item: self._submit(fn, (item,), {}, may_park=True),
            items,
            buffersize or 2 * slots,
            is_ordered=is_ordered,
        )
        if not progress:
            return results
        from poise.progress import show_progress  # noqa: PLC0415 (an extra, needed only here)

        return show_progress(results, items, name_of(fn))


class Worker(View[T]):
    """A worker that is leased: calls on it run there and nowhere else."""

    __slots__ = ("id",)

    def __init__(self, pool: Pool[T], options: CallOptions, lease: CallRecord, worker_id: int) -> None:
        """Made by `Pool.lease`; not for users."""
        super().__init__(pool, options, lease)
        self.id = worker_id
        """The worker's number in the pool."""

    def __repr__(self) -> str:
        """Give the worker's number and whether the lease holds."""
        assert self._lease is not None
        return f"<Worker {self.id} {'leased' if self._lease.state is CallState.RUNNING else 'lease ended'}>"


class Pool(View[T]):
    """A pool of Ray actors that you can await. Use it in `async with`.

    Leaving the block normally finishes every call that was accepted; leaving it by an exception refuses what has not
    begun. A pool belongs to the event loop that opened it.
    """

    __slots__ = ("__weakref__", "_closing", "_engine", "_launcher", "_settings")

    @overload
    def __init__(
        self: Pool[None],
        factory: None = None,
        /,
        *,
        size: int | None = None,
        concurrency: int = 1,
        backlog: int | None = 100_000,
        min_ready: int = 1,
        start_timeout: float = 60.0,
        kill_after: float | None = 5.0,
        poison_after: int = 3,
        lane: LaneName = "auto",
        ray_options: dict[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        factory: Callable[[], T],
        /,
        *,
        size: int | None = None,
        concurrency: int = 1,
        backlog: int | None = 100_000,
        min_ready: int = 1,
        start_timeout: float = 60.0,
        kill_after: float | None = 5.0,
        poison_after: int = 3,
        lane: LaneName = "auto",
        ray_options: dict[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: Pool[Any],
        factory: RemoteClass,
        /,
        *,
        size: int | None = None,
        concurrency: int = 1,
        backlog: int | None = 100_000,
        min_ready: int = 1,
        start_timeout: float = 60.0,
        kill_after: float | None = 5.0,
        poison_after: int = 3,
        lane: LaneName = "auto",
        ray_options: dict[str, Any] | None = None,
    ) -> None: ...
    def __init__(
        self,
        factory: Callable[[], T] | RemoteClass | None = None,
        /,
        *,
        size: int | None = None,
        concurrency: int = 1,
        backlog: int | None = 100_000,
        min_ready: int = 1,
        start_timeout: float = 60.0,
        kill_after: float | None = 5.0,
        poison_after: int = 3,
        lane: LaneName = "auto",
        ray_options: dict[str, Any] | None = None,
    ) -> None:
        """Describe a pool; nothing is started before it is opened.

        Args:
            factory: makes what a worker holds: a class, or any callable without arguments. It runs inside each worker.
                Without one the workers hold nothing and run plain functions.
            size: how many workers; as many as Ray offers CPUs if None.
            concurrency: how many calls one worker runs at once: threads for plain methods, tasks for `async def` ones.
            backlog: the most calls that may wait; beyond it `submit` raises `Overloaded`. None sets no limit.
            min_ready: how many workers must be ready before the pool opens; the rest follow.
            start_timeout: seconds that a worker, and the opening of the pool, may take.
            kill_after: seconds by which a call may overrun its timeout on a worker before that worker is killed and
                replaced. None never kills.
            poison_after: a call that was on a worker at so many deaths fails with `PoisonCall`, retries left or not.
            lane: how calls reach the workers: "auto", or "freight" for ordinary Ray calls.
            ray_options: options of Ray's for each actor, passed on unchanged: `num_gpus`, `resources`, `runtime_env`...

        Raises:
            ConfigError: an option is outside its range.
        """
        settings = PoolOptions(
            size=size,
            concurrency=concurrency,
            backlog=backlog,
            min_ready=min_ready,
            start_timeout=start_timeout,
            kill_after=kill_after,
            poison_after=poison_after,
            lane=lane,
            ray_options=ray_options or {},
        )
        self._set_up(own_launcher(factory, settings), settings)

    def _set_up(self, launcher: Launcher, settings: PoolOptions) -> None:
        super().__init__(self, CallOptions())
        self._launcher = launcher
        self._settings = settings
        self._engine: Dispatcher | None = None
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, handles: Sequence[Any], /, *, concurrency: int = 1, backlog: int | None = 100_000) -> Pool[Any]:
        """A pool over Ray actors that exist already. They are not replaced when they die, and not killed on close.

        They run their own methods only, given by name or as `Actor.method`.

        Args:
            handles: handles of actors.
            concurrency: how many calls each actor is given at once.
            backlog: the most calls that may wait; None sets no limit.

        Raises:
            ConfigError: there is no handle, or one is not an actor's.
        """
        settings = PoolOptions(
            size=max(1, len(handles)), concurrency=concurrency, backlog=backlog, kill_after=None, lane="freight"
        )
        return cls._over(foreign_launcher(handles), settings)

    @classmethod
    def _over(cls, launcher: Launcher, settings: PoolOptions) -> Pool[Any]:
        pool: Pool[Any] = cls.__new__(cls)
        pool._set_up(launcher, settings)
        return pool

    # ---------------------------------------------------------------- life

    async def open(self) -> Self:
        """Start the workers, and Ray if none is running; returns when `min_ready` of them are ready.

        Raises:
            PoolBroken: the workers cannot start; nothing is left behind. Its cause is the constructor's exception.
            PoolClosed: the pool was open before.
        """
        if self._engine is not None:
            raise PoolClosed("the pool was opened before; make a new one")
        loop = asyncio.get_running_loop()
        settings = self._settings
        scheduler = Scheduler(
            size=settings.size or 1,
            slots=settings.concurrency,
            backlog=settings.backlog,
            kill_after=settings.kill_after,
            poison_after=settings.poison_after,
            heals=self._launcher.replaces,
            jitter=_jitter,
        )
        self._engine = dispatcher = Dispatcher(scheduler, self._launcher, loop, settings.start_timeout)
        try:
            await self._launcher.open(dispatcher)
            scheduler.size = settings.size or await self._launcher.default_size()
            dispatcher.open()
            await self._until_ready(dispatcher, min(settings.min_ready, scheduler.size))
        except BaseException:
            await self.aclose()
            raise
        dispatcher.supervisor.watch_shortage()
        return self

    async def _until_ready(self, dispatcher: Dispatcher, wanted: int) -> None:
        scheduler, timeout = dispatcher.scheduler, self._settings.start_timeout
        try:
            async with asyncio.timeout(timeout):
                await dispatcher.until(lambda: scheduler.ready_workers >= wanted or scheduler.broken is not None)
        except TimeoutError:
            ready = scheduler.ready_workers
            reason = f"{ready} of min_ready={wanted} workers were ready after start_timeout={timeout:g} s"
            shortage = await self._launcher.shortage()
            if shortage or scheduler.last_failure is not None:
                reason += f": {shortage or scheduler.last_failure}"
            raise PoolBroken(reason, scheduler.failed_starts) from None
        if scheduler.ready_workers < wanted:
            raise scheduler.broken_error()

    async def drain(self) -> None:
        """Accept nothing more, and return when every accepted call has had its outcome and every lease has ended."""
        dispatcher = self._dispatcher
        dispatcher.check_loop()
        dispatcher.close(reject_waiting=False)
        await dispatcher.until(lambda: dispatcher.scheduler.is_idle)

    async def resize(self, size: int) -> None:
        """Ask for another number of workers. New ones start now; those over it first finish what they hold.

        Raises:
            ConfigError: `size` is less than 1, or the pool is one of existing actors.
        """
        dispatcher = self._dispatcher
        dispatcher.check_loop()
        if isinstance(size, bool) or size < 1:
            raise ConfigError("size", size, "a whole number of at least 1")
        if not self._launcher.replaces:
            raise ConfigError("size", size, "a pool of existing actors keeps its size")
        if dispatcher.scheduler.is_closed:
            raise PoolClosed("the pool is closed and cannot be resized")
        dispatcher.resize(size)
        dispatcher.supervisor.watch_shortage()

    async def aclose(self) -> None:
        """Close now: what waits is refused, what runs is given up, and every worker is ended.

        Returns when nothing of the pool is left. Safe to call again. Cancelling it does not stop the closing.
        """
        if self._engine is None:
            return
        self._engine.check_loop()
        if self._closing is None:
            self._closing = self._engine.loop.create_task(self._aclose(self._engine))
        await asyncio.shield(self._closing)

    async def _aclose(self, dispatcher: Dispatcher) -> None:
        try:
            await dispatcher.aclose()
        finally:
            await self._launcher.aclose()

    async def __aenter__(self) -> Self:
        """Open the pool."""
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish or refuse what was accepted, then close.

        After a normal end every accepted call is finished. After an exception what has not begun is refused and what
        runs is finished; after a cancellation, KeyboardInterrupt or SystemExit what runs is given up too.
        """
        try:
            if error is None:
                await self.drain()
            elif isinstance(error, Exception) and self._closing is None:
                self._dispatcher.close(reject_waiting=True)
                await self.drain()
        finally:
            await self.aclose()

    # ---------------------------------------------------------------- looking

    def stats(self) -> Stats:
        """What the pool is doing now: a frozen snapshot, the same in no two calls."""
        dispatcher = self._dispatcher
        stats = dispatcher.scheduler.stats(dispatcher.loop.time())
        origins = {worker_id: lane.origin for worker_id, lane in dispatcher.lanes.items()}
        workers = tuple(
            dataclasses.replace(worker, pid=origin.pid, node=origin.node, lane=origin.lane)
            if (origin := origins.get(worker.id)) is not None
            else worker
            for worker in stats.workers
        )
        return dataclasses.replace(stats, workers=workers)

    @property
    def _dispatcher(self) -> Dispatcher:
        if self._engine is None:
            raise PoolClosed("the pool is not open: use `async with poise.Pool(...) as pool:`, or await pool.open()")
        return self._engine

    @property
    def _scheduler(self) -> Scheduler:
        return self._dispatcher.scheduler

    def __repr__(self) -> str:
        """Give the size and what the pool is doing."""
        if self._engine is None:
            return f"<Pool of {self._launcher!r}, not open>"
        stats = self._engine.scheduler.stats(self._engine.loop.time())
        state = "closed" if self._closing is not None else "broken" if self._scheduler.broken is not None else "open"
        return (
            f"<Pool of {self._launcher!r}, {state}: {stats.ready}/{stats.size} workers ready, "
            f"{stats.running} running, {stats.waiting} waiting>"
        )

    def __del__(self) -> None:
        """Warn about a pool that was never closed; Ray ends its actors with its handles."""
        if getattr(self, "_engine", None) is not None and self._closing is None:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2, source=self)


def _jitter() -> float:
    """Spread the restarts of many workers between half and all of the backoff."""
    return random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
