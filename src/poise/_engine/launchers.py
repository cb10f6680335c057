"""Which launcher starts the workers that a pool's options ask for."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from poise._ray.blocking import in_thread
from poise._ray.options import check_ray_options, label_of, unwrap_factory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from poise._lanes.lane import Lane, Launcher, Listener
    from poise.options import PoolOptions


def own_launcher(factory: Callable[[], Any] | Any | None, options: PoolOptions) -> Launcher:
    """Start actors of our own, which hold what the factory makes."""
    if not imports_later():
        return _launcher(factory, options)
    check_ray_options(options.ray_options)
    plain = None if factory is None else unwrap_factory(factory)[0]
    label = "functions" if plain is None else label_of(plain)
    return LateLauncher(label, lambda: _launcher(factory, options))


def imports_later() -> bool:
    """Whether Ray is to be imported when the pool opens: it takes a second, for which a loop would stand still."""
    return "ray" not in sys.modules and _is_on_a_loop()


def foreign_launcher(handles: Sequence[Any]) -> Launcher:
    """Use actors that exist already."""
    from poise._lanes.foreign import ForeignLauncher

    return ForeignLauncher(handles)


def _launcher(factory: Callable[[], Any] | Any | None, options: PoolOptions) -> Launcher:
    own: dict[str, Any] = {
        "concurrency": options.concurrency,
        "close_timeout": options.close_timeout,
        "writable": options.writable,
        "most_bytes": None if options.recycle is None else options.recycle.most_bytes,
        "forwards_logs": options.logs == "forward",
        "ray_options": options.ray_options,
        "ray_init": options.ray_init,
    }
    from poise._lanes.launcher import HostLauncher
    from poise._lanes.sockets import Sockets

    if options.lane != "freight":
        own["sockets"] = Sockets(is_required=options.lane == "express", link_timeout=options.link_timeout)
    return HostLauncher(factory, **own)


def _is_on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class LateLauncher:
    """Becomes a launcher when the pool opens, and imports Ray, which takes a second, beside the loop."""

    replaces = True

    def __init__(self, label: str, make: Callable[[], Launcher]) -> None:
        """Have `make` called then; what can be checked without Ray has been."""
        self._label = label
        self._make = make
        self._launcher: Launcher | None = None

    def __repr__(self) -> str:
        return self._label

    async def open(self, listener: Listener) -> None:
        self._launcher = await in_thread(self._make)
        await self._launcher.open(listener)

    async def default_size(self) -> int:
        return await self._opened.default_size()

    async def launch(self, worker_id: int) -> Lane:
        return await self._opened.launch(worker_id)

    async def shortage(self) -> str | None:
        return None if self._launcher is None else await self._launcher.shortage()

    async def has_room(self) -> bool:
        return await self._opened.has_room()

    async def again(self, factory: Any) -> Launcher:
        return await self._opened.again(factory)

    async def aclose(self, within: float) -> None:
        if self._launcher is not None:
            await self._launcher.aclose(within)

    @property
    def _opened(self) -> Launcher:
        assert self._launcher is not None
        return self._launcher
