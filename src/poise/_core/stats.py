"""A snapshot of a pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poise._core.worker import WorkerRecord


@dataclass(slots=True)
class Counters:
    """What has happened since the pool was made; every number only grows."""

    submitted: int = 0
    completed: int = 0
    """Answered with a result or with the user's exception; a lease: given back."""
    failed: int = 0
    """Of those, answered with an exception."""
    cancelled: int = 0
    expired: int = 0
    rejected: int = 0
    lost: int = 0
    """Ended without an answer: the worker died, no worker can start, the pool was closed, or the lease had ended."""
    retried: int = 0
    deaths: int = 0
    """Workers that died, or failed to start."""

    @property
    def unsettled(self) -> int:
        """Accepted calls that have not had their outcome, and leases that are held."""
        return self.submitted - self.completed - self.cancelled - self.expired - self.lost

    def as_dict(self) -> dict[str, int]:
        """Every number by its name."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStats:
    """One worker, at one moment."""

    id: int
    state: str
    """"pending", "starting", "ready" or "retiring"."""
    running: int
    """Calls that hold a slot, abandoned ones among them."""
    ahead: int
    """Calls sent ahead of their slot."""
    slots: int
    leased: bool
    finished: int
    """Calls that it has answered."""
    busy: float
    """Seconds of service that it has reported: the difference of two snapshots tells how busy it was between them."""
    age: float
    """Seconds in its state."""
    pid: int | None = None
    node: str | None = None
    lane: str = ""

    @classmethod
    def of(cls, worker: WorkerRecord, now: float) -> WorkerStats:
        """Describe this worker as it is now."""
        return cls(
            id=worker.id,
            state=worker.state.name.lower(),
            running=len(worker.running),
            ahead=len(worker.ahead),
            slots=worker.slots,
            leased=worker.lease is not None and worker.lease.is_lease,
            finished=worker.finished,
            busy=worker.busy,
            age=max(0.0, now - worker.since),
        )

    @property
    def load(self) -> float:
        """The part of its slots that is in use, 0 to 1."""
        return self.running / self.slots


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """A pool, at one moment. Times are in seconds."""

    size: int
    """Workers that were asked for."""
    ready: int
    starting: int
    """Workers that are starting, or wait for their next try."""
    waiting: int
    """Calls in the backlog, and those that wait for one certain worker."""
    parked: int
    """Calls whose caller waits for room in the backlog."""
    running: int
    """Calls that hold a slot and whose caller still waits."""
    ahead: int
    abandoned: int
    """Calls whose caller is gone and that still hold a worker."""
    free_slots: int
    leased: int
    """Workers that are leased."""
    service_time: float | None
    """Moving average of the time that a call runs; None before the first answer."""
    wait_time: float | None
    """Moving average of the time that a call waits for its slot."""
    submitted: int
    completed: int
    failed: int
    cancelled: int
    expired: int
    rejected: int
    lost: int
    retried: int
    deaths: int
    workers: tuple[WorkerStats, ...]

    @property
    def in_flight(self) -> int:
        """Calls that are on a worker, abandoned ones among them."""
        return self.running + self.ahead + self.abandoned
