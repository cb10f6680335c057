"""What processes have used of the machine: their sleeps, and their processor's time. Linux counts both by thread."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Usage(NamedTuple):
    """Of some processes, all their threads together, since they began."""

    sleeps: float
    """How often a thread has given the processor up to wait for something."""
    seconds: float
    """On a processor."""

    def since(self, before: Usage) -> Usage:
        """What came to it."""
        return Usage(self.sleeps - before.sleeps, self.seconds - before.seconds)

    def each(self, count: int) -> Usage:
        """The part of one of so many calls."""
        return Usage(self.sleeps / count, self.seconds / count)


def usage(processes: Iterable[int]) -> Usage:
    """Of these processes; zero where the system does not tell, or for one that has ended."""
    sleeps, seconds = 0, 0.0
    for process in processes:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{process}/task").iterdir():
                with contextlib.suppress(OSError):  # it has ended
                    sleeps += _sleeps((thread / "status").read_text())
                    seconds += int((thread / "schedstat").read_text().split()[0]) / 1e9
    return Usage(sleeps, seconds)


def own_usage() -> Usage:
    """Of this process."""
    return usage([os.getpid()])


def _sleeps(status: str) -> int:
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("voluntary")), 0)
