"""The pool as a `concurrent.futures.Executor`, for code without an event loop.

A `_Driver` runs a pool on a loop and a thread of its own. Futures go in by one door, in batches; the pool asks each of
them whether it may still begin at the moment of sending it, and that is where `cancel()` stops to work.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import inspect
import itertools
import os
import threading
import time
from collections import deque

# The second import has the thread pool's own exit hook registered before ours, which therefore runs first.
from concurrent import futures
from concurrent.futures import thread as _thread  # noqa: F401  # pyright: ignore[reportUnusedImport]
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, TypeAlias, TypeVar, overload

from poise._wire.door import Door
from poise._wire.functions import Absent, method_name, type_names
from poise._wire.ray_options import unwrap_factory
from poise._wire.words import describe
from poise.errors import PoolBroken
from poise.options import check_whole
from poise.pool import Pool, RemoteClass

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Sequence
    from typing import Unpack

    from poise._engine.call import Call
    from poise.options import WorkerArguments

    _Order: TypeAlias = tuple[Callable[..., Any] | str, tuple[Any, ...], dict[str, Any]]

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

_threading: Any = threading  # `_register_atexit` is what the executors of the standard library use, and is not typed


class ExecutorBroken(PoolBroken, futures.BrokenExecutor):
    """No worker of the executor can start: its factory or its initializer raises, or Ray has no room for it.

    It is also a `concurrent.futures.BrokenExecutor`. The worker's own exception, if there is one, is the `__cause__`.
    """


class Executor(futures.Executor, Generic[T]):
    """A `concurrent.futures.Executor` over a pool of Ray actors, for threads and for programs without an event loop.

    Without a factory it stands in for `concurrent.futures.ProcessPoolExecutor`. With one, each worker holds what the
    factory makes, and a function that is submitted gets that instance as its first argument: it is a method of the
    class, its name as `str`, or any function of the instance, as in `poise.Pool`. A coroutine function is awaited on
    the worker.

    Nothing is started before the first call; then the pool opens, and Ray too if none is running. Unlike the original
    it heals: a call whose worker dies fails with `WorkerLost`, the others go on, and the worker is replaced.
    """

    @overload
    def __init__(
        self: Executor[None],
        factory: int | None = None,
        *,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        **options: Unpack[WorkerArguments],
    ) -> None: ...
    @overload
    def __init__(
        self,
        factory: Callable[[], T],
        *,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        **options: Unpack[WorkerArguments],
    ) -> None: ...
    @overload
    def __init__(
        self: Executor[Any],
        factory: RemoteClass,
        *,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        **options: Unpack[WorkerArguments],
    ) -> None: ...
    def __init__(
        self,
        factory: Callable[[], T] | RemoteClass | int | None = None,
        *,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        **options: Unpack[WorkerArguments],
    ) -> None:
        """Describe the executor; nothing is started before the first call.

        Args:
            factory: makes what a worker holds, as in `poise.Pool`. A number is taken to be `max_workers`, which comes
                first in `ProcessPoolExecutor`.
            max_workers: how many workers; as many as Ray offers CPUs if None.
            initializer: called once in each worker before anything else, in those that replace dead ones too.
            initargs: arguments for it.
            concurrency (1): how many calls one worker runs at once: threads for plain functions, tasks for coroutines.
            backlog (None): the most calls that may wait; the future of one beyond it ends with `Overloaded`. None, as
                in the original, sets no limit.
            min_ready (1): how many workers must be ready before calls are sent to any.
            start_timeout (60.0): seconds that a worker, and the opening of the pool, may take.
            kill_after (5.0): see `poise.Pool`.
            poison_after (3): see `poise.Pool`.
            lane ("auto"): see `poise.Pool`.
            link_timeout (5.0): see `poise.Pool`.
            ray_options (None): options of Ray's for each actor, passed on unchanged: `num_gpus`, `resources`,
                `runtime_env`...

        Raises:
            ConfigError: an option is outside its range. It is also a `ValueError`.
            TypeError: `initializer` cannot be called.
        """
        if isinstance(factory, int):
            if max_workers is not None:
                raise TypeError(f"max_workers is given twice: {factory!r} and {max_workers!r}")
            factory, max_workers = None, factory
        if max_workers is not None:
            check_whole("max_workers", max_workers, 1)
        ray_options = dict(options.get("ray_options") or {})
        self._holds_instances = factory is not None
        if initializer is not None:
            if not callable(initializer):
                raise TypeError("initializer must be a callable")
            factory, ray_options = _initialised(factory, initializer, initargs, ray_options)
        self._driver = _Driver(
            self._make_pool(
                factory,
                **{"backlog": None, **options, "size": max_workers, "ray_options": ray_options},
            )
        )

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
            return _in_order((self._driver.submit(fn, args, {}) for args in items), buffersize, deadline)
        run_chunk: Callable[..., Any] = _run_chunk_on if self._holds_instances else _run_chunk
        run = functools.partial(run_chunk, fn)
        chunks = iter(lambda: tuple(itertools.islice(items, chunksize)), ())
        return _flat(_in_order((self._driver.submit(run, (chunk,), {}) for chunk in chunks), buffersize, deadline))

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

    def __repr__(self) -> str:
        """Say whether it has started, and whether it takes calls."""
        return f"<Executor, {self._driver.state}>"

    def __del__(self) -> None:
        driver: _Driver | None = getattr(self, "_driver", None)
        if driver is not None:
            driver.shut()


# ---------------------------------------------------------------------------------------------------------------------
# Between the threads


class _Future(futures.Future[R]):
    """A future that tells its driver when it is cancelled."""

    def __init__(self, driver: _Driver, order: _Order) -> None:
        super().__init__()
        self._driver = driver
        self._may_begin: bool | None = None
        self.order: _Order | None = order
        """What to call, until the pool has been told."""
        self.is_given_up = False
        """Whether it was cancelled; known a little later than by `cancelled()`, and without its lock."""

    def cancel(self) -> bool:
        """Cancel the call if it has not been sent to a worker."""
        if not super().cancel():
            return False
        self.is_given_up = True
        self._driver.tell(self)
        return True

    def may_begin(self) -> bool:  # runs on the driver's loop
        """Whether the call is to go on; the first answer is the last, and from then on it cannot be cancelled."""
        if self._may_begin is None:
            self._may_begin = self.set_running_or_notify_cancel()
        return self._may_begin


class _Driver:
    """Runs a pool on an event loop and a thread of its own, from the first call until it is shut and all is done.

    It knows nothing of its executor, so that one that is forgotten can be collected.
    """

    def __init__(self, pool: Pool[Any]) -> None:
        self._pool = pool
        self._lock = threading.RLock()  # the collector may end another executor in the midst of anything
        self._refusal: Callable[[], Exception] | None = None
        """Why nothing more is accepted."""
        self._thread: threading.Thread | None = None
        # Below: once there is a thread.
        self._loop: asyncio.AbstractEventLoop
        self._door: Door[_Future[Any]]
        self._shut: asyncio.Event
        # Below: touched on the loop alone.
        self._unsettled: dict[_Future[Any], Call[Any] | None] = {}
        """Accepted calls without an outcome, in order; None for those that the pool has not been told of."""
        self._opening: asyncio.Task[Any] | None = None
        self._is_open = False

    # ---------------------------------------------------------------- any thread

    @property
    def state(self) -> str:
        """Where it is in its life."""
        if self._refusal is not None:
            return "shut down"
        return "not started" if self._thread is None else "started"

    def submit(self, function: Callable[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Future[Any]:
        """Accept a call.

        Raises:
            RuntimeError, ExecutorBroken: nothing more is accepted.
        """
        future: _Future[Any] = _Future(self, (function, args, kwargs))
        with self._lock:
            if self._refusal is not None:
                raise self._refusal()
            if self._thread is None:
                self._start()
            self._door.put(future)
        return future

    def tell(self, future: _Future[Any]) -> None:
        """A future that was accepted has been cancelled."""
        self._door.put(future)

    def shut(self, *, cancel_futures: bool = False, when: str = "shutdown") -> None:
        """Accept nothing more; end when everything that was accepted has its outcome."""
        with self._lock:
            if self._refusal is None:
                self._refusal = functools.partial(RuntimeError, f"cannot schedule new futures after {when}")
            if self._thread is not None and self._thread.is_alive():
                with contextlib.suppress(RuntimeError):  # the loop has been closed
                    self._loop.call_soon_threadsafe(self._on_shut, cancel_futures)

    def join(self) -> None:
        """Wait until nothing is left."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def forget(self) -> None:
        """This is a forked child, in which the thread does not live and the loop's sockets are the parent's."""
        self._lock = threading.RLock()
        self._thread = None
        self._refusal = functools.partial(
            RuntimeError, "this executor belongs to the process that this one was forked from; make another one here"
        )

    def _start(self) -> None:
        if _exit.has_begun:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._run, name="poise-executor", daemon=True)
        self._loop, self._door, self._shut = loop, Door(loop, self._deliver), asyncio.Event()
        _exit.drivers.add(self)
        try:
            thread.start()
        except BaseException:
            _exit.drivers.discard(self)
            loop.close()
            raise
        self._thread = thread

    # ---------------------------------------------------------------- the loop's thread

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._live())
        finally:
            _exit.drivers.discard(self)

    async def _live(self) -> None:
        reason: Exception | None = None
        try:
            if self._unsettled or not self._shut.is_set():
                await self._serve()
        except Exception as error:  # noqa: BLE001 - whatever it is, the futures must hear of it
            reason = error.with_traceback(None)
        finally:
            await self._end(reason)

    async def _serve(self) -> None:
        self._opening = asyncio.ensure_future(self._pool.open())
        await asyncio.wait({self._opening})
        if not self._opening.cancelled():
            self._opening.result()
            self._take_up()
            await self._shut.wait()
            await self._pool.drain()

    def _take_up(self) -> None:
        """The pool is open: tell it of the calls that came before."""
        self._is_open = True
        for future in list(self._unsettled):
            self._hand_over(future)

    async def _end(self, reason: Exception | None) -> None:
        """Leave nothing: no future without an outcome, and nothing of the pool's."""
        with self._lock:
            if self._refusal is None:
                self._refusal = functools.partial(_broken, reason)
        await self._pool.aclose()
        await asyncio.sleep(0)  # what came through the door before the refusal has been delivered then
        for future in list(self._unsettled):
            self._fail(future, _broken(reason))

    def _on_shut(self, cancel_futures: bool) -> None:  # noqa: FBT001 (call_soon passes no keywords)
        if cancel_futures:
            for future in list(self._unsettled):
                if future.cancel():
                    self._drop(future)
        if not self._unsettled and self._opening is not None:
            self._opening.cancel()  # nobody needs the pool any more
        self._shut.set()

    # ---------------------------------------------------------------- calls, on the loop

    def _deliver(self, arrived: list[_Future[Any]]) -> None:
        for future in arrived:
            if future.is_given_up:
                self._drop(future)
                continue
            self._unsettled[future] = None
            if self._is_open:
                self._hand_over(future)

    def _hand_over(self, future: _Future[Any]) -> None:
        """Submit the call to the pool."""
        assert future.order is not None
        (function, args, kwargs), future.order = future.order, None
        try:
            call = self._pool._submit(  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] # `submit` has no hook
                function, args, kwargs, may_begin=future.may_begin
            )
        except Exception as error:  # noqa: BLE001 - Overloaded, PoolBroken...
            self._fail(future, error)
            return
        if not call.done():
            self._unsettled[future] = call
        call.add_done_callback(functools.partial(self._settle, future))

    def _settle(self, future: _Future[Any], call: Any) -> None:
        if call.cancelled():
            self._drop(future)
        elif (error := call.exception()) is not None:
            self._fail(future, error)
        else:
            self._unsettled.pop(future, None)
            if future.may_begin():
                future.set_result(call.result())

    def _fail(self, future: _Future[Any], error: BaseException) -> None:
        if isinstance(error, PoolBroken):
            error = _broken(error)
        self._unsettled.pop(future, None)
        future.order = None
        if future.may_begin():
            future.set_exception(error)

    def _drop(self, future: _Future[Any]) -> None:
        """Forget a future that was cancelled."""
        future.order = None
        future.may_begin()  # lets those who wait for it know
        call = self._unsettled.pop(future, None)
        if call is not None:
            call.drop()


