"""The engine: what stands behind a pool and all its views, and everything that these ask of it.

What is handed over could be packed, but for the futures, which stay with the caller: functions and their arguments,
options, numbers of workers, snapshots. Nothing above knows the core.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from poise._core.scheduler import Scheduler
from poise._core.states import CallState
from poise._engine import renewing
from poise._engine.call import new_record, no_function, pace_key, time_limit
from poise._engine.carrying import call_maker
from poise._engine.checks import Checks
from poise._engine.dispatcher import Dispatcher
from poise._engine.looking import LOOKS_FOR, look, stacks_of, stats_of
from poise._engine.loops import running_loop
from poise._engine.observers import Observers
from poise._engine.watching import show
from poise.checks import check_whole
from poise.errors import ConfigError, PoolBroken, PoolClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from poise._engine.call import Call
    from poise._engine.runtime import Runtime
    from poise._engine.stream import StreamBuffer
    from poise._lanes.lane import Launcher
    from poise.options import CallOptions, PoolOptions
    from poise.policies import Elastic, Size
    from poise.stats import Stats

logger = logging.getLogger("poise")

STALLED_AFTER = 5.0
"""Seconds of draining after which a stream that nobody reads is worth a warning."""

CLOSING = 40.0
"""Seconds that closing takes at most beside `close_timeout`, whatever does not answer; one thing by itself is given up
sooner than that."""

LETTING_GO = 10.0
"""How many of these are kept for letting go of Ray, however long the workers take."""

_FORSAKEN: Final[set[asyncio.Task[None]]] = set()
"""The closings of pools that were dropped unclosed."""

PoolState = Literal["new", "open", "broken", "draining", "closed"]
"""Where a pool is in its life."""


class Engine:
    """One pool's life, and the way in for its calls."""

    _dispatchers: ClassVar[type[Dispatcher]] = Dispatcher

    def __init__(self, launcher: Launcher, settings: PoolOptions, runtime: Runtime) -> None:
        """Start nothing before `open`."""
        self._launcher = launcher
        self._settings = settings
        self._runtime = runtime
        self.observers: Observers = Observers(repr(launcher), settings.observers, settings.record)
        """Who hears of what happens."""
        self._dispatcher: Dispatcher | None = None
        """What does the work, once the pool is open."""
        self._closing: asyncio.Task[None] | None = None
        self._is_opening = False
        self._new_call = call_maker(settings, repr(launcher), self.observers)

    # ---------------------------------------------------------------- calls

    def submit(
        self,
        function: Callable[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
        *,
        may_park: bool = False,
        stream: StreamBuffer | None = None,
        lease: Call[Any] | None = None,
        is_lease: bool = False,
        worker_id: int | None = None,
        may_begin: Callable[[], bool] | None = None,
    ) -> Call[Any]:
        """Accept a call, let it wait until there is room if it may, or refuse it.

        Args:
            function: what to run.
            args: positional arguments for it.
            kwargs: keyword arguments for it.
            options: what its caller asks for.
            may_park: whether it waits for room where the backlog is full, or is refused.
            stream: where its items go, if it gives any.
            lease: the lease under which it is made: it runs on that worker or nowhere.
            is_lease: whether it asks for a whole worker, whose number is its result, and runs nothing.
            worker_id: the one of `members` on which it is to run.
            may_begin: asked on this side each time before it is sent to a worker; False cancels it instead.

        Raises:
            PoolClosed, PoolBroken, Overloaded, LeaseExpired, WorkerLost: see `Scheduler.submit`.
            DeadlineExceeded: the deadline of `options` has passed.
            ConfigError: `function` cannot be called, or its worker, which `kill_on_cancel` would end, is not the
                pool's to kill.
            WrongLoop: called from another loop or thread than the pool's own.
        """
        dispatcher = self._opened
        dispatcher.check_loop()
        if not (callable(function) or isinstance(function, str)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise no_function(function)
        if options.kill_on_cancel:
            dispatcher.check_may_kill("kill_on_cancel", value=True)
        timeout, deadline = time_limit(options, dispatcher.clock.time())
        call = self._new_call(dispatcher, function, args, kwargs, options, stream)
        call.may_begin = may_begin
        record = new_record(dispatcher.scheduler, options)(
            dispatcher.next_call_id(),
            pace_key(call),
            name=call.name,
            priority=options.priority,
            deadline=deadline,
            timeout=timeout,
            retries=options.retries,
            retry_delay=options.retry_delay,
            lease=None if lease is None else lease.record,
            is_lease=is_lease,
        )
        if worker_id is not None:
            record.bound_for = dispatcher.scheduler.worker(worker_id)
        dispatcher.submit(call, record, may_park=may_park)
        return call

    def release(self, lease: Call[Any]) -> None:
        """The holder of a lease gives its worker back, or does not wait for one any more."""
        lease.cancel()
        if lease.record is not None:
            self._opened.release(lease.record)

    def is_held(self, lease: Call[Any]) -> bool:
        """Whether the lease has its worker still."""
        return lease.record is not None and lease.record.state is CallState.RUNNING

    async def members(self) -> list[int]:
        """The numbers of the workers that count towards the size: all but those that retire."""
        return [worker.id for worker in self._opened.scheduler.members()]

    def slots(self, lease: Call[Any] | None = None) -> int:
        """How many calls may run at once, in the whole pool or on the worker of a lease."""
        dispatcher = self._opened
        dispatcher.check_loop()
        return dispatcher.scheduler.slots * (1 if lease is not None else dispatcher.scheduler.sizing.most)

    def time(self) -> float:
        """What deadlines are read from, in seconds: the pool's clock, before it is open the loop's."""
        return asyncio.get_running_loop().time() if self._dispatcher is None else self._dispatcher.clock.time()

    # ---------------------------------------------------------------- life

    async def open(self) -> None:
        """Start the workers, and Ray if none is running; returns when `min_ready` of them are ready.

        Raises:
            PoolBroken, PoolClosed, PayloadError, PoiseError, WrongLoop: see `Pool.open`.
        """
        if self._dispatcher is not None:
            raise PoolClosed("the pool was opened before; make a new one")
        settings = self._settings
        self._dispatcher = dispatcher = self._make_dispatcher()
        self._is_opening = True
        show(self, is_wanted=settings.watch)
        try:
            began = dispatcher.clock.time()
            size = await self._get_ready(dispatcher)
            if self._closing is None:
                dispatcher.resize(size)
            remaining = max(0.0, settings.start_timeout - (dispatcher.clock.time() - began))
            await self._until_first(dispatcher, min(settings.min_ready, dispatcher.scheduler.fleet.size), remaining)
        except BaseException as error:
            was_closed = self._closing is not None and isinstance(error, Exception)
            await self.aclose()
            await self._launcher.aclose(LETTING_GO)  # again: it may have been closed while it was still opening
            if was_closed:
                raise PoolClosed("the pool was closed while it was being opened") from error
            raise
        finally:
            self._is_opening = False
        dispatcher.supervisor.watch_shortage()

    async def until_ready(self, workers: int | None) -> None:
        """Return when so many workers are ready: all that were asked for if None.

        Raises:
            PoolBroken, PoolClosed, ConfigError: see `Pool.until_ready`.
        """
        dispatcher = self._opened
        dispatcher.check_loop()
        scheduler = dispatcher.scheduler
        if workers is not None:
            check_whole("workers", workers, 1)
            if workers > (most := scheduler.sizing.most):
                raise ConfigError("workers", workers, f"the pool has {most}; resize() gives it more")
        await dispatcher.watchers.until(
            lambda: self._is_settled(scheduler, scheduler.fleet.size if workers is None else workers)
        )
        if self._closing is not None:
            raise PoolClosed("the pool was closed while its workers were awaited")
        if scheduler.fleet.broken is not None:
            raise scheduler.fleet.broken_error()

    async def resize(self, size: Size) -> None:
        """Ask for another number of workers, and raise what `Pool.resize` says."""
        renewing.resize(self._opened, size)

    async def replace(self, worker_id: int) -> int:
        """Have a worker replaced, return the number of the new one once it is ready; raise what `Pool.replace` says."""
        return await renewing.replace(self._opened, worker_id)

    async def reload(self, factory: Any, surge: int) -> None:
        """Have every worker replaced, return when those that work are new, and raise what `Pool.reload` says."""
        await renewing.reload(self._opened, factory, surge)

    async def drain(self) -> None:
        """Accept nothing more, and return when every accepted call has had its outcome and every lease has ended."""
        dispatcher = self._opened
        dispatcher.check_loop()
        dispatcher.close(reject_waiting=False)
        if not await dispatcher.watchers.until(lambda: dispatcher.scheduler.is_idle, STALLED_AFTER):
            if stalled := dispatcher.stalled_streams():
                logger.warning("the pool waits for streams whose items nobody takes, aclose() them: %s", stalled)
            await dispatcher.watchers.until(lambda: dispatcher.scheduler.is_idle)

    def refuse_waiting(self) -> None:
        """Accept nothing more, and refuse what has not begun."""
        if self._closing is None:
            self._opened.close(reject_waiting=True)

    async def aclose(self) -> None:
        """Give up every call and every worker; returns when nothing of the pool is left. Safe to call again.

        It takes `CLOSING` seconds and `close_timeout` at most; what has not ended then is left behind.
        """
        if self._dispatcher is None:
            return
        self._dispatcher.check_loop()
        if self._closing is None:
            self._closing = self._dispatcher.loop.create_task(self._aclose(self._dispatcher))
        await asyncio.shield(self._closing)

    # ---------------------------------------------------------------- looking, from any thread

    @property
    def state(self) -> PoolState:
        """Where the pool is in its life."""
        if self._dispatcher is None:
            return "new"
        if self._closing is not None:
            return "closed"
        if self._dispatcher.scheduler.is_closed:
            return "draining"
        return "open" if self._dispatcher.scheduler.fleet.broken is None else "broken"

    @property
    def carries(self) -> bool:
        """Whether it matters in which context a call is submitted."""
        return self._settings.traces or bool(self._settings.context)

    @property
    def is_asleep(self) -> bool:
        """Whether it takes calls, and has no worker before one comes."""
        return self.state == "open" and self._opened.scheduler.fleet.size == 0

    @property
    def phase(self) -> str:
        """The state, for people: also whether it is still being opened."""
        return "opening" if self._is_opening and self.state == "open" else self.state

    def stats(self, within: float = LOOKS_FOR) -> Stats:
        """A snapshot whose numbers add up.

        Args:
            within: seconds for which another thread than the loop's own waits for a loop that is busy.

        Raises:
            PoolClosed: the pool was never opened.
            LoopBlocked: the loop has not come to it in time.
        """
        dispatcher = self._opened
        return look(dispatcher.loop, dispatcher.thread, lambda: stats_of(dispatcher), within)

    async def stacks(self, worker_id: int) -> str:
        """What the threads and tasks of a worker are doing; raises what `stacks_of` says."""
        return await stacks_of(self._opened, worker_id)

    def __repr__(self) -> str:
        """Give what the workers hold."""
        return repr(self._launcher)

    # ---------------------------------------------------------------- inside

    @property
    def _opened(self) -> Dispatcher:
        """What does the work.

        Raises:
            PoolClosed: the pool was never opened.
        """
        if self._dispatcher is None:
            raise PoolClosed("the pool is not open: use `async with poise.Pool(...) as pool:`, or await pool.open()")
        return self._dispatcher

    def _make_dispatcher(self) -> Dispatcher:
        loop, settings = running_loop(), self._settings
        clock, times = self._runtime.clock(loop), (settings.start_timeout, settings.close_timeout)
        dispatcher = self._dispatchers(self._make_scheduler(), self._launcher, loop, *times, clock, self.observers)
        if settings.health is not None and settings.health.check is not None:
            dispatcher.checks = Checks(settings.health, dispatcher)
        return dispatcher

    def _make_scheduler(self) -> Scheduler:
        settings = self._settings
        return Scheduler(
            slots=settings.concurrency,
            backlog=settings.backlog,
            backlog_per_tenant=settings.backlog_per_tenant,
            kill_after=settings.kill_after,
            poison_after=settings.poison_after,
            retry_budget=settings.retry_budget,
            heals=self._launcher.replaces,
            recycle=settings.recycle,
            health=settings.health,
            chance=self._runtime.chance,
        )

    async def _get_ready(self, dispatcher: Dispatcher) -> int | Elastic:
        """Have the launcher get ready, within `start_timeout`; return how many workers there are to be."""
        limit, size = self._settings.start_timeout, self._settings.wanted
        in_time = asyncio.timeout(None if limit == math.inf else limit)
        try:
            async with in_time:
                await self._launcher.open(dispatcher.checks or dispatcher)
                return size or await self._launcher.default_size()
        except TimeoutError as error:
            if not in_time.expired():
                raise
            raise PoolBroken(f"Ray did not answer within start_timeout={limit:g} s", 0) from error

    async def _until_first(self, dispatcher: Dispatcher, wanted: int, remaining: float) -> None:
        scheduler, timeout = dispatcher.scheduler, self._settings.start_timeout
        is_in_time = await dispatcher.watchers.until(lambda: self._is_settled(scheduler, wanted), remaining)
        if self._closing is not None:
            raise PoolClosed("it was closed")
        if not is_in_time:
            ready = scheduler.ready_workers
            reason = f"{ready} of min_ready={wanted} workers were ready after start_timeout={timeout:g} s"
            shortage = await self._launcher.shortage()
            checking = None if dispatcher.checks is None else dispatcher.checks.under_way
            if (cause := shortage or scheduler.fleet.last_failure or checking) is not None:
                reason += f": {cause}"
            raise PoolBroken(reason, scheduler.fleet.failed_starts)
        if scheduler.ready_workers < wanted:
            raise scheduler.fleet.broken_error()

    def _is_settled(self, scheduler: Scheduler, wanted: int) -> bool:
        """Whether so many workers are ready, or never will be."""
        return scheduler.ready_workers >= wanted or scheduler.fleet.broken is not None or self._closing is not None

    def __del__(self) -> None:  # runs on any thread, where the collector comes by
        """Close a pool that nobody has any more: neither the pool itself, nor a view, a lease or a map of it."""
        if self._dispatcher is not None and self._closing is None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the workers end with their handles
                self._dispatcher.loop.call_soon_threadsafe(self._outlive)

    def _outlive(self) -> None:
        closing = asyncio.ensure_future(self._finish())
        _FORSAKEN.add(closing)
        closing.add_done_callback(_FORSAKEN.discard)

    async def _finish(self) -> None:
        try:
            await self.drain()
        finally:
            await self.aclose()

    async def _aclose(self, dispatcher: Dispatcher) -> None:
        loop = dispatcher.loop
        deadline = loop.time() + self._settings.close_timeout + CLOSING
        try:
            await dispatcher.aclose(deadline - LETTING_GO)
        finally:
            try:
                await self._launcher.aclose(deadline - loop.time())
            finally:
                self.observers.end()
