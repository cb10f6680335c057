"""Prints what an executor's workers print as it is, as if they were processes of the program's own.

Ray puts before each line which worker it is from, and shows lines that are alike once. Where a pool has started or
joined Ray this is left out for workers on the program's node. Everything else is printed as ever, and so is all of it
where somebody else has initialised Ray.
"""

from __future__ import annotations

import importlib
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_HANDLER: Final = "ray_print_logs"
"""By this name Ray knows what prints."""
_KEPT: Final = 10_000
"""Processes that are remembered."""

_plain: OrderedDict[str, None] = OrderedDict()


def print_plainly(pid: int) -> None:
    """Know that this process, on this node, is a worker of an executor."""
    _plain[str(pid)] = None
    if len(_plain) > _KEPT:
        _plain.popitem(last=False)


def bring_plainly() -> None:
    """Print so what Ray brings, until this process leaves the Ray that it has just joined."""
    try:
        worker: Any = importlib.import_module("ray._private.worker")
        dispatcher, print_lines = worker.global_worker_stdstream_dispatcher, worker.print_worker_logs
        handlers: list[tuple[str, Callable[[Any], None]]] = dispatcher.handlers
    except (ImportError, AttributeError):
        return  # a Ray that does it otherwise: it prints in its own way
    for place, (name, handle) in enumerate(handlers):
        if name == _HANDLER:
            handlers[place] = name, _plainly(handle, print_lines)


def _plainly(handle: Callable[[Any], None], print_lines: Callable[..., None]) -> Callable[[Any], None]:
    def bring(data: Any) -> None:  # runs on Ray's thread
        if str(data["pid"]) in _plain and data["ip"] == data["localhost"]:
            print_lines(data, sys.stderr if data["is_err"] else sys.stdout, ignore_prefix=True)
        else:
            handle(data)

    return bring
