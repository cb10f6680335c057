"""A snapshot of a pool."""

from __future__ import annotations

from dataclasses import dataclass

from poise._html import block, line, table


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStats:
    """One worker, at one moment."""

    id: int
    """The worker's number in the pool. A replacement gets a new one."""
    state: str
    """"pending", "starting", "ready" or "retiring"."""
    generation: int
    """How many reloads there were before the factory that it was made by, those that failed among them."""
    running: int
    """Calls that run, abandoned ones among them: each holds a slot, or shares that of another in a batch. So does a
    check of the worker (`health`), which the numbers of the pool leave out."""
    ahead: int
    """Calls sent ahead of their slot."""
    slots: int
    """Calls that it may run at once: `concurrency`."""
    leased: bool
    """Whether a `lease` holds it."""
    finished: int
    """Calls that it has answered."""
    busy: float
    """Seconds of service that it has reported: the difference of two snapshots tells how busy it was between them."""
    age: float
    """Seconds in its state."""
    shared: int = 0
    """Of those that run, calls that share the slot of another."""
    quarantined: bool = False
    """Whether it is sick and is given no more calls, while another starts in its place."""
    pid: int | None = None
    """Its process; None until it has started, and where it is not known."""
    node: str | None = None
    """Ray's id of the node that it runs on, likewise."""
    lane: str = ""
    """How calls reach it: "express", "freight" or, in tests, "local"."""

    @property
    def load(self) -> float:
        """The part of its slots that is in use, 0 to 1."""
        return (self.running - self.shared) / self.slots


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """A pool, at one moment. Times are in seconds."""

    size: int
    """Workers that are wanted now."""
    least: int
    """The fewest that an elastic pool is to have; as many as `size` where that is one number."""
    most: int
    """The most, likewise."""
    generation: int
    """Of which workers are that start now: 0, until a `reload` has brought another."""
    ready: int
    """Workers that have started and live."""
    starting: int
    """Workers that are starting, or wait for their next try."""
    waiting: int
    """Calls in the backlog, and those that wait for one certain worker."""
    parked: int
    """Calls whose caller waits for room in the backlog."""
    running: int
    """Calls that hold a slot, or share one in a batch, and whose caller still waits."""
    ahead: int
    """Calls sent to a worker ahead of their slot, which have not begun as far as is known."""
    abandoned: int
    """Calls whose caller is gone and that still hold a worker."""
    free_slots: int
    """Calls that could begin at once."""
    leased: int
    """Workers that are leased."""
    service_time: float | None
    """Moving average of the time that a call runs; None before the first answer."""
    wait_time: float | None
    """Moving average of the time that a call waits for its slot."""
    submitted: int
    """Calls accepted, and leases asked for, since the pool was opened; so are all that follow."""
    completed: int
    """Answered with a result or with the user's exception; leases given back."""
    failed: int
    """Of those, answered with an exception."""
    cancelled: int
    """Given up by their caller."""
    expired: int
    """Ended by their timeout."""
    rejected: int
    """Refused with `Overloaded`; not among those submitted."""
    lost: int
    """Ended without an answer: the worker died, no worker can start, the pool was closed, or the lease had ended."""
    retried: int
    """Attempts that followed one that may have begun."""
    over_budget: int
    """Attempts that `retry_budget` did not allow, so that the call ended with what had befallen it."""
    deaths: int
    """Workers that died, or failed to start."""
    recycled: int
    """Healthy workers that were replaced because `recycle` said so; not among the deaths."""
    sick: int
    """Workers that were replaced because `health` found them sick; those that hung were killed and are among the deaths
    too."""
    batches: int
    """Batches of several calls that were sent to a worker."""
    batched: int
    """Calls in them, once for each attempt: so many for each batch, on average, is this divided by those."""
    at_home: int
    """Calls with a `key` that were given to the worker which served that last, once for each attempt."""
    away: int
    """The same of those that were given to another worker, though that one works. A key's first call is in neither."""
    workers: tuple[WorkerStats, ...]
    """Every worker that is not gone, those that start among them."""

    @property
    def in_flight(self) -> int:
        """Calls that are on a worker, abandoned ones among them."""
        return self.running + self.ahead + self.abandoned

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return stats_html(self)


def stats_html(stats: Stats) -> str:
    """A pool in three lines, and its workers, as HTML."""
    size = f"{stats.ready} of {stats.size} workers are ready, {stats.starting} are starting, {stats.leased} are leased"
    calls = f"calls: {stats.running} running, {stats.ahead} ahead, {stats.waiting} waiting, {stats.parked} parked"
    times = f"a call waits {_seconds(stats.wait_time)} and runs {_seconds(stats.service_time)}"
    ended = f"{stats.completed:,} completed ({stats.failed:,} failed), {stats.cancelled:,} cancelled"
    lost = f"{stats.expired:,} expired, {stats.rejected:,} rejected, {stats.lost:,} lost, {stats.deaths:,} deaths"
    heads = ("worker", "state", "pid", "lane", "running", "ahead", "slots", "finished", "busy", "age")
    rows = [_row_of(each) for each in stats.workers]
    return block(line(size), line(f"{calls}; {times}"), line(f"{ended}, {lost}"), table(heads, rows))


def _row_of(worker: WorkerStats) -> list[object]:
    state = worker.state + (", sick" if worker.quarantined else "") + (", leased" if worker.leased else "")
    counts = [worker.running, worker.ahead, worker.slots, f"{worker.finished:,}"]
    return [worker.id, state, worker.pid or "", worker.lane, *counts, _seconds(worker.busy), _seconds(worker.age)]


def _seconds(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value * 1000:.3g} ms" if 0 < value < 1 else f"{value:,.1f} s"