def _broken(reason: Exception | None) -> ExecutorBroken:
    """A new error for each caller, so that none shares a traceback."""
    if isinstance(reason, PoolBroken):
        error = ExecutorBroken(reason.reason, reason.failures)
        error.__cause__ = reason.__cause__
    else:
        error = ExecutorBroken("the executor's thread has ended" if reason is None else describe(reason), 0)
        error.__cause__ = reason
    return error


class _Exit:
    """Finishes what the executors of this process have accepted, before the interpreter ends.

    As in the standard library this happens while threads can still be started, earlier than `atexit`.
    """

    def __init__(self) -> None:
        self.has_begun = False
        self.drivers: set[_Driver] = set()
        """Those with a thread that lives."""
        _threading._register_atexit(self._finish)  # noqa: SLF001 - as the standard library's own executors do
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _finish(self) -> None:
        self.has_begun = True
        drivers = list(self.drivers)
        for driver in drivers:
            driver.shut(when="interpreter shutdown")
        for driver in drivers:
            driver.join()

    def _forget(self) -> None:
        for driver in self.drivers:
            driver.forget()
        self.drivers.clear()


_exit: Final = _Exit()


# ---------------------------------------------------------------------------------------------------------------------
# The results of `map`


def _in_order(calls: Iterator[futures.Future[R]], buffersize: int | None, deadline: float | None) -> Iterator[R]:
    """Submit now, as far as the buffer reaches, and give the results as they are asked for."""
    return _results(deque(itertools.islice(calls, buffersize)), calls, deadline)


