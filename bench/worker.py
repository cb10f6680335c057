"""What the workers of every contender run."""

from __future__ import annotations

import os
import time
from typing import Any

Service = tuple[float, float, int]
"""Beginning and end on CLOCK_MONOTONIC, which all processes of a machine share, in seconds; and the process."""


class Worker:
    """The stateful thing that a pool holds; here it only echoes, spins and sleeps."""

    def echo(self, value: Any) -> Any:
        """Give it back."""
        return value

    def spin(self, rounds: int) -> Service:
        """Count to `rounds`: takes the processor, and longer if somebody else wants it."""
        began = time.monotonic()
        for _ in range(rounds):
            pass
        return began, time.monotonic(), os.getpid()

    def sleep(self, seconds: float) -> Service:
        """Sleep: takes no processor, as a call that waits for a device or an accelerator."""
        began = time.monotonic()
        time.sleep(seconds)
        return began, time.monotonic(), os.getpid()

    def serve(self, seconds: float) -> Service:
        """Take so long, by sleeping if that is precise enough, else by watching the clock."""
        began = time.monotonic()
        if seconds >= 0.001:
            time.sleep(seconds)
        else:
            while time.monotonic() - began < seconds:
                pass
        return began, time.monotonic(), os.getpid()

    def repeat(self, method: str, argument: float, count: int) -> tuple[float, float, float]:
        """Run a method so many times in a row: its beginning, its end, and the seconds of service."""
        run = getattr(self, method)
        began = time.monotonic()
        service = 0.0
        for _ in range(count):
            first, last, _ = run(argument)
            service += last - first
        return began, time.monotonic(), service


_the_worker = Worker()


def call(method: str, *args: Any) -> Any:
    """Call a method of this process's own worker: for pools that know functions only."""
    return getattr(_the_worker, method)(*args)


def rounds_per_second() -> float:
    """How fast `spin` counts here when it is alone: the best of several tries."""
    worker = Worker()
    best = 0.0
    for _ in range(9):
        began, ended, _ = worker.spin(200_000)
        best = max(best, 200_000 / (ended - began))
    return best
