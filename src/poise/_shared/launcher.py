"""What a client's engine starts its one worker by: finds the owner of the shared pool, or makes it."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from typing import TYPE_CHECKING, Any, Final

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from poise._lanes.creation import refuse_another_ray
from poise._lanes.factory import pack_factory
from poise._lanes.lane import Lane, Launcher, StartFailed
from poise._lanes.redefined import KnownClasses
from poise._protocol.paths import own_paths
from poise._ray.blocking import in_thread, outcome_of
from poise._ray.errors import last_words
from poise._ray.init import HERE, LOCAL, address_of, check_ray_init
from poise._ray.options import label_of, unwrap_factory
from poise._ray.session import LETTING_GO, RaySession
from poise._shared.directory import ray_name
from poise._shared.lane import OwnerLane
from poise._shared.owner import Owner
from poise._shared.terms import NAMESPACE, Opening, PackedFactory, heard
from poise.errors import ConfigError, PoiseError, PoolClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from poise._lanes.lane import Listener
    from poise._shared.terms import Greeting

_ray: Any = ray  # its own types leave out some of what it takes and gives
_log = logging.getLogger("poise")

AGAIN_AFTER: Final = 0.05
"""Seconds after which an owner that was about to end is looked for again."""

LEAVES_WITHIN: Final = 10.0
"""Seconds that the end of the pool may take at least, for the last client to leave it."""


class OwnerLauncher:
    """Finds the owner of a shared pool, or makes it."""

    replaces: bool = True

    def __init__(
        self,
        name: str,
        factory: Any,
        options: Mapping[str, Any],
        *,
        opens: bool,
        is_detached: bool = False,
        ray_init: Mapping[str, Any] | None = None,
    ) -> None:
        """Look for nothing yet.

        Args:
            name: the pool's.
            factory: makes the instances of the workers; None for workers that run plain functions.
            options: the pool's options, as they were given.
            opens: whether to open the pool if there is none; else it is only joined.
            is_detached: whether it then stays when its last client leaves.
            ray_init: for `ray.init()`, if Ray is to be joined or started.

        Raises:
            ConfigError: the factory cannot be called, or `ray_init` has what Ray does not know.
        """
        check_ray_init(ray_init or {})
        self._name = name
        self._options = dict(options)
        self._opens = opens
        self._is_detached = is_detached
        self._opened_with = self._options, is_detached
        """What the pool is opened with: by the first client's options, whoever opens it again."""
        self._factory: Callable[[], Any] | None = None
        self._defaults: dict[str, Any] = {}
        if factory is not None:
            self._factory, self._defaults = unwrap_factory(factory)
        self._known = KnownClasses(self._factory)
        self._ray_init = dict(ray_init or {})
        self._session: RaySession | None = None
        self._listener: Any = None
        self._packed: PackedFactory | None = None
        self._client = ""
        self._first: tuple[Any, Greeting] | None = None
        """The owner that was found when the pool was opened."""
        self._owner: Any = None
        self._is_given_up = False
        """Whether nobody waits for the owner that a thread is about to make."""
        self._node = ""

    def __repr__(self) -> str:
        return f"shared {self._name}"

    async def open(self, listener: Listener) -> None:
        """Join or start Ray, and find the owner, or make it.

        Raises:
            PoiseError: there is no Ray to be had, or no pool of that name, or it cannot be opened.
        """
        self._listener = listener
        self._client = f"process {os.getpid()} of {uuid.uuid4().hex[:12]}"
        self._session = RaySession(await in_thread(self._init_options))
        await self._session.open()
        try:
            self._node = ray.get_runtime_context().get_node_id()
            if self._opens:
                self._packed = await self.pack(self._factory)
            self._first = await self._join()
        except BaseException:
            await self.aclose()
            raise

    def _init_options(self) -> Mapping[str, Any]:
        """What `ray.init` is told: where nothing says which Ray to use, it is the one that processes here share."""
        if (
            ray.is_initialized()
            or address_of(self._ray_init, is_here_held=False)[0] != LOCAL
            or self._ray_init.get("address")
        ):
            return self._ray_init
        return {**self._ray_init, "address": HERE}

    async def pack(self, factory: Any) -> PackedFactory:
        """Pack what makes the instances.

        Raises:
            ConfigError, PayloadError: that cannot be done.
        """
        if factory is None:
            return PackedFactory(None, "functions", {})
        plain, defaults = unwrap_factory(factory)
        packed = await in_thread(pack_factory, plain)
        return PackedFactory(packed, label_of(plain), {**self._defaults, **defaults})

    def use(self, packed: PackedFactory) -> None:
        """From now on the pool is opened with this, if it is opened again."""
        self._packed = packed

    async def default_size(self) -> int:
        """There is one owner."""
        return 1

    async def launch(self, worker_id: int) -> Lane:
        """Find the owner, or make it, and connect to it.

        Raises:
            StartFailed: that was not possible.
        """
        first, self._first = self._first, None
        if first is None:
            try:
                first = await self._join()
            except PoiseError as error:
                raise StartFailed(str(error)) from error
        owner, greeting = first
        lane = OwnerLane(worker_id, self._listener, self._name, self._client, owner, greeting, self._known)
        await lane.connect()
        return lane

    async def _join(self) -> tuple[Any, Greeting]:
        """The owner that is there, or a new one, once it has opened the pool.

        Raises:
            PoiseError: there is none, or it has other options, or it cannot open the pool.
        """
        while True:
            try:
                owner = await in_thread(self._find)
                if owner is None:
                    raise PoolClosed(f"there is no shared pool {self._name!r} to join: Pool.shared opens one")
                self._owner = owner
                outcome = await outcome_of(owner.join.remote(self._client, self._asked()))
            except (RayActorError, ValueError) as error:  # it was about to end, or its maker has failed
                _log.debug("the owner of the shared pool %s was about to end: %s", self._name, error)
            except RayError as error:
                raise PoiseError(
                    f"the owner of the shared pool {self._name!r} cannot be reached: {last_words(error)}"
                ) from error
            else:
                if outcome is not None:
                    greeting: Greeting = heard(outcome)
                    if greeting.node != self._node:
                        where = "on another node, and only processes on that node can use it"
                        raise PoiseError(f"the owner of the shared pool {self._name!r} is {where}")
                    self._opened_with = greeting.options, greeting.is_detached
                    return owner, greeting
            await asyncio.sleep(AGAIN_AFTER)  # Ray tells nobody that a name is free again

    def _asked(self) -> dict[str, Any]:
        asked = {name: value for name, value in self._options.items() if name not in _OF_CLIENTS}
        return {**asked, "detached": True} if self._is_detached else asked

    def _find(self) -> Any:
        """The owner's handle, or that of a new one; None if there is none and this does not open the pool."""
        refuse_another_ray()
        name = ray_name(self._name)
        try:
            return _ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:
            if self._packed is None:
                return None
        opening = Opening(self._packed, *self._opened_with, own_paths())
        owner_class: Any = _ray.remote(Owner).options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            num_cpus=0,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=10_000,
            scheduling_strategy=NodeAffinitySchedulingStrategy(self._node, soft=True),
        )
        try:
            owner = owner_class.remote(self._name, opening)
            if self._is_given_up:
                owner.leave.remote(self._client)
            return owner  # noqa: TRY300 (the name may have been taken at either step)
        except ValueError:  # another client was first
            return _ray.get_actor(name, namespace=NAMESPACE)

    async def shortage(self) -> str | None:
        """An owner needs nothing that could be lacking."""
        return None

    async def has_room(self) -> bool:
        """So there is room."""
        return True

    async def again(self, factory: Any) -> Launcher:
        """A client does not reload its owner.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("factory", factory, "the owner of a shared pool cannot be reloaded")

    async def aclose(self, within: float = LETTING_GO) -> None:
        """Leave the pool; if it ends with that, return when nothing of it is left. Then let go of Ray."""
        owner, self._owner = self._owner, None
        self._is_given_up = True
        if owner is not None and ray.is_initialized():
            try:
                async with asyncio.timeout(max(LEAVES_WITHIN, within - LETTING_GO)):
                    await outcome_of(owner.leave.remote(self._client))
            except TimeoutError:
                _log.warning("the shared pool %s has not ended in time, and is left behind", self._name)
            except RayError:  # it has ended
                pass
        session, self._session = self._session, None
        if session is not None:
            await session.aclose(min(within, LETTING_GO))


_OF_CLIENTS: Final = frozenset({"start_timeout", "close_timeout"})
"""Options that each client may have for itself; the pool has those of the first."""
