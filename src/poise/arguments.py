"""What the pools take that processes share, by name and type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from poise.options import PoolArguments

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from contextvars import ContextVar

    from poise.events import Observer


class ClientArguments(TypedDict, total=False):
    """What `poise.Pool.join` takes: what each client of a shared pool has for itself."""

    start_timeout: float
    close_timeout: float
    observers: Iterable[Observer]
    record: str | os.PathLike[str] | None
    traces: bool
    context: Iterable[ContextVar[Any]]
    ray_init: dict[str, Any] | None


class SharedArguments(PoolArguments, total=False):
    """What `poise.Pool.shared` takes beside a name and a factory."""

    detached: bool
