"""Which launcher starts the workers that a pool's options ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from poise._wire.lane import Launcher
    from poise.options import PoolOptions


def own_launcher(factory: Callable[[], Any] | Any | None, options: PoolOptions) -> Launcher:
    """Start actors of our own, which hold what the factory makes."""
    if options.lane == "freight":
        from poise._wire.freight import FreightLauncher

        return FreightLauncher(
            factory,
            concurrency=options.concurrency,
            close_timeout=options.close_timeout,
            ray_options=options.ray_options,
        )
    from poise._wire.express import ExpressLauncher

    return ExpressLauncher(
        factory,
        is_required=options.lane == "express",
        link_timeout=options.link_timeout,
        concurrency=options.concurrency,
        close_timeout=options.close_timeout,
        ray_options=options.ray_options,
    )


def foreign_launcher(handles: Sequence[Any]) -> Launcher:
    """Use actors that exist already."""
    from poise._wire.foreign import ForeignLauncher

    return ForeignLauncher(handles)
