"""The pool: opening, closing, resizing and looking at it. How to call it is in `view`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from poise._engine.engine import Engine
from poise._engine.launchers import foreign_launcher
from poise._engine.runtime import current_runtime
from poise._html import block, line
from poise.errors import LoopBlocked
from poise.options import CallOptions, PoolOptions
from poise.stats import stats_html
from poise.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self, Unpack

    from poise._engine.engine import PoolState
    from poise._engine.runtime import Runtime
    from poise._lanes.lane import Launcher
    from poise.arguments import ClientArguments, SharedArguments
    from poise.events import Observer
    from poise.options import PoolArguments
    from poise.policies import Size

T = TypeVar("T")
R = TypeVar("R")

_REPR_WAITS = 0.5
"""Seconds that another thread, which shows the pool, waits for a loop that is blocked."""


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

    __slots__ = ("__weakref__",)

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
            size (None): how many workers; or the fewest and the most, such as (0, 16) or a `poise.Elastic`, between
                which the pool follows its load. If None, as many as Ray has room for, counted in CPUs unless
                `ray_options` asks for something else: with `{"num_gpus": 0.5}` it is twice the number of GPUs.
            concurrency (1): how many calls one worker runs at once: threads for plain methods, tasks for `async def`
                ones. With 1 the constructor and every call, of either kind, run on the same thread.
            backlog (100_000): the most calls that may wait; beyond it `submit` raises `Overloaded`. None sets no limit.
            backlog_per_tenant (None): the most calls of one tenant that may wait, where calls have one: see
                `View.options`. None sets no limit.
            min_ready (1): how many workers must be ready before the pool opens; the rest follow.
            start_timeout (60.0): seconds that a worker, and the opening of the pool, may take.
            close_timeout (5.0): seconds that a worker which is not wanted any more has to close what the factory made:
                it leaves it if it is a context manager, else calls its `aclose` or `close`; then `__ray_shutdown__`,
                then `atexit` functions. 0 ends workers at once. Closing the pool takes at most 40 s more than this, all
                in all, even if Ray does not answer.
            kill_after (5.0): seconds by which a call may overrun its timeout on a worker before that worker is killed
                and replaced. None never kills.
            poison_after (3): a call that was on a worker at so many deaths fails with `PoisonCall`, retries left or
                not.
            retry_budget (None): the share of the calls of the last 10 s that may be run again, by `retries`, such as
                0.2; ten in that time always may. Beyond it a call ends as if it had no retries left. None sets no
                bound.
            lane ("auto"): how calls reach the workers: "express" by sockets of the pool's own, "freight" by ordinary
                Ray calls, "auto" by sockets, and by Ray to a worker that no socket reaches.
            link_timeout (5.0): about how many seconds, at least 1, after which a dead host or a cut link to a worker on
                another node is noticed. However long a worker is busy and reads nothing, it is not taken for dead.
            writable (False): whether large arrays (64 KB and more) may be written to where they arrive, in the worker
                and as results, as small ones may. What came through Ray is copied for it. Else they are read-only.
            recycle (None): when a healthy worker is replaced because it is old: a `poise.Recycle`, for example
                `poise.Recycle(calls=10_000, memory="2GiB")`.
            health (None): when a worker is sick, is given no more calls, and is replaced: a `poise.Health`, for
                example `poise.Health(Model.check, every=10.0)`.
            observers (()): who hears of what happens: objects of classes derived from `poise.Observer`.
            record (None): a file in which it is written down which worker ran what and when, for https://ui.perfetto.dev;
                what it has held is replaced, and half a million events are the most.
            traces (False): whether each call has spans for OpenTelemetry, here and in its worker, where the span is
                current while the call's code runs. It needs `opentelemetry-api` (`poise[otel]`).
            context (()): variables (`contextvars.ContextVar`) that have in the worker, while a call runs, the values
                that they have here where it is submitted. Each is a global of a module that workers can import. Their
                pickled values may have 64 KiB in all.
            logs ("ray"): where what workers log goes: "ray" leaves it to them, and Ray brings what they print;
                "forward" has it logged here, by the loggers of the same names and at their levels, with the `worker`
                and the `function` as fields of the record, and with `traces` the `trace_id` and `span_id`.
            watch (False): whether `poise top` shows the pool, and can change it, to this user on this machine; so does
                the variable `POISE_WATCH=1`, for every pool of a program.
            ray_options (None): options of Ray's for each actor, passed on unchanged: `num_gpus`, `resources`,
                `runtime_env`...
            ray_init (None): options of `ray.init()`, such as `num_cpus`, `log_to_driver` or `address`, for the Ray
                that the pool starts or joins; those of `address="here"` are for whoever starts it (see
                `poise.ray_here`). If Ray is initialised already they have no effect, which the log says.

        Raises:
            ConfigError: an option is outside its range, or needs what is not installed. Ray's own options are checked
                when the pool opens, if it was made in a running loop before Ray was imported.
        """
        settings, runtime = PoolOptions.of(options), current_runtime()
        self._live(runtime.launcher(factory, settings), settings, runtime)

    def _live(self, launcher: Launcher, settings: PoolOptions, runtime: Runtime) -> None:
        super().__init__(Engine(launcher, settings, runtime), CallOptions())

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
        return cls._with_engine(Engine(foreign_launcher(handles), settings, current_runtime()))

    @overload
    @classmethod
    def shared(cls, name: str, factory: None = None, /, **options: Unpack[SharedArguments]) -> Pool[None]: ...
    @overload
    @classmethod
    def shared(cls, name: str, factory: Callable[[], R], /, **options: Unpack[SharedArguments]) -> Pool[R]: ...
    @overload
    @classmethod
    def shared(cls, name: str, factory: RemoteClass, /, **options: Unpack[SharedArguments]) -> Pool[Any]: ...
    @classmethod
    def shared(cls, name: str, factory: Any = None, /, **options: Unpack[SharedArguments]) -> Pool[Any]:
        """A pool that processes have together: of all that use the same Ray the first opens it, the others join it.

        It is used as any pool is. Bounds, order, priorities and sizes are those of all its clients together, each of
        which is a tenant of its own unless its calls name another (`View.options`). What an own pool refuses by raising
        from `submit` comes as the outcome of the call: `Overloaded`, say. The pool is closed when its last client has
        left it, or has died. Where nothing says which Ray to use it is the one that this user's processes share
        (`poise.ray_here`).

        Args:
            name: by which processes find it.
            factory: as of any pool; the one of the first client counts.
            options: as of any pool; those of the first client count, and the others give the same or none. Each has
                `start_timeout`, `close_timeout`, `traces`, `context`, `observers`, `record` and `ray_init` for itself.
                One more, `detached` (False), says whether it stays open when nobody uses it, until `poise stop NAME`.

        Raises:
            ConfigError: an option is outside its range, or none of a shared pool's. When it opens: the pool has another
                value for it.
        """
        from poise._shared.opening import opening_engine

        return cls._with_engine(opening_engine(current_runtime(), name, factory, options))

    @classmethod
    def join(cls, name: str, /, **options: Unpack[ClientArguments]) -> Pool[Any]:
        """A pool that others have opened with `Pool.shared`. Opening it raises `PoolClosed` where there is none.

        Args:
            name: by which it is found.
            options: what each client has for itself: see `Pool.shared`.

        Raises:
            ConfigError: an option is outside its range.
        """
        from poise._shared.opening import joining_engine

        return cls._with_engine(joining_engine(current_runtime(), name, options))

    @classmethod
    def _with_engine(cls, engine: Engine) -> Pool[Any]:
        pool: Pool[Any] = cls.__new__(cls)
        super(Pool, pool).__init__(engine, CallOptions())
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
        await self._engine.open()
        return self

    async def drain(self) -> None:
        """Accept nothing more, and return when every accepted call has had its outcome and every lease has ended.

        A stream ends at once if nobody is about to take an item of it: no loop over it, and no `anext`, is under way.
        """
        await self._engine.drain()

    async def until_ready(self, workers: int | None = None) -> None:
        """Return when so many workers are ready: all that were asked for if None.

        Raises:
            PoolBroken: no worker can start.
            PoolClosed: the pool is not open, or was closed meanwhile.
            ConfigError: the pool has no so many workers.
        """
        await self._engine.until_ready(workers)

    async def resize(self, size: Size) -> None:
        """Ask for another number of workers. New ones start now; those over it first finish what they hold.

        Args:
            size: how many, from now on; or bounds, within which the pool follows its load from now on.

        Raises:
            ConfigError: `size` is no such number, or the pool is one of existing actors.
            PoolClosed: the pool is not open, or was closed.
        """
        await self._engine.resize(size)

    async def replace(self, worker_id: int) -> int:
        """Have a worker replaced, for example one that does no good work; returns when the new one is ready.

        Until then the old one works on; then it takes nothing more, finishes what it holds, closes what the factory
        made, and ends. No call fails. It leaves first if Ray has no room for both, or with `Recycle(surge=False)`.
        Cancelling this does not stop it.

        Args:
            worker_id: its number, as `stats().workers` and a leased worker have it.

        Returns:
            The number of the new one.

        Raises:
            ReplaceFailed: the new one cannot start; the old one stays. Its cause is the constructor's exception.
            ConfigError: no worker of that number is ready, or the pool is one of existing actors.
            PoolClosed: the pool is not open, or was closed meanwhile.
        """
        return await self._engine.replace(worker_id)

    async def reload(self, factory: Callable[[], T] | RemoteClass | None = None, *, surge: int = 1) -> None:
        """Replace every worker, for new weights, say, while calls are served; returns when those that work are new.

        New workers start first, `surge` at a time, and for each that is ready an old one takes nothing more, finishes
        what it holds, and ends; a lease, or a stream, stays where it is until it ends. Meanwhile calls run on either.
        If a new worker cannot start, or has no room, the pool stays as it was: those that were new already are replaced
        by old ones again. A second reload waits for the first. Cancelling this does not stop it.

        Args:
            factory: makes what the new workers hold, and all that come later; the same as before, asked anew, if None.
            surge: how many new workers may start at a time beside the old ones. With 0 one after the other leaves
                first, where there is no room for one more: then calls make do with one worker less.

        Raises:
            ReplaceFailed: a new worker could not start; says why. Its cause is the constructor's exception.
            PayloadError: the factory cannot be pickled; nothing has changed.
            ConfigError: `surge` is less than 0, the factory cannot be called without arguments, or the pool is one of
                existing actors.
            PoolClosed: the pool is not open, or was closed meanwhile.
        """
        await self._engine.reload(factory, surge)

    async def aclose(self) -> None:
        """Close now: what waits is refused, what runs is given up, and every worker is ended.

        Returns when nothing of the pool is left, or `close_timeout` and 40 s later if something does not end: the log
        says what. Safe to call again. Cancelling it does not stop the closing.
        """
        await self._engine.aclose()

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
            elif isinstance(error, Exception) and self.state != "closed":
                self._engine.refuse_waiting()
                await self.drain()
        finally:
            await self.aclose()

    # ---------------------------------------------------------------- looking

    def add_observer(self, observer: Observer) -> None:
        """Tell this one, too, what happens in the pool from now on: see `poise.Observer`. Any thread may do so.

        Of calls that were submitted before it hears only if others were told of them already. Added again, it is
        told once.

        Raises:
            ConfigError: it is no observer.
        """
        self._engine.observers.add(observer)

    def remove_observer(self, observer: Observer) -> None:
        """Tell this one nothing more. Any thread may do so; it does nothing if it is not told anything."""
        self._engine.observers.remove(observer)

    @property
    def state(self) -> PoolState:
        """Where the pool is in its life; only "open" takes calls. A broken pool opens again when a worker starts.

        It can be read from any thread, and waits for nothing.
        """
        return self._engine.state

    def __repr__(self) -> str:
        """Give the size and what the pool is doing."""
        if self.state == "new":
            return f"<Pool of {self._engine!r}, not open>"
        try:
            stats = self._engine.stats(_REPR_WAITS)
        except LoopBlocked:
            return f"<Pool of {self._engine!r}, {self.state}: its loop is blocked>"
        bounds = "" if stats.least == stats.most else f" (of {stats.least} to {stats.most})"
        starting = f"{stats.starting} starting, " if stats.starting else ""
        return (
            f"<Pool of {self._engine!r}, {self._engine.phase}: {stats.ready}/{stats.size} workers ready{bounds}, "
            f"{starting}{stats.running} running, {stats.waiting} waiting>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: the same, and the workers."""
        try:
            stats = None if self.state == "new" else self._engine.stats(_REPR_WAITS)
        except LoopBlocked:
            stats = None
        return block(line(repr(self)), "" if stats is None else stats_html(stats))

    def __del__(self) -> None:
        """Warn about a pool that was never closed.

        With the last of its views it finishes what it has accepted and closes, if its loop still runs; if not, Ray ends
        its actors with its handles.
        """
        engine = getattr(self, "_engine", None)  # there is none if an option was refused
        if engine is not None and engine.state not in ("new", "closed"):
            warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2, source=self)
