"""When a pool grows and when it shrinks: a policy, which costs nothing where there is none.

It grows when the wait that this saves is longer than the start of a worker. By the service times that were measured
that is known when calls begin to wait; where none was measured, or where others hold the workers than those that wait,
it is known when a call has waited for so long. It shrinks by those that had nothing to do for a while: the next call
goes to whoever was busy last, and has the least room, so that those which are not needed have nothing to do.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import TYPE_CHECKING, Final

from poise._core.alarms import Line
from poise._core.demand import next_call, useful_workers, waiting_calls
from poise._core.effects import Grown, Shrunk
from poise._core.states import WorkerState

if TYPE_CHECKING:
    from collections.abc import Sized

    from poise._core.effects import Effect, Outbox
    from poise._core.fleet import Fleet
    from poise._core.pace import Pace
    from poise._core.placement import Placement
    from poise._core.queues import Queues
    from poise._core.renewals import Renewals
    from poise._core.workers import WorkerId, WorkerRecord
    from poise.policies import Elastic

FIRST_START: Final = 1.0
"""Seconds that the start of a worker is taken to last until one was measured."""
LEAST_START: Final = 0.001
"""The shortest start that is believed."""
_STARTS: Final = 9
"""Starts that are remembered; their median counts, because one may have waited for room, or for a download."""


class Elasticity:
    """Decides how many workers are wanted, within bounds. It is one of the clocks."""

    __slots__ = (
        "_calm_at",
        "_doubt_at",
        "_fleet",
        "_idle",
        "_is_closed",
        "_outbox",
        "_pace",
        "_placement",
        "_policy",
        "_queues",
        "_renewals",
        "_starts",
        "start_time",
    )

    def __init__(
        self, fleet: Fleet, queues: Queues, pace: Pace, placement: Placement, renewals: Renewals, outbox: Outbox
    ) -> None:
        self.start_time: float = FIRST_START
        """Seconds from when a worker is asked for to when it is ready."""
        self._starts: deque[float] = deque(maxlen=_STARTS)
        self._calm_at = -math.inf
        """When a worker last became ready, or the pool last grew because a call had waited for long."""
        self._idle: Line[WorkerRecord] = Line(math.inf)
        """Workers that may be idle, and those that have not started, from when they were last of use.

        Invariant: who is idle is here, unless there are no more workers than must be.
        """
        self._doubt_at = math.inf
        """When the call that is next will have waited for as long as a start takes, if it still does."""
        self._is_closed = False
        self._fleet = fleet
        self._queues = queues
        self._pace = pace
        self._placement = placement
        self._renewals = renewals
        self._outbox = outbox

    def begin(self, policy: Elastic, now: float) -> None:
        """Decide by this policy from now on."""
        self._policy = policy
        self._idle = Line(policy.idle)
        self._resized(now)
        self.look(now)

    def close(self) -> None:
        """The pool will end soon: it neither grows nor shrinks any more."""
        self._is_closed = True
        self._idle = Line(math.inf)
        self._doubt_at = math.inf

    # ---------------------------------------------------------------- as a clock

    @property
    def watched(self) -> Sized:
        """For what it has a time."""
        return self._idle.watched if self._doubt_at == math.inf else (self,)

    def next(self) -> float:
        """When it is to be asked next."""
        return min(self._idle.next(), self._doubt_at)

    def tick(self, now: float) -> None:
        """Time has passed."""
        while (worker := self._idle.due(now)) is not None:
            self._idle.forget(worker)
            self._judge(worker, now)
        self.look(now)

    # ---------------------------------------------------------------- what happens

    def started(self, worker: WorkerRecord, now: float) -> None:
        """A worker that was STARTING is ready."""
        self._starts.append(now - worker.since)
        self.start_time = max(LEAST_START, median(self._starts))
        self._calm_at = now

    def changed(self, worker: WorkerRecord, now: float, *, is_check: bool) -> None:
        """A worker has become ready, has answered, or is held no more; it has been given what there was for it."""
        if worker.is_idle and not self._is_closed and not (is_check and worker.id in self._idle.moments):
            self._idle.put(worker, now)
            self._placement.prefer(worker)
        self.look(now)

    def lost(self, worker_id: WorkerId, now: float) -> list[Effect]:
        """A worker has died or could not start: its heir is of no more use than it was."""
        self._enrol(self._idle.moments.get(worker_id, now))
        self.look(now)
        return self._outbox.flush()

    def look(self, now: float) -> None:
        """Calls may have begun to wait, or wait no more: grow if they wait for too long."""
        fleet, queues, most = self._fleet, self._queues, self._policy.max
        self._doubt_at = math.inf
        if fleet.size >= most or self._is_closed or not (waiting := waiting_calls(queues)):
            return
        if not fleet.size:
            self._grow(1, now)
        seconds = self._pace.overall
        if seconds is not None and waiting * seconds > self.start_time * fleet.size * fleet.slots:
            self._grow(useful_workers(fleet, queues, self._pace, self.start_time, is_late=False), now)
        first = next_call(queues)
        if first is None or fleet.size >= most or len(fleet.ready) < fleet.size:
            return  # who starts already may be enough
        self._doubt_at = max(first.waits_since, self._calm_at) + self.start_time
        if self._doubt_at <= now:
            self._calm_at = now
            self._doubt_at = now + self.start_time
            self._grow(useful_workers(fleet, queues, self._pace, self.start_time, is_late=True), now)

    def _resized(self, now: float) -> None:
        """The size is another: while there are more workers than must be, calls are packed on those that are needed."""
        self._placement.arrange(packs=self._fleet.size > self._policy.min)
        self._enrol(now)

    def _grow(self, size: int, now: float) -> None:
        fleet, before = self._fleet, self._fleet.size
        if (size := min(size, self._policy.max)) > before:
            fleet.size = size
            for _ in range(size - before):
                fleet.add(now)
            self._resized(now)
            self._outbox.add(Grown(before, size, waiting_calls(self._queues)))
            self._renewals.changed(now)
            self._renewals.start_due(now)

    # ---------------------------------------------------------------- shrinking

    def _enrol(self, moment: float) -> None:
        """Watch those that are not watched: they were last of use then."""
        for worker in self._fleet.members():
            if worker.id not in self._idle.moments and not self._is_closed:
                self._idle.put(worker, moment)

    def _judge(self, worker: WorkerRecord, now: float) -> None:
        """This worker may have been of no use for a while: let it go if so, and if it is not needed."""
        fleet, queues = self._fleet, self._queues
        has_started, do_wait = worker.state >= WorkerState.READY, waiting_calls(queues) > 0
        if has_started and not worker.is_unused:
            return  # it is gone, or will be idle again when it has answered
        is_awaited = not has_started and (do_wait or queues.first_for(worker) is not None)
        least = max(self._policy.min, do_wait or fleet.broken is not None)  # one that tries to start mends the pool
        if fleet.size > least and not is_awaited and self._renewals.on_change is None:
            fleet.size -= 1
            self._outbox.add(Shrunk(worker.id, fleet.size, self._policy.idle))
            self._renewals.dismiss(worker, now)
            self._resized(now)
        elif fleet.size > self._policy.min:
            self._idle.put(worker, now)

    def check_invariants(self) -> None:
        """Check what is stated at the fields; for tests."""
        may_shrink = self._fleet.size > self._policy.min and not self._is_closed
        assert not may_shrink or all(w.id in self._idle.moments for w in self._fleet.members() if w.is_idle)
