"""What a pool lives in: what starts its workers, what tells it the time, and what it leaves to chance."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from poise._engine.launchers import own_launcher

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator

    from poise._engine.clock import Clock
    from poise._lanes.lane import Launcher
    from poise.options import PoolOptions


class Runtime:
    """Ray, the event loop's own clock and the process's random numbers. Tests have another."""

    shares: ClassVar[bool] = True
    """Whether processes can have a pool together."""

    def launcher(self, factory: Callable[[], Any] | Any | None, settings: PoolOptions) -> Launcher:
        """What starts the workers that a pool of this factory asks for."""
        return own_launcher(factory, settings)

    def clock(self, loop: asyncio.AbstractEventLoop) -> Clock:
        """What the engine on this loop reads every time from."""
        return loop

    def chance(self) -> float:
        """A number from 0 to 1, by which pauses and restarts are spread."""
        return random.random()


_runtimes = [Runtime()]
"""The last one counts."""


def current_runtime() -> Runtime:
    """What pools that are made now live in."""
    return _runtimes[-1]


@contextmanager
def living_in(runtime: Runtime) -> Generator[None]:
    """Let pools that are made within the block, on any thread, live in this."""
    _runtimes.append(runtime)
    try:
        yield
    finally:
        _runtimes.remove(runtime)
