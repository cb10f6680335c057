"""What has happened in a pool, and its snapshot."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from poise._core.calls import CHECK_IDS
from poise._core.states import CallState, WorkerState
from poise.stats import Stats, WorkerStats

if TYPE_CHECKING:
    from collections.abc import Collection

    from poise._core.alarms import Alarms
    from poise._core.fleet import Fleet
    from poise._core.queues import Queues
    from poise._core.workers import WorkerRecord


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
    over_budget: int = 0
    deaths: int = 0
    """Workers that died, or failed to start."""
    recycled: int = 0
    """Workers that were replaced because they were old."""
    sick: int = 0
    """Workers that were replaced, or killed, because they were sick."""
    batches: int = 0
    """Batches of several calls that were sent."""
    batched: int = 0
    """Calls in them, once for each attempt."""
    at_home: int = 0
    """Calls with a key that were given to the worker that served it last, once for each attempt."""
    away: int = 0
    """The same of those given to another, though that one works."""

    @property
    def unsettled(self) -> int:
        """Accepted calls that have not had their outcome, and leases that are held."""
        return self.submitted - self.completed - self.cancelled - self.expired - self.lost

    def as_dict(self) -> dict[str, int]:
        """Every number by its name."""
        return {name: getattr(self, name) for name in self.__slots__}


def snapshot(
    fleet: Fleet,
    bounds: tuple[int, int] | None,
    queues: Queues,
    counters: Counters,
    now: float,
    *,
    service_time: float | None,
    wait_time: float | None,
) -> Stats:
    """Describe a pool as it is now."""
    records = list(fleet.workers.values())
    least, most = bounds or (fleet.size, fleet.size)
    states = [call.state for worker in records for call in worker.held if call.id < CHECK_IDS]
    described = tuple(_describe(worker, now) for worker in records)
    return Stats(
        size=fleet.size,
        least=least,
        most=most,
        generation=fleet.generation,
        ready=sum(w.state is WorkerState.READY for w in records),
        starting=sum(w.state is WorkerState.PENDING or w.state is WorkerState.STARTING for w in records),
        waiting=queues.count,
        parked=queues.parked_count,
        running=states.count(CallState.RUNNING),
        ahead=states.count(CallState.AHEAD),
        abandoned=states.count(CallState.ABANDONED),
        free_slots=sum(w.free_slots for w in records if w.is_open),
        leased=sum(w.leased for w in described),
        service_time=service_time,
        wait_time=wait_time,
        workers=described,
        **counters.as_dict(),
    )


def _describe(worker: WorkerRecord, now: float) -> WorkerStats:
    """Describe this worker as it is now."""
    return WorkerStats(
        id=worker.id,
        state=worker.state.name.lower(),
        generation=worker.generation,
        running=worker.begun_calls,
        shared=worker.begun_calls - len(worker.running),
        ahead=len(worker.ahead),
        slots=worker.slots,
        leased=worker.lease is not None and worker.lease.is_lease,
        quarantined=worker.is_quarantined,
        finished=worker.finished,
        busy=worker.busy,
        age=max(0.0, now - worker.since),
    )


def check_counts(counters: Counters, queues: Queues, workers: Collection[WorkerRecord], alarms: Alarms) -> None:
    """Check that every call which is not settled is somewhere, and those with a deadline are watched; for tests."""
    live = queues.calls(workers)
    for worker in workers:
        live += [worker.lease] if worker.lease is not None and worker.lease.is_lease else []
        live += [call for call in worker.held if call.state is not CallState.ABANDONED]
    assert counters.unsettled == len(live), (counters, live)
    timed = sum(call.deadline != math.inf and not (call.is_lease and call.worker) for call in live)
    assert len(alarms.expiries) == timed