def _results(out: deque[futures.Future[R]], calls: Iterator[futures.Future[R]], deadline: float | None) -> Generator[R]:
    try:
        while out:
            out.extend(itertools.islice(calls, 1))
            yield _result_of(
                out.popleft(), deadline
            )  # no name, or the result would live until the next one is asked for
    finally:
        for future in out:
            future.cancel()


def _result_of(future: futures.Future[R], deadline: float | None) -> R:
    try:
        try:
            return future.result(None if deadline is None else deadline - time.monotonic())
        finally:
            future.cancel()
    finally:
        del future  # an exception that is raised here must not hold the future that holds it


def _flat(chunks: Iterator[list[R]]) -> Generator[R]:
    """The items of the lists, none of which is kept once it has been given."""
    for chunk in chunks:
        chunk.reverse()
        while chunk:
            yield chunk.pop()


# ---------------------------------------------------------------------------------------------------------------------
# In the worker


@dataclasses.dataclass(frozen=True)
class _Initialised:
    """A factory that first runs an initializer."""

    func: Callable[[], Any] | None  # by this name a worker's label is found
    initializer: Callable[..., object]
    initargs: tuple[Any, ...]

    def __call__(self) -> Any:
        self.initializer(*self.initargs)
        return Absent() if self.func is None else self.func()


