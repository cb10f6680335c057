"""The scheduler: one owner of all state. Every method decides, records what it decided, and returns what to do.

Granting and recording are one synchronous step, and only a worker's answer or its death ends a slot. Time is handed in,
in seconds of any steady clock, and so is the randomness of the backoff.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from poise._answers import NOT_BEGUN, Answer
from poise._core.affinity import Affinity
from poise._core.alarms import Alarms
from poise._core.batches import Batching
from poise._core.counters import check_counts, snapshot
from poise._core.effects import Outbox
from poise._core.endings import Endings
from poise._core.fleet import Fleet
from poise._core.granting import Granting
from poise._core.health import Watch
from poise._core.leaving import Leaving
from poise._core.outcomes import Outcomes
from poise._core.pace import Pace
from poise._core.placement import Placement
from poise._core.queues import Queues
from poise._core.recalls import Recalls
from poise._core.recycling import Recycling
from poise._core.reloading import Reloading
from poise._core.renewal import Order
from poise._core.renewals import Renewals
from poise._core.shares import Shares
from poise._core.sizing import Sizing
from poise._core.states import ABANDONED, DONE, STARTING, WorkerEvent
from poise.errors import PoolClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from poise._core.calls import CallId, CallRecord
    from poise._core.counters import Counters
    from poise._core.effects import Effect
    from poise._core.elastic import Elasticity
    from poise._core.workers import WorkerId, WorkerRecord
    from poise.policies import Elastic, Health, Recycle
    from poise.stats import Stats


class Scheduler:
    """Admission, order, placement, deadlines, retries and the number of workers."""

    _placements: ClassVar[type[Placement]] = Placement

    def __init__(
        self,
        *,
        size: int | Elastic = 1,
        slots: int = 1,
        backlog: int | None = None,
        backlog_per_tenant: int | None = None,
        kill_after: float | None = None,
        poison_after: int = 3,
        retry_budget: float | None = None,
        heals: bool = True,
        recycle: Recycle | None = None,
        health: Health | None = None,
        chance: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self._asked: int | Elastic = size
        self.slots = slots
        self.replaces = heals
        """Whether the workers are the pool's own, to be ended and replaced."""
        self.kill_after = kill_after
        self.is_closed: bool = False
        """Nothing more is accepted."""
        self.pace: Pace = Pace()
        self._outbox = outbox = Outbox()
        """Invariant: empty between steps."""
        self._alarms = alarms = Alarms()
        self._placement = placement = self._placements(slots, alarms)
        self.shares: Shares = Shares(backlog_per_tenant)
        self._queues = queues = Queues(backlog, self.shares, placement, alarms)
        self.fleet: Fleet = Fleet(slots, alarms, heals=heals, chance=chance)
        fleet = self.fleet
        self._workers = fleet.workers
        self._outcomes = outcomes = Outcomes(queues, alarms, outbox, kill_after)
        self.counters: Counters = outcomes.counters
        self._endings = endings = Endings(queues, self.pace, fleet, outcomes, poison_after, chance, retry_budget)
        self._recalls = recalls = Recalls(queues, placement, alarms, outbox)
        self._affinity = affinity = Affinity(fleet.ready, queues, placement, self.counters)
        self._granting = Granting(slots, queues, placement, alarms, self.pace, outcomes, recalls, affinity, outbox)
        granting = self._granting
        self._leaving = Leaving(fleet, queues, placement, alarms, outcomes, endings, recalls, granting, outbox)
        leaving = self._leaving
        self.renewals: Renewals = Renewals(fleet, queues, leaving, granting, self.counters, outbox)
        renewals = self.renewals
        renewals.order = Order.NEW_FIRST if recycle is None or recycle.surge else Order.OLD_FIRST
        self.reloading: Reloading = Reloading(fleet, renewals)
        self.sizing: Sizing = Sizing(fleet, queues, self.pace, placement, alarms, renewals, outbox)
        self._elastic: Elasticity | None = None
        self.is_timed: bool = False
        """Whether there is a time to be kept for any call that begins to wait."""
        self.recycling: Recycling | None = None
        if recycle is not None:
            self.recycling = Recycling(recycle, fleet, queues, alarms, renewals, outbox, chance)
        self._watch: Watch | None = None
        if health is not None:
            self._watch = Watch(health, fleet, placement, alarms, renewals, leaving, self.counters, outbox, chance)

    # ---------------------------------------------------------------- callers

    def submit(self, call: CallRecord, now: float, *, may_park: bool = False) -> list[Effect]:
        """Accept a call, let it wait until there is room if it may, or refuse it.

        Raises:
            PoolClosed: nothing more is accepted.
            PoolBroken: no worker can start.
            Overloaded: the backlog is full and the call may not wait for room.
            LeaseExpired: it belongs to a lease that has ended.
            WorkerLost: the one worker that it is bound for is gone.
        """
        if self.is_closed:
            raise PoolClosed("the pool is closed and takes no more calls")
        if call.lease is not None:
            call.bound_for = call.lease.leased_worker()
        elif self.fleet.broken is not None:
            raise self.fleet.broken_error()
        call.submitted_at = call.waits_since = now
        gathers = type(call.function) is Batching and self._queues.gather(call, now)
        worker = None if gathers else self._granting.worker_for(call, now)
        if worker is None and not gathers and not self._queues.admit(call, may_park=may_park):
            self.counters.rejected += 1
            raise self._queues.overload(call, self.retry_after)
        self.counters.submitted += 1
        if call.deadline != math.inf:
            self._alarms.expiries.add(call, call.deadline)
        if worker is not None:
            self._granting.grant(call, worker, now)
            return self._outbox.flush()
        if call.bound_for is not None:
            self._granting.advance(call.bound_for, now)
        elif gathers or self._queues.first() is call:  # else the first could not be placed before this, and cannot now
            self._granting.place(now)
        if self._elastic is not None:
            self._elastic.look(now)
        return self._outbox.flush()

    def cancel(self, call: CallRecord, now: float) -> list[Effect]:
        """The caller is gone. A call that waits is dropped; one on a worker keeps its slot until that answers."""
        if call.state is DONE or call.state is ABANDONED:
            return []
        if call.is_lease and (worker := call.worker) is not None:
            self.counters.cancelled += 1
            self._outcomes.end_lease(worker, call, "released")
            return self._changed(worker, now)
        self._outcomes.cancel(call)
        self._leaving.kill_overdue(now)  # it may have been the last for whose sake a batch was let run
        self._granting.place(now)
        return self._outbox.flush()

    def kill(self, call: CallRecord, now: float, grace: float = 0.0) -> list[Effect]:
        """The caller is gone, or was answered, and wants the call gone: a worker that goes on with it is killed.

        Args:
            call: which.
            now: when.
            grace: seconds that the worker has to be done with it, once the call runs.
        """
        if call.state is DONE:
            return []
        if call.is_lease:
            return self.cancel(call, now)
        if call.state is not ABANDONED:
            self._outcomes.cancel(call)
        if call.state is ABANDONED:
            self._outcomes.doom(call, now, grace)
            self._leaving.kill_overdue(now)
        self._granting.place(now)
        return self._outbox.flush()

    def release(self, lease: CallRecord, now: float) -> list[Effect]:
        """The holder gives its worker back. Its calls that have not begun are refused; running ones keep their slot."""
        if (worker := lease.worker) is None or worker.lease is not lease:
            return []
        self.counters.completed += 1
        lease.ends("returned")
        self._outcomes.end_lease(worker, lease, "released")
        return self._changed(worker, now)

    def forgo_retries(self, call: CallRecord) -> None:
        """The caller has seen a part of the result, so that another attempt would repeat it."""
        call.retry = None

    # ---------------------------------------------------------------- workers

    def finished(self, worker_id: WorkerId, answers: Sequence[Answer], now: float) -> list[Effect]:
        """The worker has answered. Answers for calls that it does not hold are ignored."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return []
        if self._watch is not None:
            answers = self._watch.heard(worker, answers, now)
        has_progressed = False
        for answer in answers:
            has_progressed |= answer.ending != NOT_BEGUN
            call = worker.answered(answer.call_id) if worker.batches else None
            call = call or worker.running.pop(answer.call_id, None) or worker.ahead.pop(answer.call_id, None)
            if call is not None:
                self._endings.answered(call, worker, answer, now)
        if has_progressed:
            worker.progress_at = now
        return self._changed(worker, now, is_check=not answers)

    def begun(self, worker_id: WorkerId, call_ids: Iterable[CallId]) -> None:
        """Calls that were sent ahead may have begun: from now on a death leaves them in doubt."""
        if (worker := self._workers.get(worker_id)) is not None:
            self._endings.announced(worker, call_ids)

    def recall_done(self, worker_id: WorkerId, now: float) -> list[Effect]:
        """The worker has answered a recall: what it gave back has come through `finished`, and the rest has begun."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return []
        self._endings.announced(worker, worker.recalled, is_kept=True)
        worker.end_recall()
        return self._changed(worker, now)

    def worker_ready(
        self, worker_id: WorkerId, now: float, *, most_ahead: int = 0, is_far: bool = False
    ) -> list[Effect]:
        """A worker has started, to which so many calls may be sent beyond its slots; perhaps on another node."""
        worker = self._workers.get(worker_id)
        if worker is None or worker.state is not STARTING:
            return []  # retired while it started: its Kill is on the way
        if self._elastic is not None:
            self._elastic.started(worker, now)
        self.fleet.step(worker, WorkerEvent.READY, now)
        worker.most_ahead = most_ahead
        if is_far:
            worker.is_far = True
            self._placement.tell_far()
        if self._watch is not None:
            self._watch.enrol(worker, now)
        self.renewals.is_ready(worker, now)
        self.renewals.start_due(now)
        return self._changed(worker, now)

    def worker_lost(
        self,
        worker_id: WorkerId,
        reason: str,
        now: float,
        *,
        cause: BaseException | None = None,
        all_in_doubt: bool = False,
    ) -> list[Effect]:
        """A worker has died, could not start, or has ended as it was to. Told again of the same one, it does nothing.

        Args:
            worker_id: which.
            reason: how, as text.
            now: when.
            cause: the constructor's exception, if that is why it could not start.
            all_in_doubt: whether it may have begun calls sent ahead without having announced them.
        """
        worker = self._workers.get(worker_id)
        if worker is not None:
            if all_in_doubt:
                self._endings.announced(worker, tuple(worker.ahead))
            self._leaving.lose(worker, reason, now, cause)
            if self.fleet.judge(reason, cause):
                for call in self._queues.calls(self.members()):
                    self._outcomes.refuse(call, self.fleet.broken_error())
        self.renewals.gone(worker_id, now)
        effects = self.renewals.decided(now)  # which starts another at once, after an end that was asked for
        return effects if self._elastic is None else effects + self._elastic.lost(worker_id, now)

    # ---------------------------------------------------------------- size and time

    def open(self, now: float) -> list[Effect]:
        """Ask for the first workers."""
        return self.resize(self._asked, now)

    def resize(self, size: int | Elastic, now: float) -> list[Effect]:
        """Ask for another number of workers. Those over it finish what they hold, the least busy ones first."""
        self._elastic = self.sizing.change(size, now)
        self.is_timed = self._elastic is not None
        return self.renewals.decided(now)

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: expire calls, kill what overran, start what is due, ask back and take back what is stuck."""
        for call in self._alarms.expiries.pop_due(now):
            self._outcomes.expire(call)
        self._leaving.kill_overdue(now)
        self._leaving.kill_useless(now)
        for call in self._alarms.pauses.pop_due(now):
            self._queues.resume(call, now)
            if call.bound_for is not None:
                self._granting.advance(call.bound_for, now)
        self._queues.move_on(now)
        for policy in (self.recycling, self._watch, self._elastic):
            if policy is not None:
                policy.tick(now)
        self.renewals.start_due(now)
        self._recalls.withdraw_unanswered(now)
        if len(self._workers) > 1:
            self._recalls.ask_overdue(now)
        self._granting.place(now)
        return self._outbox.flush()

    def next_tick(self) -> float:
        """When `tick` is due next, `math.inf` if nothing waits for time to pass."""
        return self._alarms.next(has_others=len(self._workers) > 1)

    def close(self, now: float, *, reject_waiting: bool) -> list[Effect]:
        """Accept nothing more; if so told refuse what has not begun, else let it finish."""
        self._shut()
        if reject_waiting:
            self._endings.refuse_waiting(self._workers.values())
            for worker in self._workers.values():
                self._recalls.ask(worker, now)
            self._granting.place(now)
        return self._outbox.flush()

    def stop(self, now: float) -> list[Effect]:
        """Give up every worker; what is still on them ends as lost."""
        self._shut()
        self.fleet.heals = False
        self._endings.refuse_waiting(self._workers.values())
        for worker in list(self._workers.values()):
            self._leaving.stop(worker, now)
        return self._outbox.flush()

    def _shut(self) -> None:
        self.is_closed = True
        for policy in (self.recycling, self._watch, self._elastic):
            if policy is not None:
                policy.close()

    # ---------------------------------------------------------------- looking

    def members(self) -> list[WorkerRecord]:
        """The workers that count towards the size: all but those that retire."""
        return self.fleet.members()

    def worker(self, worker_id: WorkerId) -> WorkerRecord | None:
        """The record of this worker, None if it is gone."""
        return self._workers.get(worker_id)

    @property
    def ready_workers(self) -> int:
        """How many workers have started."""
        return len(self.fleet.ready)

    @property
    def is_idle(self) -> bool:
        """Whether every accepted call has had its outcome and no lease is held."""
        return self.counters.unsettled == 0

    @property
    def retry_after(self) -> float:
        """Seconds in which the backlog shrinks by a tenth at the recent pace, and at least 10 ms."""
        slots = max(1, self.ready_workers * self.slots)
        service_time = 0.1 if self.pace.overall is None else self.pace.overall
        return max(0.01, self._queues.depth / 10 * service_time / slots)

    def stats(self, now: float) -> Stats:
        """A snapshot."""
        times = {"service_time": self.pace.overall, "wait_time": self._granting.wait_time}
        return snapshot(self.fleet, self.sizing.bounds, self._queues, self.counters, now, **times)

    # ---------------------------------------------------------------- changes of workers

    def _changed(self, worker: WorkerRecord, now: float, *, is_check: bool = False) -> list[Effect]:
        """A worker's calls or state have changed: bring what follows from that up to date."""
        if self.recycling is not None and self.recycling.look(worker, now):
            self.renewals.start_due(now)
        self._granting.advance(worker, now)
        self._leaving.let_go(worker, now)
        self._granting.place(now)
        if self._elastic is not None:
            self._elastic.changed(worker, now, is_check=is_check)
        return self._outbox.flush()

    def check_invariants(self) -> None:
        """Check what is stated at the fields; for tests, after every step."""
        assert self._outbox.is_empty
        self.fleet.check_invariants()
        self.renewals.check_invariants()
        self._queues.check_invariants()
        self._affinity.check_invariants()
        self._placement.check_invariants(self._workers.values())
        self._alarms.check_invariants(self._workers)
        for worker in self._workers.values():
            worker.check_invariants()
        self._granting.check_invariants()
        self.sizing.check_invariants()
        if self._watch is not None:
            self._watch.check_invariants()
        check_counts(self.counters, self._queues, self._workers.values(), self._alarms)
