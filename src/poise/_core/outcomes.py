"""How calls end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from poise._answers import RETURNED, Answer
from poise._core.counters import Counters
from poise._core.effects import Cancel, Reject, Resolve
from poise._core.states import ABANDON, END
from poise.errors import DeadlineExceeded, LeaseExpired

if TYPE_CHECKING:
    from poise._core.alarms import Alarms
    from poise._core.batches import Batch
    from poise._core.calls import CallId, CallRecord
    from poise._core.effects import Outbox
    from poise._core.queues import Queues
    from poise._core.workers import WorkerRecord
    from poise.errors import PoiseError


class Outcomes:
    """Gives each call its one outcome (G1), counts it, and lets go of the call."""

    __slots__ = ("_alarms", "_outbox", "_queues", "counters", "doomed", "kill_after")

    def __init__(self, queues: Queues, alarms: Alarms, outbox: Outbox, kill_after: float | None) -> None:
        self.counters: Counters = Counters()
        self.doomed: dict[CallId, float] = {}
        """Abandoned calls that their caller wants gone, and the seconds for which their worker may still run them."""
        self.kill_after: float | None = kill_after
        """Seconds that a worker may keep an expired call."""
        self._queues = queues
        self._alarms = alarms
        self._outbox = outbox

    def resolve(self, call: CallRecord, answer: Answer) -> None:
        """End a call with what its worker has answered."""
        self._end(call)
        self.counters.completed += 1
        self.counters.failed += answer.ending != RETURNED
        self._outbox.add(Resolve(call, answer))

    def fail(self, call: CallRecord, error: PoiseError) -> None:
        """End a call with an error of the pool's own."""
        call.ends("lost", error)
        self._end(call)
        self.counters.lost += 1
        self._outbox.add(Reject(call, error))

    def refuse(self, call: CallRecord, error: PoiseError) -> None:
        """End a call that waits."""
        self._queues.take_out(call)
        self.fail(call, error)

    def expire(self, call: CallRecord) -> None:
        """The deadline has passed: the caller is answered now."""
        self.counters.expired += 1
        started = call.worker is not None or call.attempts > 0
        if call.worker is None and self.kill_after is not None:
            self._blame_silent(call, call.deadline + self.kill_after)
        error = DeadlineExceeded(call.timeout, started=started)
        call.ends("expired", error)
        self._leave(call)
        self._outbox.add(Reject(call, error))

    def cancel(self, call: CallRecord) -> None:
        """The caller is gone and wants no answer."""
        self.counters.cancelled += 1
        self._leave(call)

    def doom(self, call: CallRecord, now: float, grace: float) -> None:
        """The caller of an abandoned call wants it gone: its worker has so many seconds, from now or its beginning."""
        worker = call.worker
        assert worker is not None, "a worker holds an abandoned call"
        self.doomed[call.id] = grace
        if worker.runs(call):
            self._alarms.overruns.add(call, now + grace)

    def watch_overrun(self, call: CallRecord, now: float) -> None:
        """An abandoned call that was sent ahead has begun after all: the worker has `kill_after`, or less, from now."""
        if call.id in self.doomed:
            self._alarms.overruns.add(call, now + self.doomed[call.id])
        elif call.deadline != math.inf and self.kill_after is not None and call not in self._alarms.overruns:
            self._alarms.overruns.add(call, now + self.kill_after)

    def overrun(self, call: CallRecord) -> str:
        """Why a worker is killed that runs this abandoned call for too long."""
        if call.id in self.doomed:
            return f"killed, because the caller of {call.name} had given it up"
        return f"killed: {call.name} still ran {self.kill_after:g} s after its timeout of {call.timeout:g} s"

    def end_abandoned(self, call: CallRecord) -> None:
        """A call whose caller is gone has left its worker."""
        self._end(call)
        self._alarms.overruns.forget(call)
        self.doomed.pop(call.id, None)

    def end_lease(self, worker: WorkerRecord, lease: CallRecord, cause: Literal["released", "lost"]) -> None:
        """End the lease that holds this worker, and refuse the calls that still wait under it."""
        for call in self._queues.under(lease):
            self.refuse(call, LeaseExpired(worker.id, cause))
        worker.lease = None
        lease.step(END)

    def _blame_silent(self, call: CallRecord, until: float) -> None:
        """A call has expired that waited while workers were silent: those that it could have run on have until then."""
        for worker in self._alarms.silent.watched.values():
            if call.bound_for is None or call.bound_for is worker:
                worker.tolerated_until = min(worker.tolerated_until, until)

    def _leave(self, call: CallRecord) -> None:
        """The caller no longer waits: drop a call that waits, abandon one that a worker holds.

        The worker has until `kill_after` past the call's deadline to be done with it, if it has one.
        """
        if call.worker is None:
            self._queues.take_out(call)
            self._end(call)
        else:
            call.step(ABANDON)
            self._alarms.expiries.forget(call)
            self._outbox.add(Cancel(call.worker.id, call.id))
            if call.deadline != math.inf and self.kill_after is not None:
                self._alarms.overruns.add(call, call.deadline + self.kill_after)
            if call.worker.batches:
                self._blame_batch(call.worker.batches.get(call.id))

    def overran(self, call: CallRecord, now: float) -> bool:
        """Whether its worker is to end for this call, which has overrun: not while others of its batch are awaited."""
        worker = call.worker
        if worker is None or worker.is_killed or not worker.runs(call):
            return False
        batch = worker.batches.get(call.id)
        if batch is None or not batch.is_awaited:
            return True
        batch.overdue, batch.overdue_at = call, now
        return False

    def _blame_batch(self, batch: Batch | None) -> None:
        """A call of this batch was given up: if nobody waits for any, the worker ends for one that has overrun."""
        if batch is not None and batch.overdue is not None and not batch.is_awaited:
            self._alarms.overruns.add(batch.overdue, batch.overdue_at)
            batch.overdue = None

    def _end(self, call: CallRecord) -> None:
        """The call is over: keep nothing of it, and let it keep nothing of ours."""
        call.step(END)
        call.bound_for = None
        self._alarms.expiries.forget(call)
