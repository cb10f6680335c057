"""The engine of a client: an ordinary one, whose one worker is the owner of the shared pool.

What befalls calls at the owner comes back as a worker's answers do. What the owner's death means follows from what is
known of the death of a worker: what had not begun is sent again, to the next owner; what may have is in doubt.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from poise._core.batches import Batching
from poise._core.calls import CallRecord
from poise._core.relaying import RelayScheduler
from poise._engine.call import no_function, pace_key, time_limit
from poise._engine.carrying import call_maker
from poise._engine.engine import Engine
from poise._engine.looking import LOOKS_FOR
from poise._shared.dispatcher import ClientDispatcher, SharedCall
from poise._shared.terms import LATE, terms_of
from poise.checks import check_whole
from poise.errors import LeaseExpired, PoolClosed, WorkerLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from poise._engine.call import Call
    from poise._engine.runtime import Runtime
    from poise._engine.stream import StreamBuffer
    from poise._lanes.lane import Launcher
    from poise._shared.lane import OwnerLane
    from poise._shared.terms import Terms
    from poise.options import CallOptions, PoolOptions
    from poise.policies import Size
    from poise.stats import Stats

R = TypeVar("R")

_REMEMBERED = 64
"""Views of which it is remembered what their calls ask for."""


class SharedEngine(Engine):
    """A client's engine."""

    _dispatchers = ClientDispatcher

    def __init__(self, launcher: Launcher, settings: PoolOptions, runtime: Runtime) -> None:
        """Start nothing before `open`."""
        super().__init__(launcher, settings, runtime)
        self._new_call = call_maker(settings, repr(launcher), self.observers, SharedCall)
        self._asked: dict[int, tuple[CallOptions, Terms | None]] = {}
        self._leases: set[Call[Any]] = set()
        self._sleeps = False

    def _make_scheduler(self) -> RelayScheduler:
        return RelayScheduler(
            backlog=self._settings.backlog, retry_budget=self._settings.retry_budget, chance=self._runtime.chance
        )

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
        """Hand a call to the owner, or let it wait for one; see `Engine.submit`.

        Where the owner refuses it that is the call's outcome: only what is known here is raised.
        """
        dispatcher = self._opened
        dispatcher.check_loop()
        if not (callable(function) or isinstance(function, str)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise no_function(function)
        now = dispatcher.clock.time()
        timeout, deadline = time_limit(options, now)
        call: Any = self._new_call(dispatcher, function, args, kwargs, options, stream)
        call.may_begin = may_begin
        call.asks, call.parks, call.deadline = self._terms(options), may_park, deadline
        call.deaths, call.owner_id, call.own = 0, None, None
        if is_lease:
            call.own = {"leases": True}
        elif lease is not None:
            call.own = {"under": self._held(lease)}
        elif worker_id is not None:
            call.own = {"worker": worker_id}
        if type(batching := pace_key(call)) is Batching:
            call.own = {**(call.own or {}), "batch": (int(batching.max), float(batching.wait))}
        record = CallRecord(
            dispatcher.next_call_id(),
            call.name,
            name=call.name,
            priority=options.priority,
            deadline=deadline + LATE,
            timeout=timeout,
            retries=options.retries,
            retry_delay=options.retry_delay,
        )
        dispatcher.submit(call, record, may_park=may_park)
        if is_lease:
            self._leases.add(call)
        made: Call[Any] = call
        return made

    def _terms(self, options: CallOptions) -> Terms | None:
        known = self._asked.get(id(options))
        if known is not None:
            return known[1]
        terms = terms_of(options) or None
        if len(self._asked) >= _REMEMBERED:
            self._asked.clear()
        self._asked[id(options)] = options, terms
        return terms

    def _held(self, lease: Any) -> tuple[int, int]:
        """By which call the lease was granted, and which worker it is.

        Raises:
            LeaseExpired: it was given back, or the owner that gave it has died.
        """
        worker_id: int = lease.result()
        if lease not in self._leases:
            raise LeaseExpired(worker_id, "released")
        if lease.owner_id not in self._opened.lanes:
            raise LeaseExpired(worker_id, "lost")
        return lease.record.id, worker_id

    def release(self, lease: Any) -> None:
        """The holder of a lease gives its worker back, or does not wait for one any more."""
        self._leases.discard(lease)
        if not lease.cancel() and not lease.cancelled() and lease.exception() is None:
            lane = self._opened.lanes.get(lease.owner_id)
            if lane is not None:
                lane.cancel(lease.record.id)
        if self._opened.watchers.watching:
            self._opened.watchers.look()

    def is_held(self, lease: Any) -> bool:
        """Whether the lease has its worker still, as far as is known here."""
        return lease in self._leases and lease.done() and lease.owner_id in self._opened.lanes

    async def members(self) -> list[int]:
        """The numbers of the workers that count towards the size."""
        members, self._sleeps = await self._ask("members")
        return members  # type: ignore[no-any-return]

    @property
    def is_asleep(self) -> bool:
        """Whether it takes calls, and had no worker when it was last asked which."""
        return self.state == "open" and self._sleeps

    def slots(self, lease: Call[Any] | None = None) -> int:
        """How many calls may run at once, in the whole pool or on the worker of a lease."""
        dispatcher: Any = self._opened
        dispatcher.check_loop()
        lane: OwnerLane | None = dispatcher.lane
        if lane is None:
            return 1
        return lane.greeting.slots * (1 if lease is not None else lane.greeting.most)

    # ---------------------------------------------------------------- the pool

    async def _ask(self, what: str, *args: Any) -> Any:
        """Have the owner do something with the pool.

        Raises:
            PoolClosed: it is closed here.
            WorkerLost: the owner has died meanwhile.
            Exception: what the pool raises.
        """
        dispatcher: Any = self._opened
        dispatcher.check_loop()
        scheduler = dispatcher.scheduler
        await dispatcher.watchers.until(
            lambda: dispatcher.lane is not None or scheduler.is_closed or scheduler.fleet.broken is not None
        )
        lane: OwnerLane | None = dispatcher.lane
        if scheduler.is_closed:
            raise PoolClosed("the pool is closed, and its workers stay as they are")
        if lane is None:
            raise scheduler.fleet.broken_error()
        return await lane.ask(what, *args)

    async def until_ready(self, workers: int | None) -> None:
        """Return when so many workers are ready; see `Pool.until_ready`."""
        if workers is not None:
            check_whole("workers", workers, 1)
        await self._ask("until_ready", workers)

    async def resize(self, size: Size) -> None:
        """Ask for another number of workers; see `Pool.resize`."""
        await self._ask("resize", size)

    async def replace(self, worker_id: int) -> int:
        """Have a worker replaced; see `Pool.replace`."""
        heir: int = await self._ask("replace", worker_id)
        return heir

    async def reload(self, factory: Any, surge: int) -> None:
        """Have every worker replaced; see `Pool.reload`."""
        launcher: Any = self._launcher
        packed = None if factory is None else await launcher.pack(factory)
        await self._ask("reload", packed, surge)
        if packed is not None:
            launcher.use(packed)

    async def stacks(self, worker_id: int) -> str:
        """What the threads and tasks of a worker are doing; raises what `stacks_of` says."""
        text: str = await self._ask("stacks", worker_id)
        return text

    async def drain(self) -> None:
        """Accept nothing more from here, and return when every call made here has had its outcome."""
        dispatcher = self._opened
        dispatcher.check_loop()
        dispatcher.close(reject_waiting=False)
        await dispatcher.watchers.until(lambda: dispatcher.scheduler.is_idle and not self._leases)

    def stats(self, within: float = LOOKS_FOR) -> Stats:
        """A snapshot of the whole pool; until the first owner is there, and after the end, of what is known here.

        Raises:
            PoolClosed: the pool was never opened.
            LoopBlocked: the owner has not answered in time.
        """
        dispatcher: Any = self._opened
        lanes = [*dispatcher.lanes.values()]
        if lanes and self._closing is None:
            try:
                stats: Stats = lanes[0].stats(within)
            except WorkerLost:
                pass
            else:
                return stats
        return _without_owner(super().stats(within))


def _without_owner(stats: Stats) -> Stats:
    """What a client knows by itself: its owner is no worker."""
    return replace(stats, ready=0, free_slots=0, workers=())