def _initialised(
    factory: Any, initializer: Callable[..., object], initargs: tuple[Any, ...], ray_options: dict[str, Any]
) -> tuple[_Initialised, dict[str, Any]]:
    """Add an initializer to a factory, and to Ray's options those that a class decorated with `@ray.remote` brings."""
    plain, defaults = (None, {}) if factory is None else unwrap_factory(factory)
    return _Initialised(plain, initializer, tuple(initargs)), {**defaults, **ray_options}


def _run_chunk(function: Callable[..., Any], chunk: Sequence[tuple[Any, ...]]) -> Any:
    """Call the function for each item of a chunk."""
    if inspect.iscoroutinefunction(function):
        return _await_chunk(function, chunk)
    return [function(*args) for args in chunk]


def _run_chunk_on(function: Callable[..., Any] | str, instance: object, chunk: Sequence[tuple[Any, ...]]) -> Any:
    """Call the function for each item of a chunk with the worker's instance."""
    return _run_chunk(_bound(function, instance), chunk)


def _bound(function: Callable[..., Any] | str, instance: object) -> Callable[..., Any]:
    """The function with the instance as its first argument; the instance's own method if it is one."""
    name = function if isinstance(function, str) else method_name(function, frozenset(type_names(instance)))
    if name is not None:
        method: Callable[..., Any] = getattr(instance, name)
        return method
    assert callable(function)
    return functools.partial(function, instance)


async def _await_chunk(function: Callable[..., Any], chunk: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [await function(*args) for args in chunk]
