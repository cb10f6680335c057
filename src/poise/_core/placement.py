"""Which ready worker takes the next call, and how many calls it is sent ahead.

Late binding, sent ahead: with one queue and unknown service times nothing beats giving a call to a worker only when that
worker is free. The price is a round trip of idleness per call, so short calls are sent ahead of their slot, up to
`AHEAD_SECONDS` of measured work, and are recalled when they turn out to be stuck.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from poise._core.call import CallRecord
    from poise._core.worker import WorkerId, WorkerRecord

AHEAD_SECONDS = 0.002
"""Work sent ahead to one worker: twenty round trips of a local socket, and the longest that a call can be held up."""
OVERDUE_SECONDS = 0.005
"""A worker that has not answered for so long is stuck with one call, and what was sent ahead to it is asked back."""
AHEAD_CALLS = 256
"""The most calls sent ahead, however short they are: it bounds what one death or one recall has to sort out."""
_WEIGHT = 0.1
"""Of the newest sample in a moving average: the last 20 or so calls decide."""
_FUNCTIONS = 4096
"""Functions whose pace is remembered."""


class Pace:
    """Exponential moving averages of service time, in seconds, for each function and for all calls."""

    __slots__ = ("_by_function", "overall")

    def __init__(self) -> None:
        self._by_function: dict[Hashable, float] = {}
        self.overall: float | None = None

    def record(self, function: Hashable, service_time: float) -> None:
        """Take one measured service time into account."""
        average = self._by_function.get(function)
        if average is None:
            if len(self._by_function) >= _FUNCTIONS:
                del self._by_function[next(iter(self._by_function))]
            self._by_function[function] = service_time
        else:
            self._by_function[function] = average + _WEIGHT * (service_time - average)
        if self.overall is None:
            self.overall = service_time
        else:
            self.overall += _WEIGHT * (service_time - self.overall)

    def of(self, function: Hashable) -> float | None:
        """The average for this function, or None if it was never measured."""
        return self._by_function.get(function)

    def ahead_limit(self, function: Hashable) -> int:
        """How many calls of this function one worker may hold beyond its slots: none before it is measured."""
        average = self._by_function.get(function)
        if average is None or average > AHEAD_SECONDS:
            return 0
        return AHEAD_CALLS if average * AHEAD_CALLS < AHEAD_SECONDS else int(AHEAD_SECONDS / average)


class Placement:
    """Knows which workers could take a call now, in O(1) per question.

    Workers with a free slot stand in one queue per load, so that the least loaded is taken and equals take turns.
    """

    __slots__ = ("_free", "_least", "_load", "_roomy", "_stuck_order")

    def __init__(self) -> None:
        self._free: dict[int, OrderedDict[WorkerId, WorkerRecord]] = {}
        """Open workers with a free slot, by how many slots they use."""
        self._load: dict[WorkerId, int] = {}
        """Where in `_free` each of them stands."""
        self._least = 0
        """No worker in `_free` has a lower load."""
        self._roomy: OrderedDict[WorkerId, WorkerRecord] = OrderedDict()
        """Open workers that had room to be sent calls ahead when last seen."""
        self._stuck_order: OrderedDict[WorkerId, WorkerRecord] = OrderedDict()
        """Workers that hold calls sent ahead and are not being asked for them, the longest without an answer first."""

    def update(self, worker: WorkerRecord) -> None:
        """Note what has changed about this worker: to be called after every change of its load or state."""
        load = len(worker.running) if worker.is_open and len(worker.running) < worker.slots else None
        known = self._load.get(worker.id)
        if known != load:
            if known is not None:
                del self._free[known][worker.id]
                del self._load[worker.id]
            if load is not None:
                self._free.setdefault(load, OrderedDict())[worker.id] = worker
                self._load[worker.id] = load
                self._least = min(self._least, load)
        if worker.ahead and not worker.is_recalling:
            self._stuck_order.setdefault(worker.id, worker)
        else:
            self._stuck_order.pop(worker.id, None)
        if worker.sends_ahead and load is None and worker.is_open:
            self._roomy[worker.id] = worker
        else:
            self._roomy.pop(worker.id, None)

    def progressed(self, worker: WorkerRecord, now: float) -> None:
        """Note that the worker has just answered."""
        worker.progress_at = now
        if worker.id in self._stuck_order:
            self._stuck_order.move_to_end(worker.id)

    def free_worker(self) -> WorkerRecord | None:
        """The least loaded open worker with a free slot; among equals the one that has been so for longest."""
        if not self._load:
            self._least = 0
            return None
        while not self._free.get(self._least):
            self._least += 1
        return next(iter(self._free[self._least].values()))

    def empty_worker(self) -> WorkerRecord | None:
        """An open worker that holds nothing, or None."""
        worker = self.free_worker()
        return worker if worker is not None and not worker.running else None

    def roomy_worker(self, call: CallRecord, pace: Pace, now: float) -> WorkerRecord | None:
        """A worker to which this call can be sent ahead, or None. Those found full wait for their next answer."""
        limit = pace.ahead_limit(call.function)
        while limit and self._roomy:
            worker = next(iter(self._roomy.values()))
            if len(worker.ahead) < limit and now - worker.progress_at < OVERDUE_SECONDS and not worker.is_recalling:
                self._roomy.move_to_end(worker.id)  # in turn, so that a burst is spread
                return worker
            del self._roomy[worker.id]
        return None

    def stuck_workers(self) -> Iterable[WorkerRecord]:
        """Workers whose calls sent ahead could be asked back, the longest without an answer first."""
        return self._stuck_order.values()

    def next_overdue(self) -> float | None:
        """When the first of them will be overdue, or None."""
        worker = next(iter(self._stuck_order.values()), None)
        return None if worker is None else worker.progress_at + OVERDUE_SECONDS
