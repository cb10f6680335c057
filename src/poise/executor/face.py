"""The face of the pool that `concurrent.futures` asks for."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import time
from concurrent import futures
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from poise.errors import ConfigError
from poise.executor.driver import Driver
from poise.executor.duties import log_as_original, run_chunk, run_chunk_on, start
from poise.executor.original import recycle_of, refuse_what_processes_have
from poise.executor.results import flat, in_order
from poise.executor.room import OnFull, room_for
from poise.policies import Elastic, check_size
from poise.pool import Pool, RemoteClass

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Unpack

    from poise.events import Observer
    from poise.executor.processes import WorkerProcess
    from poise.options import WorkerArguments
    from poise.policies import Size
    from poise.stats import Stats

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


class Executor(futures.Executor, Generic[T]):
    """A `concurrent.futures.Executor` over a pool of Ray actors, for threads and for programs without an event loop.

    Without a factory it stands in for `concurrent.futures.ProcessPoolExecutor`. With one, each worker holds what the
    factory makes, and a function that is submitted gets that instance as its first argument: it is a method of the
    class, its name as `str`, or any function of the instance, as in `poise.Pool`. A coroutine function is awaited on
    the worker.

    Nothing is started before the first call; then the pool opens, and Ray too if none is running. Unlike the original
    it heals: a call whose worker dies fails with `WorkerLost`, which is a `BrokenProcessPool` too; the others go on,
    and the worker is replaced.
    """

    @overload
    def __init__(
        self: Executor[None],
        factory: Size | None = None,
        *,
        max_workers: Size | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        on_full: OnFull = "refuse",
        **options: Unpack[WorkerArguments],
    ) -> None: ...
    @overload
    def __init__(
        self,
        factory: Callable[[], T],
        *,
        max_workers: Size | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        on_full: OnFull = "refuse",
        **options: Unpack[WorkerArguments],
    ) -> None: ...
    @overload
    def __init__(
        self: Executor[Any],
        factory: RemoteClass,
        *,
        max_workers: Size | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        on_full: OnFull = "refuse",
        **options: Unpack[WorkerArguments],
    ) -> None: ...
    def __init__(
        self,
        factory: Callable[[], T] | RemoteClass | Size | None = None,
        *,
        max_workers: Size | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        on_full: OnFull = "refuse",
        **options: Unpack[WorkerArguments],
    ) -> None:
        """Describe the executor; nothing is started before the first call.

        Args:
            factory: makes what a worker holds, as in `poise.Pool`. A number, or two, is taken to be `max_workers`,
                which comes first in `ProcessPoolExecutor`.
            max_workers: how many workers, or the fewest and the most, such as (0, 8): see `poise.Elastic`. As many as
                Ray offers CPUs if None.
            initializer: called once in each worker before anything else, in those that replace dead ones too.
            initargs: arguments for it.
            max_tasks_per_child: how many calls a worker runs before it ends and another takes its place, as in the
                original: exactly so many with `concurrency=1`. To start a worker takes about a second.
            on_full: what `submit` does when `backlog` calls wait: "refuse" returns a future that ends with
                `Overloaded`, "wait" returns when there is room (at once in a callback of a future, which makes room).
            concurrency (1): how many calls one worker runs at once: threads for plain functions, tasks for coroutines.
            backlog (None): the most calls that may wait; the future of one beyond it ends with `Overloaded`. None, as
                in the original, sets no limit.
            backlog_per_tenant (None): see `poise.Pool`.
            min_ready (1): how many workers must be ready before calls are sent to any.
            start_timeout (60.0): seconds that a worker, and the opening of the pool, may take.
            close_timeout (5.0): see `poise.Pool`.
            kill_after (5.0): see `poise.Pool`.
            poison_after (3): see `poise.Pool`.
            retry_budget (None): see `poise.Pool`.
            lane ("auto"): see `poise.Pool`.
            link_timeout (5.0): see `poise.Pool`.
            writable (True): see `poise.Pool`. True, as in the original; with False large arrays are read-only, and
                those that come through Ray need not be copied.
            observers (()): see `poise.Pool`. They are called on the executor's own thread.
            record (None), logs ("ray"), watch (False): see `poise.Pool`.
            recycle (None): see `poise.Pool`; `max_tasks_per_child` is another name for a part of it.
            health (None): see `poise.Pool`.
            ray_options (None): options of Ray's for each actor, passed on unchanged: `num_gpus`, `resources`,
                `runtime_env`...
            ray_init (None): see `poise.Pool`.

        Raises:
            ConfigError: an option is outside its range. It is also a `ValueError`.
            TypeError: `initializer` cannot be called, or `max_tasks_per_child` is no whole number.
        """
        first: Any = factory
        is_size = isinstance(first, int | tuple | Elastic)
        if is_size:
            if max_workers is not None:
                raise TypeError(f"max_workers is given twice: {first!r} and {max_workers!r}")
            factory, max_workers = None, cast("Size", first)
        if isinstance(max_workers, int) and max_workers < 1:
            raise ConfigError("max_workers", max_workers, "max_workers must be greater than 0")
        wanted = None if max_workers is None else check_size("max_workers", max_workers)
        refuse_what_processes_have(options)
        options["recycle"] = recycle_of(max_tasks_per_child, options.get("recycle"))
        most = wanted.max if isinstance(wanted, Elastic) else wanted
        self._max_workers = most or os.cpu_count() or 1  # dask and others read it
        ray_options = dict(options.get("ray_options") or {})
        self._holds_instances = factory is not None
        on_broken = log_as_original if factory is None and initializer is not None else None
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._initializer = initializer, initargs
        factory, ray_options = start(factory, initializer, initargs, ray_options)
        given = {"backlog": None, "writable": True, **options, "size": wanted, "ray_options": ray_options}
        self._pool = pool = self._make_pool(factory, **given)
        self._driver = Driver(pool, room_for(on_full, options, self._max_workers), on_broken)

    def _make_pool(self, factory: Any, **options: Any) -> Pool[Any]:
        """Make the pool behind this executor; tests have another."""
        return Pool(factory, **options)

    # ---------------------------------------------------------------- calls

    @overload  # type: ignore[override]  # with a factory the function takes the instance too
    def submit(
        self: Executor[None], fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> futures.Future[R]: ...
    @overload
    def submit(self: Executor[None], fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> futures.Future[R]: ...
    @overload
    def submit(
        self, fn: Callable[Concatenate[T, P], Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> futures.Future[R]: ...
    @overload
    def submit(self, fn: Callable[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs) -> futures.Future[R]: ...
    @overload
    def submit(self, fn: str, /, *args: Any, **kwargs: Any) -> futures.Future[Any]: ...
    def submit(self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        """Hand in a call and get its future at once; never blocks. Any thread may do so.

        `cancel()` works until the call is sent to a worker; from then on the future is `running()`. A call may be sent
        a few milliseconds of work ahead of its turn, and a longer one, while many wait, by one call of up to 50 ms.

        Args:
            fn: any function; in an executor with a factory, a function of the instance (see the class).
            args: positional arguments for it.
            kwargs: keyword arguments for it.

        Returns:
            A `concurrent.futures.Future`. It ends with the result, with the exception that the function raised (its
            `__cause__` holds the remote traceback), or with one of the `PoiseError` that `Pool.run` lists.

        Raises:
            RuntimeError: the executor has been shut down, or the interpreter is about to exit.
            ExecutorBroken: no worker could start.
        """
        return self._driver.submit(fn, args, kwargs)

    @overload
    def map(
        self,
        fn: Callable[..., Coroutine[Any, Any, R]],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[R]: ...
    @overload
    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[R]: ...
    @overload
    def map(
        self,
        fn: str,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]: ...
    def map(
        self,
        fn: Callable[..., Any] | str,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Like the built-in `map`, but on the workers, several calls at once; results come in order.

        The first exception ends the iteration; whatever ends it cancels the calls that have not been sent.

        Args:
            fn: as in `submit`, called with one item of each iterable.
            iterables: collected at once, unless `buffersize` is given; the shortest sets the end.
            timeout: seconds from now within which each result must be there; None waits for ever.
            chunksize: how many items travel as one call. Small calls are batched anyway, so that 1 is seldom slow.
            buffersize: the most calls whose results were not taken yet; the iterables are then read lazily.

        Raises:
            ValueError: `chunksize` or `buffersize` is less than 1.
            TypeError: `buffersize` is not a whole number.
            TimeoutError: from the iteration, a result was not there in time.
            Exception: from the iteration, what `fn` raised.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else time.monotonic() + timeout
        items = zip(*iterables, strict=False)
        if chunksize == 1:
            return in_order((self._driver.submit(fn, args, {}) for args in items), buffersize, deadline)
        of_chunk: Callable[..., Any] = run_chunk_on if self._holds_instances else run_chunk
        run = functools.partial(of_chunk, fn)
        chunks = iter(lambda: tuple(itertools.islice(items, chunksize)), ())
        return flat(in_order((self._driver.submit(run, (chunk,), {}) for chunk in chunks), buffersize, deadline))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 (the base's)
        """Accept nothing more, finish what was accepted, and end the workers.

        It is called by leaving a `with` block, and, without waiting, when the executor is garbage collected. A
        program that exits finishes what its executors have accepted first, as with those of the standard library.

        Args:
            wait: return only when nothing of the executor is left. Ignored in a callback of one of its futures.
            cancel_futures: cancel the calls that have not been sent to a worker.
        """
        self._driver.shut(cancel_futures=cancel_futures)
        if wait:
            self._driver.join()

    def terminate_workers(self) -> None:
        """End now, without waiting: accept nothing more, cancel what has not been sent, and end the workers.

        The futures of calls that run end with `WorkerLost`. As in Python 3.14.
        """
        self._driver.end_within(0)

    def kill_workers(self) -> None:
        """The same as `terminate_workers`: Ray's workers have no milder end while they run something."""
        self._driver.end_within(0)

    def stats(self) -> Stats:
        """What the workers and the calls are doing: a frozen snapshot, from any thread.

        Raises:
            PoolClosed: nothing has been submitted yet, or the pool is still to be opened.
        """
        return self._driver.stats()

    def reload(self, factory: Callable[[], T] | RemoteClass | None = None, *, surge: int = 1) -> None:
        """Replace every worker while calls are served; returns when those that work are new. Any thread may do so.

        Args:
            factory: makes what the new workers hold, and all that come later, as in `Pool.reload`; the same as before,
                with its `initializer`, if None.
            surge: see `Pool.reload`.

        Raises:
            ReplaceFailed: a new worker could not start; says why, and the executor stays with the old ones.
            ConfigError: see `Pool.reload`; or a factory is given to an executor that was made without one.
            PayloadError: the factory cannot be pickled; nothing has changed.
            PoolClosed: nothing has been submitted yet, or the executor is shut down.
            RuntimeError: called in a callback of one of its futures, which must not wait for it.
        """
        new: Any = None
        if factory is not None:
            if not self._holds_instances:
                raise ConfigError("factory", factory, "an executor that was made without a factory reloads without one")
            new, _ = start(factory, *self._initializer, {})
        self._driver.ask(lambda pool: pool.reload(new, surge=surge))

    def replace(self, worker_id: int) -> int:
        """Have a worker replaced; returns the number of the new one when that is ready. Any thread may do so.

        Args:
            worker_id: its number, as `stats().workers` has it.

        Raises:
            ReplaceFailed: the new one cannot start; the old one stays.
            ConfigError: no worker of that number is ready.
            PoolClosed: nothing has been submitted yet, or the executor is shut down.
            RuntimeError: called in a callback of one of its futures, which must not wait for it.
        """
        return self._driver.ask(lambda pool: pool.replace(worker_id))

    def add_observer(self, observer: Observer) -> None:
        """Tell this one what happens from now on, on the executor's own thread: see `Pool.add_observer`."""
        self._pool.add_observer(observer)

    def remove_observer(self, observer: Observer) -> None:
        """Tell this one nothing more."""
        self._pool.remove_observer(observer)

    @property
    def _processes(self) -> Mapping[int, WorkerProcess]:
        """The workers' processes on this machine by pid, as programs read them from the original; waits for them."""
        return self._driver.processes()

    @property
    def _broken(self) -> str | bool:
        """Why no worker can start, or False, as programs read it from the original."""
        failure = self._driver.failure
        return False if failure is None else str(failure)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Shut down and wait.

        After a KeyboardInterrupt, which in a coroutine is a cancellation, what has not begun is cancelled and what runs
        has 2 seconds before its worker is killed; a second one kills at once.
        """
        if isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
            self._driver.interrupt()
        self.shutdown(wait=True)

    def __repr__(self) -> str:
        """Say whether it has started, and whether it takes calls."""
        return f"<Executor, {self._driver.state}>"

    def __del__(self) -> None:
        driver: Driver | None = getattr(self, "_driver", None)
        if driver is not None:
            driver.shut()
