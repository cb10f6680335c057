"""Starts the workers of a pool: host actors, each reached through a lane."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from typing import TYPE_CHECKING, Any, Final

import ray

from poise._lanes.creation import Creation, refuse_another_ray
from poise._lanes.factory import pack_factory
from poise._lanes.host_lane import HostLane
from poise._lanes.lane import Lane, Launcher, Listener, StartFailed, undo_start
from poise._lanes.logs import Logs, levels_here
from poise._lanes.redefined import KnownClasses
from poise._lanes.unreachable import Unreachables
from poise._protocol.paths import own_paths
from poise._protocol.payloads import nbytes
from poise._protocol.words import describe
from poise._ray.blocking import in_thread
from poise._ray.init import check_ray_init
from poise._ray.options import check_ray_options, label_of, needs_of, room_for, shortage_of, unwrap_factory
from poise._ray.prints import await_printer, know_printer
from poise._ray.session import LETTING_GO, RaySession
from poise._worker.host import Host
from poise.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from poise._lanes.sockets import Sockets
    from poise._protocol.payloads import Packed

_ray: Any = ray  # its own types leave out some of what it takes and gives

SPARE_THREADS: Final = 2
"""Freight threads of a host beyond its slots: a stream's last `pull` may be answered after its slot is free."""

DEPOSITED: Final = 100_000
"""Bytes of a pickled factory from which on it is put into Ray's object store once, and not into each start."""

TOLD_OF_SHORTAGE: Final = 2.0
"""Seconds in which Ray may say what it has free."""


