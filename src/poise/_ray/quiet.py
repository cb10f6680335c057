"""Keeps Ray from telling at length of deaths that the pool tells of itself.

Ray's driver prints, for each of its workers that dies, a paragraph of a kilobyte. Where a pool has started or joined
Ray, that of a worker of a pool is left out: the pool's own line says more. Everything else is printed as ever, and so
is all of it where somebody else has initialised Ray.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_DEATH: Final = re.compile(
    r"A worker died or was killed while executing .*?Node ID: (\w+).*?Worker PID: (\d+)", re.DOTALL
)
_KEPT: Final = 10_000
"""Processes that are remembered; Ray tells of a death within seconds."""

_own: OrderedDict[tuple[str, int], None] = OrderedDict()


def tell_of(node: str, pid: int) -> None:
    """Know that this process, on the node that Ray names so, is a worker of a pool."""
    _own[node, pid] = None
    if len(_own) > _KEPT:
        _own.popitem(last=False)


def quieten() -> Callable[[], None]:
    """Leave out what Ray tells of the deaths of the pools' workers, until what this returns is called."""
    try:
        worker: Any = importlib.import_module("ray._private.worker")
        printing = worker.print_to_stdstream
    except (ImportError, AttributeError):
        return lambda: None  # a Ray that does it otherwise: the paragraph is printed

    @functools.wraps(printing)
    def print_the_rest(data: Any, *args: Any, **kwargs: Any) -> None:  # runs on Ray's thread
        if not _is_of_a_pool(data):
            printing(data, *args, **kwargs)

    def restore() -> None:
        if worker.print_to_stdstream is print_the_rest:
            worker.print_to_stdstream = printing

    worker.print_to_stdstream = print_the_rest
    return restore


def _is_of_a_pool(data: Any) -> bool:
    if data.get("pid") != "raylet":
        return False
    told = _DEATH.search("\n".join(data.get("lines", ())))
    return told is not None and (told[1], int(told[2])) in _own
