"""What processes of this machine take, where there is a /proc."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from poise.stats import WorkerStats

FRESH: Final = 1.0
"""Seconds for which what was read is used again."""
MOST_READ: Final = 64
"""Processes that are looked at in one go, which takes about a millisecond."""


class Usage(NamedTuple):
    """What a process takes."""

    resident: int
    """Bytes of memory."""
    cpu: float
    """Seconds of processor time."""
    at: float
    """When it was read, in seconds since 1970."""


def usage_of(pid: int) -> Usage | None:
    """What this one takes; None if it has just ended, or there is no /proc."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()  # its name, in parentheses, may hold anything
        ticks, pages = int(fields[11]) + int(fields[12]), int(fields[21])  # utime, stime and rss of proc(5)
    except (OSError, ValueError, IndexError):
        return None
    return Usage(pages * os.sysconf("SC_PAGE_SIZE"), ticks / os.sysconf("SC_CLK_TCK"), time.time())


def this_node() -> str | None:
    """Ray's id of the node that this process is on, None if it has no Ray."""
    ray: Any = sys.modules.get("ray")  # which a pool has imported if it has workers of Ray's
    if not hasattr(ray, "is_initialized") or not hasattr(ray, "get_runtime_context"):  # another thread is importing it
        return None
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else None


def is_here(worker: WorkerStats, node: str | None) -> bool:
    """Whether a worker is a process of its own on the node of that id, which is this one."""
    return worker.pid is not None and worker.node == node and worker.lane != "local"


class Usages:
    """What the workers of one pool take, read no more often than anybody can want to know."""

    def __init__(self) -> None:
        self._read: dict[int, tuple[float, Usage | None]] = {}

    def look(self, pids: list[int], now: float) -> dict[int, Usage | None]:
        """What each of these takes, or took a second ago; if they are very many, not all are read in one go."""
        known = {pid: self._read[pid] for pid in pids if pid in self._read}
        stale = [pid for pid in pids if pid not in known or not 0 <= now - known[pid][0] < FRESH]
        stale.sort(key=lambda pid: known[pid][0] if pid in known else now - FRESH)
        for pid in stale[:MOST_READ]:
            known[pid] = now, usage_of(pid)
        self._read = known
        return {pid: usage for pid, (_, usage) in known.items()}
