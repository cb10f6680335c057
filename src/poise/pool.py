"""The pool: opening, closing, resizing and looking at it. How to call it is in `view`."""

from __future__ import annotations

import asyncio
import logging
import math
import warnings
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, overload

from poise._core.scheduler import Scheduler
from poise._engine.dispatcher import Dispatcher
from poise._engine.launchers import foreign_launcher
from poise._engine.loops import running_loop
from poise._engine.runtime import current_runtime
from poise.errors import ConfigError, LoopBlocked, PoolBroken, PoolClosed
from poise.options import CallOptions, PoolOptions, check_whole
from poise.view import Home, View

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self, Unpack

    from poise._engine.runtime import Runtime
    from poise._wire.lane import Launcher
    from poise.options import PoolArguments

_log = logging.getLogger("poise")

T = TypeVar("T")

STALLED_AFTER = 5.0
"""Seconds of draining after which a stream that nobody reads is worth a warning."""

_REPR_WAITS = 0.5
"""Seconds that another thread, which shows the pool, waits for a loop that is blocked."""

PoolState = Literal["new", "open", "broken", "draining", "closed"]
"""Where a pool is in its life."""


class RemoteClass(Protocol):
    """A class decorated with `@ray.remote`."""

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Ray's own way to make an actor of it."""