class HostLauncher:
    """Starts host actors, and reaches them by Ray calls or by sockets of their own."""

    replaces: bool = True

    def __init__(
        self,
        factory: Callable[[], Any] | Any | None,
        *,
        sockets: Sockets | None = None,
        concurrency: int = 1,
        close_timeout: float = 0.0,
        writable: bool = False,
        most_bytes: int | None = None,
        forwards_logs: bool = False,
        ray_options: Mapping[str, Any] | None = None,
        ray_init: Mapping[str, Any] | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            factory: makes the instance, in the worker; also a class decorated with `@ray.remote`. None for workers
                that run plain functions.
            sockets: gives the lanes their sockets; None if all of it goes by Ray.
            concurrency: how many calls each worker runs at once.
            close_timeout: seconds that a worker that is given up while it starts has to close what it holds already.
            writable: whether large arrays arrive writable, as small ones do.
            most_bytes: the memory beyond which a worker tells of it; None if nobody cares.
            forwards_logs: whether what they log reaches the logging of this process.
            ray_options: for Ray's `.options()`, unchanged.
            ray_init: for `ray.init()`, if Ray is to be joined or started.

        Raises:
            ConfigError: `factory` cannot be called, `ray_options` has what Ray does not know or the pool sets, or
                `ray_init` has what Ray does not know.
        """
        check_ray_options(ray_options or {})
        check_ray_init(ray_init or {})
        self._ray_options = dict(ray_options or {})
        self._sockets = sockets
        self._concurrency = concurrency
        self._close_timeout = close_timeout
        self._writable = writable
        self._most_bytes = most_bytes
        self._logs = Logs() if forwards_logs else None
        self._unreachables = Unreachables()
        self._take(factory)
        self._session = RaySession(ray_init)
        self._listener: Listener | None = None
        self._packed: Any = None  # the factory, or an ObjectRef to it
        self._node = ""
        self._placing: set[int] = set()

    def _take(self, factory: Callable[[], Any] | Any | None) -> None:
        """Make actors that hold what this makes.

        Raises:
            ConfigError: it cannot be called, or Ray does not take the options.
        """
        self._factory: Callable[[], Any] | None = None
        defaults: dict[str, Any] = {}
        if factory is not None:
            self._factory, defaults = unwrap_factory(factory)
        self._options = {**defaults, **self._ray_options}
        self._label = label_of(self._factory)
        self._prints_plainly = getattr(self._factory, "__poise_prints_plainly__", False) is True
        self._known = KnownClasses(self._factory)
        self._declare()

    def _declare(self) -> None:
        """Make actors with these options.

        Raises:
            ConfigError: Ray does not take them.
        """
        # `perform` of a call that was sent ahead waits for its turn, so what others need is not on its threads.
        threads = self._concurrency + SPARE_THREADS
        signals = 1 if self._logs is None else 2
        groups = {"control": 2, "signals": signals, "freight": threads, "pull": threads, "collect": SPARE_THREADS}
        try:
            self._host_class: Any = _ray.remote(concurrency_groups=groups)(Host)
            self._actor_class = self._with_options()
        except (ValueError, TypeError) as error:
            raise ConfigError("ray_options", self._ray_options, str(error)) from error

    def _with_options(self, **others: Any) -> Any:
        """The class of the actors, with the user's options and these."""
        return self._host_class.options(**self._options, **others, max_restarts=0, max_task_retries=0)

    def __repr__(self) -> str:
        return self._label if self._factory is not None else "functions"

    async def open(self, listener: Listener) -> None:
        """Join or start Ray, and pack the factory.

        Raises:
            PoiseError: there is no Ray to be had, or the factory cannot be pickled.
        """
        self._listener = listener
        await self._session.open()
        try:
            self._packed, self._node = await in_thread(self._prepare)
        except BaseException:
            await self.aclose()
            raise

    async def default_size(self) -> int:
        """How many workers Ray has room for at most."""
        return room_for(needs_of(self._options), await in_thread(_ray.cluster_resources))

    async def launch(self, worker_id: int) -> Lane:
        """Start one worker and return when its instance is constructed.

        Raises:
            StartFailed: the worker could not be started. Nothing of it is left.

        Cancelling ends the half-started worker and leaves nothing.
        """
        assert self._listener is not None
        creation = Creation(self._create)
        self._placing.add(worker_id)
        if self._prints_plainly:
            await_printer(self._label)
        try:
            host, serving = await creation.outcome()
        except asyncio.CancelledError:
            self._placed(worker_id)
            made = await creation.give_up()
            if made is not None:
                await self._reach(worker_id, *made).kill()
            raise
        except Exception as error:
            self._placed(worker_id)
            raise StartFailed(describe(error)) from error
        lane = self._reach(worker_id, host, serving)
        try:
            await lane.start(self._node, lambda: self._on_placed(lane))
            if self._sockets is not None:
                await self._sockets.connect(lane, self._node)
        except BaseException:
            await undo_start(lane, self._close_timeout)
            raise
        finally:
            self._placed(worker_id)
        return lane

    def _on_placed(self, lane: HostLane) -> None:
        self._placed(lane.worker_id, lane.actor.pid if lane.actor.node == self._node else None)

    def _placed(self, worker_id: int, pid: int | None = None) -> None:
        """It has a place, and a process here, or will have none."""
        if worker_id in self._placing:
            self._placing.discard(worker_id)
            if self._prints_plainly:
                know_printer(self._label, pid)

    def _reach(self, worker_id: int, host: Any, serving: Any) -> HostLane:
        assert self._listener is not None
        settings: dict[str, Any] = {"writable": self._writable, "logs": self._logs, "unreachables": self._unreachables}
        return HostLane(worker_id, self._listener, host, serving, self._known, **settings)

    async def shortage(self) -> str | None:
        """Say which resource the launches under way wait for a place with, or None if none waits for one."""
        if not self._placing:
            return None
        try:
            return await self._lack()
        except TimeoutError:
            return f"Ray has not answered within {TOLD_OF_SHORTAGE:g} s"

    async def has_room(self) -> bool:
        """Whether one more worker could be placed now; True if Ray does not say."""
        try:
            return await self._lack() is None
        except TimeoutError:
            return True

    async def _lack(self) -> str | None:
        """What Ray lacks for one more worker, as far as it knows."""
        async with asyncio.timeout(TOLD_OF_SHORTAGE):
            free, total = await in_thread(lambda: (_ray.available_resources(), _ray.cluster_resources()))
        return shortage_of(needs_of(self._options), free, total)

    async def again(self, factory: Callable[[], Any] | Any | None) -> Launcher:
        """What starts workers that this factory makes, in the same Ray; see `Launcher`."""
        other = copy.copy(self)
        await other._begin_again(factory)  # noqa: SLF001 (it is one of this class)
        return other

    async def _begin_again(self, factory: Callable[[], Any] | Any | None) -> None:
        self._placing = set()
        if factory is not None:
            self._take(factory)
        self._packed, _ = await in_thread(self._prepare)

    async def aclose(self, within: float = LETTING_GO) -> None:
        """Let go of Ray, in so many seconds at most."""
        self._packed = None
        await self._session.aclose(within)

    def _prepare(self) -> tuple[Any, str]:
        refuse_another_ray()
        packed: Any = None
        if self._factory is not None:
            packed = self._packed_factory()
            if nbytes(packed) > DEPOSITED:
                packed = _ray.put(packed)
        return packed, ray.get_runtime_context().get_node_id()

    def _packed_factory(self) -> Packed:
        assert self._factory is not None
        return pack_factory(self._factory)

    def _create(self) -> tuple[Any, Any]:
        refuse_another_ray()
        levels = None if self._logs is None else levels_here()
        actor_class = self._actor_class
        if steer := self._unreachables.steer(self._options):
            with contextlib.suppress(ValueError):  # a Ray that does not know these options
                actor_class = self._with_options(**steer)
        host = actor_class.remote(self._label, self._most_bytes, levels)
        return host, host.serve.remote(self._packed, self._concurrency, own_paths(), self._writable)
