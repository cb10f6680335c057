"""What the demo has seen so far, and what it makes of it in the end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from examples.digits.client import Tally
    from examples.digits.traffic import Plan
    from poise import Stats, WorkerStats

BUCKETS = 48
"""Parts into which the time of the replay is cut for the curves."""

LOAD_SAMPLES = 10
"""Looks at a worker, a tenth of a second apart, over which its load is averaged."""


@dataclass(slots=True)
class WorkerSeen:
    """A worker as it was last seen; it stays on the screen after its death."""

    stats: WorkerStats
    busy: deque[float] = field(default_factory=lambda: deque(maxlen=LOAD_SAMPLES))
    is_gone: bool = False

    @property
    def load(self) -> float:
        """The part of the last second in which it was busy, 0 to 1."""
        return sum(self.busy) / len(self.busy) if self.busy and not self.is_gone else 0.0


@dataclass(slots=True)
class Kill:
    """The death of a worker by `kill -9`. Times are in seconds since the start of the replay."""

    worker_id: int
    pid: int
    at: float
    deaths_before: int
    whole_at: float | None = None
    """When as many workers as were asked for were ready again."""

    @property
    def took(self) -> float | None:
        """Seconds until the pool was whole again; None if it never was."""
        return None if self.whole_at is None else self.whole_at - self.at


@dataclass(slots=True)
class Reload:
    """The replacement of all workers while the service goes on. Times are in seconds since the start of the replay."""

    at: float
    done_at: float | None = None
    failure: str | None = None

    @property
    def took(self) -> float | None:
        """Seconds until every worker was a new one; None if that was never so."""
        return None if self.done_at is None else self.done_at - self.at


@dataclass(slots=True)
class Progress:
    """One replay, as far as it has come."""

    plan: Plan
    tally: Tally
    stats: Stats
    now: float = 0.0
    workers: dict[int, WorkerSeen] = field(default_factory=dict[int, "WorkerSeen"])
    waiting: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    """The most calls that were seen waiting in each part of the time."""
    events: list[str] = field(default_factory=list[str])
    kill: Kill | None = None
    reload: Reload | None = None

    @property
    def status(self) -> int:
        """The exit status: 0 if nothing was lost or wrong, the pool healed, and all of its workers were replaced."""
        return 0 if self.tally.is_clean and self.is_whole and self.is_reloaded else 1

    @property
    def is_whole(self) -> bool:
        """Whether a worker was killed and the pool has as many as before."""
        return self.kill is not None and self.kill.whole_at is not None

    @property
    def is_reloaded(self) -> bool:
        """Whether every worker was replaced by a new one."""
        return self.reload is not None and self.reload.done_at is not None

    @property
    def is_over(self) -> bool:
        """Whether all that was to happen to the pool has happened."""
        return self.is_whole and (self.is_reloaded or (self.reload is not None and self.reload.failure is not None))

    def observe(self, stats: Stats | None, now: float) -> None:
        """Take in what the service says, or that it says nothing, at `now` in seconds since the start of the replay."""
        self.now = now
        if stats is None:
            return
        self.stats = stats
        for worker in stats.workers:
            seen = self.workers.setdefault(worker.id, WorkerSeen(worker))
            seen.stats = worker
            seen.busy.append(worker.load)
        living = {worker.id for worker in stats.workers}
        for worker_id, seen in self.workers.items():
            seen.is_gone = worker_id not in living
        bucket = min(BUCKETS - 1, int(now / self.plan.seconds * BUCKETS))
        self.waiting[bucket] = max(self.waiting[bucket], stats.waiting)
        self._watch_recovery()

    def killed(self, worker: WorkerStats, pid: int) -> None:
        """Note that a worker was killed just now."""
        self.kill = Kill(worker.id, pid, self.now, self.stats.deaths)
        self._tell(f"kill -9 {pid}: worker {worker.id} dies{' in the middle of a call' if worker.running else ''}")

    def reloading(self) -> None:
        """Note that the workers are being replaced from now on."""
        self.reload = Reload(self.now)
        self._tell("reload: new workers start, and old ones leave as they are ready")

    def reloaded(self, failure: str | None, now: float) -> None:
        """Note that they have been replaced, or why not."""
        assert self.reload is not None
        self.now = now
        if failure is None:
            self.reload.done_at = now
            self._tell(f"all workers are new ones after {self.reload.took:.1f} s")
        else:
            self.reload.failure = failure
            self._tell(f"the workers were not replaced: {failure}")

    def _watch_recovery(self) -> None:
        kill, stats = self.kill, self.stats
        if kill is None or kill.whole_at is not None:
            return
        if stats.deaths > kill.deaths_before and stats.ready == stats.size:
            kill.whole_at = self.now
            self._tell(f"worker {max(self.workers)} has taken its place: whole again after {kill.took:.1f} s")

    def _tell(self, what: str) -> None:
        self.events.append(f"{self.now:5.1f} s  {what}")