class Pool(View[T]):
    """A pool of Ray actors that you can await. Use it in `async with`.

    Leaving the block normally finishes every call that was accepted; leaving it by an exception refuses what has not
    begun. A pool belongs to the event loop that opened it.

    In `submit`, `run`, `map`, `stream` and `broadcast` the function is a method of what the factory makes
    (`Model.predict`), a method's name as `str`, or any function whose first parameter takes the worker's instance. In a
    pool without a factory it is any function at all.
    """

    __slots__ = ("__weakref__", "_closing", "_is_opening", "_launcher", "_runtime", "_settings")

    @overload
    def __init__(
        self: Pool[None],
        factory: None = None,
        /,
        **options: Unpack[PoolArguments],
    ) -> None: ...
    @overload
    def __init__(
        self,
        factory: Callable[[], T],
        /,
        **options: Unpack[PoolArguments],
    ) -> None: ...
    @overload
    def __init__(
        self: Pool[Any],
        factory: RemoteClass,
        /,
        **options: Unpack[PoolArguments],
    ) -> None: ...
    def __init__(
        self,
        factory: Callable[[], T] | RemoteClass | None = None,
        /,
        **options: Unpack[PoolArguments],
    ) -> None:
        """Describe a pool; nothing is started before it is opened.

        Args:
            factory: makes what a worker holds: a class, or any callable without arguments. It runs inside each worker.
                Without one the workers hold nothing and run plain functions.
            size (None): how many workers; if None, as many as Ray has room for, counted in CPUs unless `ray_options`
                asks for something else: with `{"num_gpus": 0.5}` it is twice the number of GPUs.
            concurrency (1): how many calls one worker runs at once: threads for plain methods, tasks for `async def`
                ones. With 1 the constructor and every call, of either kind, run on the same thread.
            backlog (100_000): the most calls that may wait; beyond it `submit` raises `Overloaded`. None sets no limit.
            min_ready (1): how many workers must be ready before the pool opens; the rest follow.
            start_timeout (60.0): seconds that a worker, and the opening of the pool, may take.
            close_timeout (5.0): seconds that a worker which is not wanted any more has to close what the factory made:
                it leaves it if it is a context manager, else calls its `aclose` or `close`; then `__ray_shutdown__`,
                then `atexit` functions. 0 ends workers at once.
            kill_after (5.0): seconds by which a call may overrun its timeout on a worker before that worker is killed
                and replaced. None never kills.
            poison_after (3): a call that was on a worker at so many deaths fails with `PoisonCall`, retries left or
                not.
            lane ("auto"): how calls reach the workers: "express" by sockets of the pool's own, "freight" by ordinary
                Ray calls, "auto" by sockets, and by Ray to a worker that no socket reaches.
            link_timeout (5.0): about how many seconds, at least 1, after which a dead host or a cut link to a worker on
                another node is noticed. However long a worker is busy and reads nothing, it is not taken for dead.
            writable (False): whether large arrays (64 KB and more) may be written to where they arrive, in the worker
                and as results, as small ones may. What came through Ray is copied for it. Else they are read-only.
            ray_options (None): options of Ray's for each actor, passed on unchanged: `num_gpus`, `resources`,
                `runtime_env`...
            ray_init (None): options of `ray.init()`, such as `num_cpus`, `log_to_driver` or `address`, for the Ray
                that the pool starts or joins; those of `address="here"` are for whoever starts it (see
                `poise.ray_here`). If Ray is initialised already they have no effect, which the log says.

        Raises:
            ConfigError: an option is outside its range. Ray's own options are checked when the pool opens, if it was
                made in a running loop before Ray was imported.
        """
        settings, runtime = PoolOptions.of(options), current_runtime()
        self._live(runtime.launcher(factory, settings), settings, runtime)

    def _live(self, launcher: Launcher, settings: PoolOptions, runtime: Runtime) -> None:
        super().__init__(Home(), CallOptions())
        self._runtime = runtime
        self._launcher = launcher
        self._settings = settings
        self._closing: asyncio.Task[None] | None = None
        self._is_opening = False

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
        pool._live(launcher, settings, current_runtime())
        return pool

    # ---------------------------------------------------------------- life

    async def open(self) -> Self:
        """Start the workers, and Ray if none is running; returns when `min_ready` of them are ready.

        Raises:
            PoolBroken: the workers cannot start; nothing is left behind. Its cause is the constructor's exception.
            PoolClosed: the pool was open before.
            PayloadError: the factory cannot be pickled.
            PoiseError: Ray cannot be started or reached.
            WrongLoop: no asyncio event loop runs here.
        """
        if self._home.engine is not None:
            raise PoolClosed("the pool was opened before; make a new one")
        loop = running_loop()
        settings = self._settings
        scheduler = Scheduler(
            size=settings.size or 1,
            slots=settings.concurrency,
            backlog=settings.backlog,
            kill_after=settings.kill_after,
            poison_after=settings.poison_after,
            heals=self._launcher.replaces,
            chance=self._runtime.chance,
        )
        clock = self._runtime.clock(loop)
        self._home.engine = dispatcher = Dispatcher(
            scheduler, self._launcher, loop, settings.start_timeout, settings.close_timeout, clock
        )
        self._is_opening = True
        try:
            began = clock.time()
            scheduler.size = await self._get_ready(dispatcher)
            if self._closing is None:
                dispatcher.open()
            remaining = max(0.0, settings.start_timeout - (clock.time() - began))
            await self._until_ready(dispatcher, min(settings.min_ready, scheduler.size), remaining)
        except BaseException as error:
            was_closed = self._closing is not None and isinstance(error, Exception)
            await self.aclose()
            await self._launcher.aclose()  # again: it may have been closed while it was still opening
            if was_closed:
                raise PoolClosed("the pool was closed while it was being opened") from error
            raise
        finally:
            self._is_opening = False
        dispatcher.supervisor.watch_shortage()
        return self

    async def _get_ready(self, dispatcher: Dispatcher) -> int:
        """Have the launcher get ready, within `start_timeout`; return how many workers there are to be."""
        limit, size = self._settings.start_timeout, self._settings.size
        in_time = asyncio.timeout(None if limit == math.inf else limit)
        try:
            async with in_time:
                await self._launcher.open(dispatcher)
                return size or await self._launcher.default_size()
        except TimeoutError as error:
            if not in_time.expired():
                raise
            raise PoolBroken(f"Ray did not answer within start_timeout={limit:g} s", 0) from error

    async def _until_ready(self, dispatcher: Dispatcher, wanted: int, remaining: float) -> None:
        scheduler, timeout = dispatcher.scheduler, self._settings.start_timeout

        def is_over() -> bool:
            return scheduler.ready_workers >= wanted or scheduler.broken is not None or self._closing is not None

        is_in_time = await dispatcher.until(is_over, remaining)
        if self._closing is not None:
            raise PoolClosed("it was closed")
        if not is_in_time:
            ready = scheduler.ready_workers
            reason = f"{ready} of min_ready={wanted} workers were ready after start_timeout={timeout:g} s"
            shortage = await self._launcher.shortage()
            if shortage or scheduler.last_failure is not None:
                reason += f": {shortage or scheduler.last_failure}"
            raise PoolBroken(reason, scheduler.failed_starts)
        if scheduler.ready_workers < wanted:
            raise scheduler.broken_error()

    async def drain(self) -> None:
        """Accept nothing more, and return when every accepted call has had its outcome and every lease has ended.

        A stream ends at once if nobody is about to take an item of it: no loop over it, and no `anext`, is under way.
        """
        dispatcher = self._home.dispatcher
        dispatcher.check_loop()
        dispatcher.close(reject_waiting=False)
        if not await dispatcher.until(lambda: dispatcher.scheduler.is_idle, STALLED_AFTER):
            if stalled := dispatcher.stalled_streams():
                _log.warning("the pool waits for streams whose items nobody takes, aclose() them: %s", stalled)
            await dispatcher.until(lambda: dispatcher.scheduler.is_idle)

    async def until_ready(self, workers: int | None = None) -> None:
        """Return when so many workers are ready: all that were asked for if None.

        Raises:
            PoolBroken: no worker can start.
            PoolClosed: the pool is not open, or was closed meanwhile.
            ConfigError: the pool has no so many workers.
        """
        dispatcher = self._home.dispatcher
        dispatcher.check_loop()
        scheduler = dispatcher.scheduler
        if workers is not None:
            check_whole("workers", workers, 1)
            if workers > scheduler.size:
                raise ConfigError("workers", workers, f"the pool has {scheduler.size}; resize() gives it more")

        def is_over() -> bool:
            wanted = scheduler.size if workers is None else workers
            return scheduler.ready_workers >= wanted or scheduler.broken is not None or self._closing is not None

        await dispatcher.until(is_over)
        if self._closing is not None:
            raise PoolClosed("the pool was closed while its workers were awaited")
        if scheduler.broken is not None:
            raise scheduler.broken_error()

    async def resize(self, size: int) -> None:
        """Ask for another number of workers. New ones start now; those over it first finish what they hold.

        Raises:
            ConfigError: `size` is less than 1, or the pool is one of existing actors.
            PoolClosed: the pool is not open, or was closed.
        """
        dispatcher = self._home.dispatcher
        dispatcher.check_loop()
        check_whole("size", size, 1)
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
        if self._home.engine is None:
            return
        self._home.engine.check_loop()
        if self._closing is None:
            self._closing = self._home.engine.loop.create_task(self._aclose(self._home.engine))
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
                self._home.dispatcher.close(reject_waiting=True)
                await self.drain()
        finally:
            await self.aclose()

    # ---------------------------------------------------------------- looking

    @property
    def state(self) -> PoolState:
        """Where the pool is in its life; only "open" takes calls. A broken pool opens again when a worker starts.

        It can be read from any thread, and waits for nothing.
        """
        engine = self._home.engine
        if engine is None:
            return "new"
        if self._closing is not None:
            return "closed"
        if engine.scheduler.is_closed:
            return "draining"
        return "open" if engine.scheduler.broken is None else "broken"

    def __repr__(self) -> str:
        """Give the size and what the pool is doing."""
        engine = self._home.engine
        if engine is None:
            return f"<Pool of {self._launcher!r}, not open>"
        try:
            stats = engine.look(lambda: engine.scheduler.stats(engine.clock.time()), _REPR_WAITS)
        except LoopBlocked:
            return f"<Pool of {self._launcher!r}, {self.state}: its loop is blocked>"
        state = "opening" if self._is_opening and self.state == "open" else self.state
        starting = f"{stats.starting} starting, " if stats.starting else ""
        return (
            f"<Pool of {self._launcher!r}, {state}: {stats.ready}/{stats.size} workers ready, {starting}"
            f"{stats.running} running, {stats.waiting} waiting>"
        )

    def __del__(self) -> None:
        """Warn about a pool that was never closed; Ray ends its actors with its handles."""
        if getattr(self, "_closing", self) is None and self._home.engine is not None:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2, source=self)
