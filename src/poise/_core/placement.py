"""Which ready worker takes the next call."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

from poise._core.pace import STEADY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from poise._core.calls import CallRecord
    from poise._core.pace import Pace
    from poise._core.workers import WorkerId, WorkerRecord

PATIENT_SECONDS = 2 * STEADY_SECONDS
"""As `OVERDUE_SECONDS`, for a worker that was sent one of those calls."""
OVERDUE_SECONDS = 0.005
"""A worker that has not answered for so long is stuck with one call, and what was sent ahead to it is asked back."""
ANSWER_SECONDS = 0.1
"""A worker that has not answered a recall for so long is silent: stopped, or a call keeps its interpreter.

With 25 ms a machine whose cores others keep busy made a quarter of all calls go twice over the wire, since Ray's
workers run at niceness 15 and may be without a core for so long.
"""
LATE_SECONDS = 0.005
"""If that is looked at so much later, it was not for the worker alone."""


class Placement:
    """Knows which workers could take a call now, in O(1) per question.

    Open workers stand in queues by load, so that the least loaded is taken and equals take turns, but those whose last
    answer was an exception come after their equals: a sick worker fails at once, is free at once, and would take most.
    """

    __slots__ = ("_by_load", "_least", "_load", "_patient", "_recalling", "_roomy", "_slots", "_stuck", "silent")

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._by_load: list[OrderedDict[WorkerId, WorkerRecord]] = [OrderedDict() for _ in range(2 * slots + 2)]
        """Open workers, by how many slots they use: for each number those that are well, then those that failed."""
        self._load: dict[WorkerId, int] = {}
        """Where in `_by_load` each of them stands."""
        self._least = 0
        """No open worker stands in a queue before this one."""
        self._roomy: OrderedDict[WorkerId, WorkerRecord] = OrderedDict()
        """Open workers that had room to be sent calls ahead when last seen."""
        self._stuck: OrderedDict[WorkerId, WorkerRecord] = OrderedDict()
        """Workers whose calls sent ahead could be asked back, those that have answered last at the end."""
        self._patient: OrderedDict[WorkerId, WorkerRecord] = OrderedDict()
        """The same of those that were sent one long call; no worker is in both."""
        self._recalling: OrderedDict[WorkerId, WorkerRecord] = OrderedDict()
        """Workers that have a recall to answer and time left for it, those that were asked last at the end."""
        self.silent: dict[WorkerId, WorkerRecord] = {}
        """Workers that have not answered one in time."""

    def update(self, worker: WorkerRecord) -> None:
        """Note what has changed about this worker: to be called after every change of its calls or state."""
        worker_id = worker.id
        load = 2 * len(worker.running) + worker.has_failed if worker.is_open else None
        known = self._load.get(worker_id)
        if known != load:
            if known is not None:
                del self._by_load[known][worker_id]
                del self._load[worker_id]
            if load is not None:
                self._by_load[load][worker_id] = worker
                self._load[worker_id] = load
                self._least = min(self._least, load)
        if worker.ahead and not worker.recalled:
            (self._patient if worker.is_patient else self._stuck).setdefault(worker_id, worker)
        else:
            self._stuck.pop(worker_id, None)
            if worker.is_patient:
                self._patient.pop(worker_id, None)
                worker.is_patient = bool(worker.ahead)
        if load is not None and load >= 2 * self._slots and worker.most_ahead and not worker.pinned_queue:
            self._roomy[worker_id] = worker
        else:
            self._roomy.pop(worker_id, None)
        if worker.recalled:
            if worker.is_silent:
                self._recalling.pop(worker_id, None)
                self.silent[worker_id] = worker
            else:
                self._recalling.setdefault(worker_id, worker)
        elif self._recalling or self.silent:
            self._recalling.pop(worker_id, None)
            self.silent.pop(worker_id, None)

    def forget(self, worker: WorkerRecord) -> None:
        """The worker is gone and holds nothing any more."""
        self.answered(worker)
        self.update(worker)

    def answered(self, worker: WorkerRecord) -> None:
        """The worker has no recall to answer any more; `update` must follow."""
        worker.recalled = ()
        worker.is_silent = False
        worker.tolerated_until = math.inf

    def progressed(self, worker: WorkerRecord, now: float) -> None:
        """Note that the worker has just answered."""
        worker.progress_at = now
        for queue in (self._stuck, self._patient):
            if worker.id in queue:
                queue.move_to_end(worker.id)

    def least_loaded(self) -> WorkerRecord | None:
        """The open worker that uses the fewest slots; among equals the one that has been so for longest."""
        if not self._load:
            self._least = 0
            return None
        while not self._by_load[self._least]:
            self._least += 1
        return next(iter(self._by_load[self._least].values()))

    def free_worker(self) -> WorkerRecord | None:
        """The least loaded open worker, if it has a free slot."""
        worker = self.least_loaded()
        return worker if self._least < 2 * self._slots else None

    def empty_worker(self) -> WorkerRecord | None:
        """An open worker that holds nothing, or None."""
        worker = self.least_loaded()
        return worker if self._least <= 1 else None

    def other_worker(self, call: CallRecord) -> WorkerRecord | None:
        """The least loaded open worker with room for this call that it does not avoid, or None.

        If it avoids every open worker there is no use in that: it may have any of them.
        """
        avoided: frozenset[WorkerId] = call.avoids
        if sum(worker_id in self._load for worker_id in avoided) == len(self._load):
            avoided = frozenset()
        for queue in self._by_load[self._least : 2 if call.needs_whole_worker else 2 * self._slots]:
            for worker in queue.values():
                if worker.id not in avoided:
                    return worker
        return None

    def roomy_worker(self, call: CallRecord, pace: Pace, now: float, waiting: int) -> WorkerRecord | None:
        """A worker to which this call can be sent ahead, or None. Those found full wait for their next answer."""
        limit = pace.ahead_limit(call.function, is_deep=waiting > len(self._load) * self._slots)
        while limit and self._roomy:
            worker = next(iter(self._roomy.values()))
            is_stuck = now >= worker.progress_at + OVERDUE_SECONDS or worker.recalled or worker.is_patient
            if len(worker.ahead) < min(limit, worker.most_ahead) and not is_stuck:
                self._roomy.move_to_end(worker.id)  # in turn, so that a burst is spread
                return worker
            del self._roomy[worker.id]
        return None

    @property
    def wants_recall(self) -> bool:
        """Whether more workers have a free slot than have a recall to answer."""
        full = len(self._by_load[-2]) + len(self._by_load[-1])
        return len(self._load) - full > len(self._recalling)

    def stuck_worker(self) -> WorkerRecord | None:
        """The worker whose calls sent ahead are to be asked back first, or None."""
        return next(iter((self._stuck or self._patient).values()), None)

    def not_stuck(self, worker: WorkerRecord) -> None:
        """Nothing of the worker's could be asked back, so leave it alone until it changes."""
        self._stuck.pop(worker.id, None)
        self._patient.pop(worker.id, None)

    def next_overdue(self) -> float:
        """When the first stuck worker will be overdue, `math.inf` if none is stuck."""
        due = math.inf
        for queue, patience in ((self._stuck, OVERDUE_SECONDS), (self._patient, PATIENT_SECONDS)):
            if queue:
                due = min(due, next(iter(queue.values())).progress_at + patience)
        return due

    def overdue_worker(self, now: float) -> WorkerRecord | None:
        """The first stuck worker that is overdue, or None."""
        for queue, patience in ((self._stuck, OVERDUE_SECONDS), (self._patient, PATIENT_SECONDS)):
            if queue and (worker := next(iter(queue.values()))).progress_at + patience <= now:
                return worker
        return None

    def next_silence(self) -> float:
        """When a worker that was asked for calls will count as silent, or a silent one is to be killed, if any."""
        due = math.inf
        if self._recalling:
            due = next(iter(self._recalling.values())).recalled_at + ANSWER_SECONDS
        return min([due, *(worker.tolerated_until for worker in self._useless())]) if self.silent else due

    def unanswered_worker(self, now: float) -> WorkerRecord | None:
        """The first worker that was asked for calls and has not answered in time, or None.

        If we ourselves come late, because the caller's code has held up its loop, the answer may be there unread, and
        the worker has as much time once more.
        """
        while self._recalling:
            worker = next(iter(self._recalling.values()))
            due = worker.recalled_at + ANSWER_SECONDS
            if due > now:
                return None
            if now < due + LATE_SECONDS or worker.has_grace:
                return worker
            worker.has_grace = True
            worker.recalled_at = now
            self._recalling.move_to_end(worker.id)
        return None

    def blame_silent(self, call: CallRecord, until: float) -> None:
        """A call has expired that waited while workers were silent: those that it could have run on have until then."""
        for worker in self.silent.values():
            if call.bound_for is None or call.bound_for is worker:
                worker.tolerated_until = min(worker.tolerated_until, until)

    def intolerable_workers(self, now: float) -> list[WorkerRecord]:
        """The silent workers that hold nothing and whose time is over."""
        return [worker for worker in self._useless() if worker.tolerated_until <= now]

    def _useless(self) -> Iterable[WorkerRecord]:
        return (worker for worker in self.silent.values() if worker.is_empty and not worker.is_killed)

    def check_invariants(self, workers: Iterable[WorkerRecord]) -> None:
        """Check that this is what the workers say; for tests."""
        known = {worker.id: worker for worker in workers}
        ranks = {w.id: 2 * len(w.running) + w.has_failed for w in known.values() if w.is_open}
        assert self._load == ranks
        for load, queue in enumerate(self._by_load):
            assert list(queue) == [worker_id for worker_id in queue if self._load[worker_id] == load]
        assert all(load >= self._least for load in self._load.values())
        for queue in (self._stuck, self._patient):
            assert all(worker.ahead and not worker.recalled and worker.id in known for worker in queue.values())
            assert all(worker.is_patient is (queue is self._patient) for worker in queue.values())
        asked = {worker.id: worker for worker in known.values() if worker.recalled}
        assert dict(self._recalling) == {key: worker for key, worker in asked.items() if not worker.is_silent}
        assert self.silent == {key: worker for key, worker in asked.items() if worker.is_silent}
        times = [worker.recalled_at for worker in self._recalling.values()]
        assert times == sorted(times)
        for worker in self._roomy.values():
            assert worker.is_open, worker
            assert worker.most_ahead, worker
            assert not worker.free_slots, worker
            assert not worker.pinned_queue, worker
