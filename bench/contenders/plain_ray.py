"""Ray actors without poise: the blocking queue of actors, direct calls, Ray's own ActorPool."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import ray

from bench.contenders.contender import Contender
from bench.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ray: Any = ray


class _Actors(Contender):
    def __init__(self) -> None:
        self.actors: list[Any] = []

    async def open(self, workers: int) -> None:
        """Create the actors and wait until each has answered."""
        actor_class = _ray.remote(Worker)
        self.actors = [actor_class.remote() for _ in range(workers)]
        await asyncio.gather(*[actor.echo.remote(0) for actor in self.actors])

    async def close(self) -> None:
        """Kill the actors."""
        actors, self.actors = self.actors, []
        for actor in actors:
            _ray.kill(actor)


class QueueOfActors(_Actors):
    """The seed idea as written: pop an actor from a blocking queue, use it, put it back."""

    key = "queue"
    label = "blocking queue of actors"

    async def open(self, workers: int) -> None:
        """Fill the queue."""
        await super().open(workers)
        self._free: asyncio.Queue[Any] = asyncio.Queue()
        for actor in self.actors:
            self._free.put_nowait(actor)

    async def call(self, method: str, *args: Any) -> Any:
        """Pop, await, put back."""
        actor = await self._free.get()
        try:
            return await getattr(actor, method).remote(*args)
        finally:
            self._free.put_nowait(actor)


class DirectCalls(_Actors):
    """`await actor.method.remote()`, the actors in turn: binds early, and nobody counts."""

    key = "ray"
    label = "await actor.method.remote()"

    async def open(self, workers: int) -> None:
        """Begin with the first."""
        await super().open(workers)
        self._next: Iterator[Any] = itertools.cycle(self.actors)

    async def call(self, method: str, *args: Any) -> Any:
        """The next actor's turn."""
        return await getattr(next(self._next), method).remote(*args)

    async def together(self, method: str, values: Sequence[Any]) -> Sequence[Any]:
        """Gather the references, which are awaitable: no coroutine of ours in between."""
        return await asyncio.gather(*[getattr(next(self._next), method).remote(value) for value in values])


class RayActorPool(_Actors):
    """`ray.util.ActorPool`: not awaitable, so it blocks the loop, which is its best case."""

    key = "actor-pool"
    label = "ray.util.ActorPool.map_unordered"

    async def open(self, workers: int) -> None:
        """Make the pool."""
        from ray.util import ActorPool

        await super().open(workers)
        self._pool: Any = ActorPool(self.actors)

    async def call(self, method: str, *args: Any) -> Any:
        """Submit, and take the next result, which is this call's own while there is one at a time."""
        self._pool.submit(lambda actor, args: getattr(actor, method).remote(*args), args)
        return self._pool.get_next()

    async def together(self, method: str, values: Sequence[Any]) -> Sequence[Any]:
        """All results, in any order."""
        return list(self._pool.map_unordered(lambda actor, value: getattr(actor, method).remote(value), values))
