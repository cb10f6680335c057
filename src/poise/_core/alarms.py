"""Every time for which the scheduler waits.

Two kinds of clock: `Times` for any times, a heap; and `Line` for those who all have the same time from some moment on,
which stand in the order of these moments, so that moving one costs O(1).
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from poise._core.pace import LONGEST_AHEAD

if TYPE_CHECKING:
    from collections.abc import Iterator, Sized

    from poise._core.calls import CallRecord
    from poise._core.workers import WorkerId, WorkerRecord

OVERDUE_SECONDS: Final = 0.005
"""A worker that has not answered for so long is stuck with one call, and what was sent ahead to it is asked back."""
PATIENT_SECONDS: Final = 2 * LONGEST_AHEAD
"""The same for a worker that was sent one longer call."""
ANSWER_SECONDS: Final = 0.1
"""A worker that has not answered a recall for so long is silent: stopped, or a call keeps its interpreter.

With 25 ms a machine whose cores others keep busy made a quarter of all calls go twice over the wire, since Ray's
workers run at niceness 15 and may be without a core for so long.
"""
WARY_SECONDS: Final = 30.0
"""For so long a call waits for a worker where it has not failed; after that any will do, so that none waits for ever
beside a free worker, whatever holds the others."""

T = TypeVar("T", bound="CallRecord | WorkerRecord")


class Times(Generic[T]):
    """A time for each of some calls or workers. Adding, forgetting and popping one cost O(log n) at most, amortised."""

    __slots__ = ("_heap", "watched")

    def __init__(self) -> None:
        self.watched: dict[int, T] = {}
        """Whose time is still to come: one that has ended is forgotten at once, so that nothing here keeps it alive."""
        self._heap: list[tuple[float, int]] = []
        """Their times, and those of forgotten ones, which are skipped, and cleared out once they are the most."""

    def __len__(self) -> int:
        """How many are watched."""
        return len(self.watched)

    def __contains__(self, subject: T) -> bool:
        """Whether this one is watched."""
        return subject.id in self.watched

    def add(self, subject: T, when: float) -> None:
        """Watch one until then: one that was not forgotten before its time had come.

        Of two times the earlier one counts.
        """
        self.watched[subject.id] = subject
        heapq.heappush(self._heap, (when, subject.id))

    def forget(self, subject: T) -> None:
        """Watch this one no longer, if it was watched."""
        if self.watched.pop(subject.id, None) is None:
            return
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self.watched):
            self._heap = [entry for entry in self._heap if entry[1] in self.watched]
            heapq.heapify(self._heap)

    def next(self) -> float:
        """The earliest time, `math.inf` if none is watched."""
        while self._heap and self._heap[0][1] not in self.watched:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def pop_due(self, now: float) -> Iterator[T]:
        """Take out each one whose time has come, the earliest first; others may be forgotten meanwhile."""
        while self.next() <= now:
            yield self.watched.pop(heapq.heappop(self._heap)[1])


class Line(Generic[T]):
    """Calls or workers that have the same time from some moment on. Everything costs O(1)."""

    __slots__ = ("moments", "patience", "watched")

    def __init__(self, patience: float) -> None:
        self.patience: Final = patience
        """Seconds from the moment of each to its time."""
        self.watched: OrderedDict[int, T] = OrderedDict()
        """Those whose moment was last are at the end; one that comes late, with an old moment, stands there too."""
        self.moments: dict[int, float] = {}
        """Invariant: of the same ones."""

    def put(self, subject: T, moment: float) -> None:
        """Watch one from this moment on."""
        if subject.id in self.moments:
            self.watched.move_to_end(subject.id)
        else:
            self.watched[subject.id] = subject
        self.moments[subject.id] = moment

    def forget(self, subject: T) -> None:
        """Watch this one no longer."""
        del self.watched[subject.id], self.moments[subject.id]

    def first(self) -> T | None:
        """The one whose time is next, or None."""
        return next(iter(self.watched.values()), None)

    def next(self) -> float:
        """The earliest time, `math.inf` if none is watched."""
        first = next(iter(self.watched), None)
        return math.inf if first is None else self.moments[first] + self.patience

    def due(self, now: float) -> T | None:
        """The one whose time was first, if it has come."""
        return self.first() if self.next() <= now else None


class Clock(Protocol):
    """What rings."""

    @property
    def watched(self) -> Sized:
        """For what it has a time."""
        ...

    def next(self) -> float:
        """The earliest of these times."""
        ...


class Alarms:
    """The scheduler's clockwork."""

    __slots__ = (
        "_clocks",
        "ages",
        "asked",
        "checks",
        "expiries",
        "gatherings",
        "homings",
        "lines",
        "overdue",
        "overruns",
        "patient",
        "pauses",
        "silent",
        "starts",
        "wary",
    )

    def __init__(self) -> None:
        self.expiries: Times[CallRecord] = Times()
        """Invariant: the calls with a deadline whose caller waits; not a lease that is granted."""
        self.overruns: Times[CallRecord] = Times()
        """Abandoned calls that a worker still holds, by when it is to be killed: with a deadline, or doomed."""
        self.pauses: Times[CallRecord] = Times()
        """Invariant: the calls that are PAUSED, by when their next attempt may begin."""
        self.wary: Line[CallRecord] = Line(WARY_SECONDS)
        """Invariant: the calls that avoid workers and wait, from when they began to wait."""
        self.gatherings: Times[CallRecord] = Times()
        """Invariant: the calls that wait for company, by until when."""
        self.homings: Times[CallRecord] = Times()
        """Invariant: the calls that wait for the worker of their key, by until when. It rings once there was one."""
        self.starts: Times[WorkerRecord] = Times()
        """Invariant: the workers that are PENDING, by when their start is due."""
        self.ages: Times[WorkerRecord] = Times()
        """READY workers by when they are old, if a policy says so: it rings only then."""
        self.checks: Times[WorkerRecord] = Times()
        """Workers that have started, by when they are to be looked at, if a policy says so. It may ring too soon."""
        self.overdue: Line[WorkerRecord] = Line(OVERDUE_SECONDS)
        """Workers whose calls sent ahead could be asked back, from when they last answered."""
        self.patient: Line[WorkerRecord] = Line(PATIENT_SECONDS)
        """The same of those that were sent one long call."""
        self.asked: Line[WorkerRecord] = Line(ANSWER_SECONDS)
        """Workers that have a recall to answer and time left for it, from when they were asked."""
        self.silent: Line[WorkerRecord] = Line(math.inf)
        """Workers that have not answered one in time."""
        self.lines: dict[WorkerId, Line[WorkerRecord]] = {}
        """In which of these four a worker stands: never in two."""
        self._clocks: tuple[Clock, ...] = (
            self.expiries,
            self.overruns,
            self.pauses,
            self.wary,
            self.gatherings,
            self.starts,
            self.asked,
            self.overdue,
            self.patient,
        )
        """Those that ring, after what policies have added; the last two only if a worker has others, which could do
        what it is stuck with."""

    def add(self, clock: Clock) -> None:
        """Have this ring too."""
        self._clocks = (clock, *self._clocks)

    def remove(self, clock: Clock) -> None:
        """Have this, which was added, ring no more."""
        self._clocks = tuple(each for each in self._clocks if each is not clock)

    def watch_homings(self) -> None:
        """Have calls wait for the worker of their key."""
        if self.homings not in self._clocks:
            self.add(self.homings)

    def watch(self, worker: WorkerRecord) -> None:
        """Have the worker stand in the line where it belongs by what it holds and has to answer."""
        line, moment = None, worker.progress_at
        if worker.recalled:
            line, moment = self.silent if worker.is_silent else self.asked, worker.recalled_at
        elif worker.ahead and not worker.keeps_all:
            line = self.patient if worker.sent_long else self.overdue
        known = self.lines.get(worker.id)
        if known is not line:
            if known is not None:
                known.forget(worker)
                del self.lines[worker.id]
            if line is not None:
                self.lines[worker.id] = line
                line.put(worker, moment)
        elif line is not None and line.moments[worker.id] != moment:
            line.put(worker, moment)

    def next(self, *, has_others: bool) -> float:
        """The earliest time of all.

        Args:
            has_others: whether there are several workers, so that one could do what another is stuck with.
        """
        due = math.inf
        for clock in self._clocks if has_others else self._clocks[:-2]:
            if clock.watched and (time := clock.next()) < due:
                due = time
        return min([due, *(worker.tolerated_until for worker in self._useless())]) if self.silent.watched else due

    def overdue_worker(self, now: float) -> WorkerRecord | None:
        """The first worker that should have answered by now, or None."""
        return self.overdue.due(now) or self.patient.due(now)

    def intolerable_workers(self, now: float) -> list[WorkerRecord]:
        """The silent workers that hold nothing and whose time is over."""
        return [worker for worker in self._useless() if worker.tolerated_until <= now]

    def _useless(self) -> Iterator[WorkerRecord]:
        return (worker for worker in self.silent.watched.values() if worker.is_useless)

    def check_invariants(self, workers: dict[WorkerId, WorkerRecord]) -> None:
        """Check that the lines are what the workers say; for tests."""
        lines = (self.overdue, self.patient, self.asked, self.silent)
        before = [(dict(line.watched), dict(line.moments)) for line in lines]
        for worker in workers.values():
            self.watch(worker)
        assert before == [(line.watched, line.moments) for line in lines]
        assert sum(len(line.watched) for line in lines) == len(self.lines)
        for line in (*lines, self.wary):
            assert line.watched.keys() == line.moments.keys()
        assert self.lines.keys() <= workers.keys()
        moments = [self.asked.moments[worker_id] for worker_id in self.asked.watched]
        assert moments == sorted(moments)
        waits = [self.wary.moments[call_id] for call_id in self.wary.watched]
        assert waits == sorted(waits)
