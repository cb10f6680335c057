"""Prints what an executor's workers print as it is, as if they were processes of the program's own.

Ray puts before each line which worker it is from, and shows lines that are alike once. Where a pool has started or
joined Ray this is left out for workers on the program's node. Everything else is printed as ever, and so is all of it
where somebody else has initialised Ray. A worker may print before it is known which process it has become: what comes
from workers of that name is kept until then.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_HANDLER: Final = "ray_print_logs"
"""By this name Ray knows what prints."""
_KNOWN: Final = 10_000
"""Processes that are remembered."""

_plain: OrderedDict[str, None] = OrderedDict()
_awaited: Counter[str] = Counter()
"""Names of workers of executors that start and whose processes are not known yet."""
_kept: list[tuple[Callable[[Any], None], Any]] = []
"""What came from processes that may be theirs, and how to bring it."""
_lock = threading.RLock()
"""Held while any of these is used, and while something is printed, so that it is printed in order."""


def await_printer(name: str) -> None:
    """Know that a worker of an executor starts, which will have this name for Ray. `know_printer` must follow."""
    with _lock:
        _awaited[name] += 1


def know_printer(name: str, pid: int | None) -> None:
    """Know which process, on this node, one of them is; None if it is elsewhere, or nowhere."""
    with _lock:
        if pid is not None:
            _plain[str(pid)] = None
            if len(_plain) > _KNOWN:
                _plain.popitem(last=False)
        _awaited[name] -= 1
        kept, _kept[:] = list(_kept), []
        for bring, data in kept:
            bring(data)


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
        with _lock:
            if data["ip"] != data["localhost"]:
                handle(data)
            elif str(data["pid"]) in _plain:
                print_lines(data, sys.stderr if data["is_err"] else sys.stdout, ignore_prefix=True)
            elif _awaited[data.get("actor_name") or ""] > 0:
                _kept.append((bring, data))
            else:
                handle(data)

    return bring
