"""The journal: one line in the log for whatever befalls a pool's workers, and for its recovery.

It observes the pool, and asks nobody. Harm is logged at WARNING, recovery at INFO, and the daily round at DEBUG,
all of it to the logger `poise`. A storm of deaths is summed up.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from poise._core.recycling import in_mib
from poise._protocol.words import describe
from poise.events import Observer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poise._core.effects import Crowded, Grown, Oversized, Shrunk, Struck
    from poise._engine.clock import Clock, Timer
    from poise.events import PoolBroke, PoolEnded, WorkerDied, WorkerReady, WorkerReplacing, WorkerRetired

logger = logging.getLogger("poise")

MOST_LINES: Final = 5
"""Of one kind and level in a window; the rest is counted, and told when the window ends."""
WINDOW: Final = 10.0
"""Seconds, from the first line of a kind."""
LONGEST_REASON: Final = 300
"""Characters; the error that the caller gets has all of it."""
MOST_NAMES: Final = 3
"""Functions that are named for one worker."""


@dataclass(slots=True)
class _Window:
    """Lines of one kind."""

    since: float
    timer: Timer
    said: int = 0
    left_out: int = 0


class Journal(Observer):
    """Writes down what happens to the workers of one pool."""

    def __init__(self, pool: str, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._deaths = 0
        self._pids: dict[int, int | None] = {}
        """The processes of the workers that have become ready and have not ended."""
        self._is_harmed = False
        """Whether a worker was lost since the pool was last whole."""
        self._is_broken = False
        self._windows: dict[tuple[str, int], _Window] = {}
        """Those that have not ended, by kind and level."""

    def worker_ready(self, event: WorkerReady, /) -> None:
        """A worker has started."""
        self._pids[event.worker] = event.pid
        was_broken, self._is_broken = self._is_broken, False
        level = logging.INFO if self._is_harmed else logging.DEBUG
        text = f"{self._name(event.worker)} is ready"
        if was_broken:
            text += ", the pool is no longer broken"
        if self._is_harmed and event.ready >= event.size:
            self._is_harmed = False
            text += ", the pool is whole again"
        self._say("workers that became ready", level, f"{text}: {event.ready} of {event.size} workers are ready")

    def worker_died(self, event: WorkerDied, /) -> None:
        """A worker died, or could not start, and nobody had asked for it."""
        self._is_harmed = True
        worker, reason = self._name(event.worker), _one_line(event.reason)
        self._pids.pop(event.worker, None)
        if event.cause != "start":
            self._deaths += 1
            busy = f"while {_names(event.functions)} ran on it" if event.functions else "while it was idle"
            fate = f"{_fate(event.replaced_in, 'it is replaced')}; deaths so far: {self._deaths}"
            self._say("deaths", logging.WARNING, f"{worker} was lost {busy}: {reason}; {fate}")
        else:
            fate = _fate(event.replaced_in, "another is started")
            self._say("starts that failed", logging.WARNING, f"{worker} could not start: {reason}; {fate}")

    def pool_broke(self, event: PoolBroke, /) -> None:
        """No worker can start."""
        self._is_broken = True
        remedy = "open another pool" if event.is_final else "starting workers is tried again and again"
        text = f"the pool is broken and refuses calls until a worker is ready ({remedy}): {_one_line(event.reason)}"
        self._say("times that it broke", logging.WARNING, text)

    def worker_replacing(self, event: WorkerReplacing, /) -> None:
        """A worker that lives is to be replaced."""
        order = "starts first" if event.is_heir_first else "takes its place"
        text = f"{self._name(event.worker)} is replaced: {event.reason}; worker {event.heir} {order}"
        self._say("workers that are replaced", logging.WARNING if event.is_sick else logging.INFO, text)

    def struck(self, effect: Struck) -> None:
        """A worker may be sick."""
        how = "has failed" if effect.is_answered else "was not answered in time"
        if effect.failure is not None:
            how += f" ({_one_line(describe(effect.failure))})"
        text = f"{effect.check} of {self._name(effect.worker_id)} {how}, {effect.strikes} in a row"
        self._say("checks that failed", logging.WARNING, f"{text}; it is sick at {effect.most}")

    def crowded(self, effect: Crowded) -> None:
        """There is no room for one more while the one that it replaces works."""
        text = (
            f"{self._name(effect.worker_id)} leaves before worker {effect.heir_id} takes its place, because Ray has no "
            f"room for both: {effect.shortage}"
        )
        self._say("workers that left first", logging.WARNING, text)

    def grown(self, effect: Grown) -> None:
        """Calls wait for longer than a start takes."""
        text = f"the pool grows from {effect.before} to {effect.size} workers, because {effect.waiting} calls wait"
        self._say("times that it grew", logging.INFO, text)

    def shrunk(self, effect: Shrunk) -> None:
        """Nobody has use for a worker."""
        text = f"{self._name(effect.worker_id)} leaves after {effect.idle:g} s of idleness; {effect.size} stay"
        self._say("workers that left because they were idle", logging.INFO, text)

    def oversized(self, effect: Oversized) -> None:
        """A worker has too much memory from the start."""
        text = (
            f"{self._name(effect.worker_id)} is not recycled, because another would be no better: before its first "
            f"call its resident set is {in_mib(effect.resident)}, and Recycle(memory=) is {in_mib(effect.limit)}"
        )
        self._say("workers that are too large from the start", logging.WARNING, text)

    def worker_retired(self, event: WorkerRetired, /) -> None:
        """A worker has ended as it was to."""
        if event.worker in self._pids:
            self._say("workers that ended", logging.DEBUG, f"{self._name(event.worker)} has ended as planned")
            del self._pids[event.worker]

    def pool_ended(self, event: PoolEnded, /) -> None:  # noqa: ARG002 (Observer's shape)
        """Sum up what was left out."""
        for window in list(self._windows):
            self._end(window)

    def _name(self, worker_id: int) -> str:
        pid = self._pids.get(worker_id)
        return f"worker {worker_id}" if pid is None else f"worker {worker_id} (pid {pid})"

    def _say(self, kind: str, level: int, text: str) -> None:
        if not logger.isEnabledFor(level):
            return
        now = self._clock.time()
        window = self._windows.get((kind, level))
        if window is None:
            timer = self._clock.call_at(now + WINDOW, lambda: self._end((kind, level)))
            window = self._windows[kind, level] = _Window(now, timer)
        if window.said < MOST_LINES:
            window.said += 1
            logger.log(level, "pool of %s: %s", self._pool, text)
        else:
            window.left_out += 1

    def _end(self, which: tuple[str, int]) -> None:
        window = self._windows.pop(which)
        window.timer.cancel()
        if window.left_out:
            kind, level = which
            passed = self._clock.time() - window.since
            logger.log(level, "pool of %s: %d more %s in %.3g s", self._pool, window.left_out, kind, passed)


def _names(calls: Sequence[str]) -> str:
    """The functions, the most frequent first, with how often each was there."""
    counts = Counter(calls).most_common()
    named = [_one_line(name) if count == 1 else f"{_one_line(name)} ({count} times)" for name, count in counts]
    more = len(named) - MOST_NAMES
    return ", ".join(named[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _fate(replaced_in: float | None, what: str) -> str:
    if replaced_in is None:
        return "it is not replaced"
    return f"{what} at once" if replaced_in <= 0 else f"{what} in about {replaced_in:.2g} s"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 3]}..."
