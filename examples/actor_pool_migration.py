"""A program written for `ray.util.ActorPool`, with one import changed; then what it can do besides.

Run it with `python -m examples.actor_pool_migration`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import ray

from poise import ActorPool  # was: from ray.util.actor_pool import ActorPool


class Squarer:
    """Makes squares."""

    def square(self, number: int) -> int:
        """Make one."""
        return number * number


def square(actor: Any, number: int) -> Any:
    """What the pool is given, as before: it makes the call and returns its reference."""
    return actor.square.remote(number)


def as_before(pool: ActorPool) -> None:
    """The lines of the old program."""
    print("map:", list(pool.map(square, range(6))))
    for number in range(4):
        pool.submit(square, number)
    while pool.has_next():
        print("collected:", pool.get_next())


async def besides(pool: ActorPool) -> None:
    """Each caller awaits its own result, at the same time as others do."""
    print("awaited:", await asyncio.gather(*(pool.submit(square, number) for number in range(4))))


def main() -> None:
    """Make the actors, as before, and use the pool in both ways."""
    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init("local", num_cpus=2, include_dashboard=False, logging_level=logging.ERROR)
    actor_class: Any = ray.remote(num_cpus=0)(Squarer)
    actors = [actor_class.remote() for _ in range(2)]
    pool = ActorPool(actors)
    as_before(pool)
    print("in a thread:", pool.submit(square, 9).result(timeout=60))
    asyncio.run(besides(pool))
    for actor in actors:
        ray.kill(actor)
    if is_ours:
        ray.shutdown()


if __name__ == "__main__":
    main()
