"""Looks after the pools that processes share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poise._shared.directory import end_pool, known_pools, on_ray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poise._shared.directory import KnownPool

_HEADS = ("name", "holds", "state", "clients", "workers", "running", "waiting", "owner")


def listing(address: str | None) -> str:
    """The shared pools, as a table.

    Raises:
        PoiseError: there is no Ray to be found.
    """
    with on_ray(address):
        pools = known_pools()
    if not pools:
        return "no pool is shared here"
    rows = [_HEADS, *map(_row, pools)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    return "\n".join(_line(row, widths) for row in rows)


def _row(pool: KnownPool) -> Sequence[str]:
    name = f"{pool.name} (detached)" if pool.is_detached else pool.name
    stats = pool.stats
    numbers = ("?",) * 3 if stats is None else (f"{stats.ready}/{stats.size}", str(stats.running), str(stats.waiting))
    return name, pool.holds, pool.state, str(pool.clients), *numbers, "?" if pool.pid is None else str(pool.pid)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def end(name: str, address: str | None, *, drains: bool) -> None:
    """End one.

    Raises:
        PoiseError: there is none of that name, or no Ray to be found.
    """
    with on_ray(address):
        end_pool(name, drains=drains)
