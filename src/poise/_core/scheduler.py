"""The scheduler: one owner of all state. Every method decides, records what it decided, and returns what to do.

Granting and recording are one synchronous step, and only a worker's answer or its death ends a slot. Time is handed in,
in seconds of any steady clock, and so is the randomness of the backoff.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from poise._core.counters import stats_of
from poise._core.effects import Effect, Kill, Lost, Outbox, Start
from poise._core.fleet import Fleet
from poise._core.granting import Granting
from poise._core.outcomes import Outcomes
from poise._core.placement import Placement
from poise._core.queues import Waiting
from poise._core.states import CallEvent, CallState, WorkerEvent, WorkerState
from poise.errors import LeaseExpired, Overloaded, PoisonCall, PoolBroken, PoolClosed, WorkerLost
from poise.stats import Stats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from poise._core.calls import CallId, CallRecord
    from poise._core.counters import Counters
    from poise._core.pace import Pace
    from poise._core.retry import Retry
    from poise._core.workers import WorkerId, WorkerRecord


class Ending(enum.IntEnum):
    """How an attempt ended."""

    ANSWERED = enum.auto()
    FAILED = enum.auto()
    """With the user's exception."""
    RETRYABLE = enum.auto()
    """With an exception after which the caller wants another attempt, if it has one left."""
    NOT_BEGUN = enum.auto()


class Ended(NamedTuple):
    """One attempt that the worker has answered."""

    call_id: CallId
    ending: Ending
    service_time: float
    outcome: Any


class Scheduler:
    """Admission, order, placement, deadlines, retries and the number of workers."""

    def __init__(
        self,
        *,
        size: int,
        slots: int = 1,
        backlog: int | None = None,
        kill_after: float | None = None,
        poison_after: int = 3,
        heals: bool = True,
        chance: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.size: int = size
        self.slots = slots
        self.replaces = heals
        """Whether the workers are the pool's own, to be ended and replaced."""
        self.kill_after = kill_after
        self.poison_after = poison_after
        self.is_closed: bool = False
        """Nothing more is accepted."""
        self._refuses = False
        """What has not begun is refused instead of waiting, and nothing is tried again."""
        self._chance = chance
        """A number from 0 to 1: what spreads pauses and restarts."""
        self._outbox = Outbox()
        """Invariant: empty between steps."""
        self._fleet = Fleet(slots, heals=heals, chance=chance)
        self._workers = self._fleet.workers
        """Invariant: as many are not RETIRING as `size` asks for, while healing."""
        self._waiting = Waiting(backlog)
        self._placement = Placement(slots)
        self._outcomes = Outcomes(self._waiting, self._placement, self._outbox, kill_after)
        self._granting = Granting(slots, self._waiting, self._placement, self._outcomes, self._outbox)
        self.counters: Counters = self._outcomes.counters
        self.pace: Pace = self._granting.pace

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
            call.bound_for = _holder_of(call.lease)
        elif self._fleet.broken is not None:
            raise self._fleet.broken_error()
        call.since = now
        worker = self._granting.worker_for(call, now)
        if worker is None and not self._waiting.admit(call, may_park=may_park):
            self.counters.rejected += 1
            raise Overloaded(self._waiting.depth, int(self._waiting.limit), self.retry_after)
        self.counters.submitted += 1
        if call.deadline != math.inf:
            self._outcomes.deadlines.add(call, call.deadline)
        if worker is not None:
            self._granting.grant(call, worker, now)
        elif call.bound_for is not None:
            self._granting.advance(call.bound_for, now)
        elif self._granting.first() is call:  # else the first could not be placed before this, and cannot now
            self._granting.place(now)
        return self._outbox.flush()

    def cancel(self, call: CallRecord, now: float) -> list[Effect]:
        """The caller is gone. A call that waits is dropped; one on a worker keeps its slot until that answers."""
        if call.state is CallState.DONE or call.state is CallState.ABANDONED:
            return []
        if call.is_lease and (worker := call.worker) is not None:
            self.counters.cancelled += 1
            self._outcomes.end_lease(worker, call, "released")
            return self._changed(worker, now)
        self._outcomes.cancel(call)
        self._granting.place(now)
        return self._outbox.flush()

    def kill(self, call: CallRecord, now: float, grace: float = 0.0) -> list[Effect]:
        """The caller is gone, or was answered, and wants the call gone: a worker that goes on with it is killed.

        Args:
            call: which.
            now: when.
            grace: seconds that the worker has to be done with it, once the call runs.
        """
        if call.state is CallState.DONE:
            return []
        if call.is_lease:
            return self.cancel(call, now)
        if call.state is not CallState.ABANDONED:
            self._outcomes.cancel(call)
        if call.state is CallState.ABANDONED:
            self._outcomes.doom(call, now, grace)
            self._kill_overdue(now)
        self._granting.place(now)
        return self._outbox.flush()

    def release(self, lease: CallRecord, now: float) -> list[Effect]:
        """The holder gives its worker back. Its calls that have not begun are refused; running ones keep their slot."""
        worker = lease.worker
        if worker is None or worker.lease is not lease:
            return []
        self.counters.completed += 1
        self._outcomes.end_lease(worker, lease, "released")
        return self._changed(worker, now)

    def forgo_retries(self, call: CallRecord) -> None:
        """The caller has seen a part of the result, so that another attempt would repeat it."""
        call.retry = None

    # ---------------------------------------------------------------- workers

    def finished(self, worker_id: WorkerId, endings: Iterable[Ended], now: float) -> list[Effect]:
        """The worker has answered. Answers for calls that it does not hold are ignored."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return []
        has_progressed = False
        for ended in endings:
            has_progressed |= ended.ending is not Ending.NOT_BEGUN
            call = worker.running.pop(ended.call_id, None) or worker.ahead.pop(ended.call_id, None)
            if call is not None:
                self._end_attempt(call, worker, ended, now)
        if has_progressed:
            self._placement.progressed(worker, now)
        return self._changed(worker, now)

    def begun(self, worker_id: WorkerId, call_ids: Iterable[CallId]) -> None:
        """Calls that were sent ahead may have begun: from now on a death leaves them in doubt."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return
        for call_id in call_ids:
            if (call := worker.ahead.get(call_id)) is not None and not call.is_announced:
                call.is_announced = True
                call.attempts += 1

    def recall_done(self, worker_id: WorkerId, now: float) -> list[Effect]:
        """The worker has answered a recall: what it gave back has come through `finished`, and the rest has begun."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return []
        self.begun(worker_id, worker.recalled)
        for call_id in worker.recalled:
            if (call := worker.ahead.get(call_id)) is not None:
                call.is_kept = True
        self._placement.answered(worker)
        return self._changed(worker, now)

    def worker_ready(self, worker_id: WorkerId, now: float, *, most_ahead: int = 0) -> list[Effect]:
        """A worker has started, to which so many calls may be sent beyond its slots."""
        worker = self._workers.get(worker_id)
        if worker is None or worker.state is not WorkerState.STARTING:
            return []  # retired while it started: its Kill is on the way
        self._fleet.step(worker, WorkerEvent.READY, now)
        worker.most_ahead = most_ahead
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
        """A worker has died or could not start. Told again of the same worker, it does nothing.

        Args:
            worker_id: which.
            reason: how, as text.
            now: when.
            cause: the constructor's exception, if that is why it could not start.
            all_in_doubt: whether it may have begun calls sent ahead without having announced them.
        """
        worker = self._workers.get(worker_id)
        if worker is None:
            return []
        if all_in_doubt:
            self.begun(worker_id, tuple(worker.ahead))
        has_started = worker.state is not WorkerState.STARTING
        heir = self._fleet.lose(worker, reason, now)
        self.counters.deaths += 1
        replaced_in = None if heir is None else heir.start_at - now
        self._outbox.add(Lost(worker.id, reason, has_started, worker.begun_functions(), replaced_in))
        self._settle(worker, reason, heir, now)
        if self._fleet.judge(self.size, reason, cause):
            for call in self._waiting.calls(self.members()):
                self._outcomes.refuse(call, self._fleet.broken_error())
        self._start_due(now)  # at once, after an end that was asked for
        self._granting.place(now)
        return self._outbox.flush()

    def retire(self, worker_id: WorkerId, now: float) -> list[Effect]:
        """A worker asks to be replaced: it finishes what it holds, and another starts in its place at once."""
        worker = self._workers.get(worker_id)
        if worker is None or worker.state is not WorkerState.READY or worker.is_killed:
            return []
        if self._fleet.heals:
            self._fleet.add(now)
        self._retire(worker, now)
        self._start_due(now)
        self._granting.place(now)
        return self._outbox.flush()

    # ---------------------------------------------------------------- size and time

    def open(self, now: float) -> list[Effect]:
        """Ask for the first workers."""
        return self.resize(self.size, now)

    def resize(self, size: int, now: float) -> list[Effect]:
        """Ask for another number of workers. Those over it finish what they hold, the least busy ones first."""
        self.size = size
        for _ in range(size - len(self.members())):
            self._fleet.add(now)
        for worker in self._fleet.surplus(size):
            self._retire(worker, now)
        self._start_due(now)
        self._granting.place(now)
        return self._outbox.flush()

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: expire calls, kill what overran, start what is due, ask back and take back what is stuck."""
        for call in self._outcomes.deadlines.pop_due(now):
            self._outcomes.expire(call)
        self._kill_overdue(now)
        for worker in self._placement.intolerable_workers(now):
            self._kill(worker, "killed: it ran nothing, did not answer, and calls that it could have run expired")
        for call in self._waiting.paused.pop_due(now):
            self._resume(call, now)
        self._waiting.calm(now)
        self._start_due(now)
        self._granting.withdraw_unanswered(now)
        if len(self._workers) > 1:
            self._granting.recall_overdue(now)
        self._granting.place(now)
        return self._outbox.flush()

    def next_tick(self) -> float:
        """When `tick` is due next, `math.inf` if nothing waits for time to pass."""
        placement, outcomes, waiting = self._placement, self._outcomes, self._waiting
        overdue = placement.next_overdue() if len(self._workers) > 1 else math.inf
        due = min(outcomes.deadlines.next(), outcomes.overruns.next(), self._fleet.next_start())
        due = min(due, overdue, placement.next_silence())
        return min(due, waiting.paused.next(), waiting.wary.next_tired()) if waiting.aside else due

    def close(self, now: float, *, reject_waiting: bool) -> list[Effect]:
        """Accept nothing more; if so told refuse what has not begun, else let it finish."""
        self.is_closed = True
        if reject_waiting:
            self._refuse_waiting()
            for worker in self._workers.values():
                self._granting.recall(worker, now)
            self._granting.place(now)
        return self._outbox.flush()

    def stop(self, now: float) -> list[Effect]:
        """Give up every worker; what is still on them ends as lost."""
        self.is_closed = True
        self._fleet.heals = False
        self._refuse_waiting()
        for worker in list(self._workers.values()):
            if worker.state is not WorkerState.PENDING:
                is_idle = worker.is_serving and worker.is_empty
                self._outbox.add(Kill(worker.id, "the pool was closed", gently=is_idle))
            self._fleet.step(worker, WorkerEvent.STOP, now)
            for call in worker.take_calls():  # any of them may have begun: nobody asks the worker any more
                if call.state is CallState.ABANDONED:
                    self._outcomes.end_abandoned(call)
                else:
                    self._outcomes.fail(call, WorkerLost(worker.id, "the pool was closed"))
            self._settle(worker, "the pool was closed", None, now)
        return self._outbox.flush()

    # ---------------------------------------------------------------- looking

    def members(self) -> list[WorkerRecord]:
        """The workers that count towards the size: all but those that retire."""
        return self._fleet.members()

    def worker(self, worker_id: WorkerId) -> WorkerRecord | None:
        """The record of this worker, None if it is gone."""
        return self._workers.get(worker_id)

    def knows(self, worker_id: WorkerId) -> bool:
        """Whether this worker is not gone."""
        return worker_id in self._workers

    def is_starting(self, worker_id: WorkerId) -> bool:
        """Whether this worker is wanted and has not started yet."""
        worker = self._workers.get(worker_id)
        return worker is not None and worker.state is WorkerState.STARTING

    @property
    def ready_workers(self) -> int:
        """How many workers have started."""
        return len(self._fleet.ready)

    @property
    def failed_starts(self) -> int:
        """How many starts have failed in a row, since a worker was last ready."""
        return self._fleet.failed_starts

    @property
    def last_failure(self) -> str | None:
        """Why the last start that failed did so."""
        return self._fleet.last_failure

    @property
    def broken(self) -> PoolBroken | None:
        """Why no worker can start, until one does."""
        return self._fleet.broken

    def broken_error(self) -> PoolBroken:
        """A new error for each caller, so that none shares a traceback."""
        return self._fleet.broken_error()

    @property
    def is_idle(self) -> bool:
        """Whether every accepted call has had its outcome and no lease is held."""
        return self.counters.unsettled == 0

    @property
    def retry_after(self) -> float:
        """Seconds in which the backlog shrinks by a tenth at the recent pace, and at least 10 ms."""
        slots = max(1, self.ready_workers * self.slots)
        service_time = 0.1 if self.pace.overall is None else self.pace.overall
        return max(0.01, self._waiting.depth / 10 * service_time / slots)

    def stats(self, now: float) -> Stats:
        """A snapshot."""
        records = list(self._workers.values())
        workers = tuple(stats_of(worker, now) for worker in records)
        states = [call.state for w in records for calls in (w.running, w.ahead) for call in calls.values()]
        waiting = self._waiting
        return Stats(
            size=self.size,
            ready=self.ready_workers,
            starting=sum(w.state is WorkerState.PENDING or w.state is WorkerState.STARTING for w in records),
            waiting=waiting.depth + len(waiting.claims) + sum(w.waiting for w in records),
            parked=len(waiting.parked),
            running=states.count(CallState.RUNNING),
            ahead=states.count(CallState.AHEAD),
            abandoned=states.count(CallState.ABANDONED),
            free_slots=sum(w.free_slots for w in records if w.is_open),
            leased=sum(w.leased for w in workers),
            service_time=self.pace.overall,
            wait_time=self._granting.wait_time,
            workers=workers,
            **self.counters.as_dict(),
        )

    # ---------------------------------------------------------------- attempts

    def _end_attempt(self, call: CallRecord, worker: WorkerRecord, ended: Ended, now: float) -> None:
        """One attempt has ended by the worker's own word."""
        if worker.lease is call:
            worker.lease = None  # a suspect that ran alone
        ending = ended.ending
        if ending is Ending.NOT_BEGUN:
            call.attempts -= call.may_have_begun
        else:
            call.attempts += not call.may_have_begun  # it began and ended between two answers
            worker.finished += 1
            worker.busy += ended.service_time
            self.pace.record(call.function, ended.service_time)
        if call.state is CallState.ABANDONED:
            self._outcomes.end_abandoned(call)
            return
        if ending is Ending.NOT_BEGUN:
            self._put_back(call, worker, now)
            return
        worker.has_failed = ending is not Ending.ANSWERED
        if ending is Ending.RETRYABLE and (retry := self._retry_of(call)) is not None:
            if call.bound_for is None:
                retry.avoid(worker.id)
            self._retry(call, retry, worker, now)
        else:
            self._outcomes.resolve(call, ended.outcome, has_failed=ending is not Ending.ANSWERED)

    def _retry_of(self, call: CallRecord) -> Retry | None:
        """By what leave a call that may have begun is given another attempt, None if it is not (G2)."""
        retry = call.retry
        if retry is None or retry.left <= 0 or self._refuses or self._fleet.broken is not None:
            return None
        return retry if call.lease is None or call.lease.state is not CallState.DONE else None

    def _retry(self, call: CallRecord, retry: Retry, worker: WorkerRecord, now: float) -> None:
        """Let a call that may have begun wait for another attempt, after a pause.

        One of a broadcast does not pause: it is part of what its worker's replacement takes over.
        """
        self.counters.retried += 1
        pause = retry.pause(self._chance)
        if pause > 0 and (call.bound_for is None or call.lease is not None):
            call.step(CallEvent.PAUSE)
            call.leave_worker(now)
            self._waiting.pause(call, now + pause)
        else:
            self._put_back(call, worker, now)

    def _resume(self, call: CallRecord, now: float) -> None:
        """The pause before a call's next attempt is over."""
        self._waiting.resume(call, now)
        if call.bound_for is not None:
            self._granting.advance(call.bound_for, now)

    def _put_back(self, call: CallRecord, worker: WorkerRecord, now: float) -> None:
        """Let a call that this worker held wait again, at its place in the order, if there still is one for it."""
        call.step(CallEvent.RETURN)
        call.leave_worker(now)
        if self._refuses:
            self._outcomes.fail(call, _closed_error(call))
        elif call.lease is not None and call.lease.state is CallState.DONE:
            self._outcomes.fail(call, LeaseExpired(worker.id, "released"))
        elif self._fleet.broken is not None:
            self._outcomes.fail(call, self._fleet.broken_error())
        else:
            self._waiting.put_back(call)

    def _refuse_waiting(self) -> None:
        """End everything that waits, now and from now on."""
        self._refuses = True
        for call in self._waiting.calls(self._workers.values()):
            self._outcomes.refuse(call, _closed_error(call))

    # ---------------------------------------------------------------- changes of workers

    def _changed(self, worker: WorkerRecord, now: float) -> list[Effect]:
        """A worker's calls or state have changed: bring what follows from that up to date."""
        self._granting.advance(worker, now)
        if worker.state is WorkerState.RETIRING:
            self._let_go(worker, now)
        self._granting.place(now)
        return self._outbox.flush()

    def _settle(self, worker: WorkerRecord, reason: str, heir: WorkerRecord | None, now: float) -> None:
        """A worker is gone: end or move everything that it held or that waited for it."""
        held = worker.take_calls()
        self._waiting.drop_claim(worker)
        if worker.lease is not None and worker.lease.is_lease:
            self.counters.lost += 1
            worker.lease.deaths += 1
            self._outcomes.end_lease(worker, worker.lease, "lost")
        worker.lease = None
        for call in held:
            self._settle_held(call, worker, reason, now)
        for call in list(worker.pinned_queue):
            if heir is None:
                self._outcomes.refuse(call, WorkerLost(worker.id, reason, started=False))
            else:
                worker.pinned_queue.discard(call)
                call.bound_for = heir
                heir.pinned_queue.add(call)
        self._placement.forget(worker)

    def _settle_held(self, call: CallRecord, worker: WorkerRecord, reason: str, now: float) -> None:
        """End or move one call that was on a worker when that died."""
        if call.state is CallState.ABANDONED:
            self._outcomes.end_abandoned(call)
            return
        if not call.may_have_begun:  # so it was sent ahead, and is bound for no worker
            self._put_back(call, worker, now)
            return
        call.deaths += 1
        may_recur = call.bound_for is None and call.deaths < self.poison_after
        if may_recur and (retry := self._retry_of(call)) is not None:
            self._retry(call, retry, worker, now)
        elif call.deaths >= self.poison_after:
            self._outcomes.fail(call, PoisonCall(worker.id, reason, call.deaths, call.name))
        else:
            self._outcomes.fail(call, WorkerLost(worker.id, reason))

    def _start_due(self, now: float) -> None:
        for worker in self._fleet.start_due(now):
            self._outbox.add(Start(worker.id))

    def _retire(self, worker: WorkerRecord, now: float) -> None:
        """Take a worker out of the pool: at once if it has not started, else when it has finished what it holds."""
        if worker.state is WorkerState.STARTING:
            self._outbox.add(Kill(worker.id, "retired"))
        self._fleet.step(worker, WorkerEvent.RETIRE, now)
        if worker.state is WorkerState.GONE:
            self._settle(worker, "retired before it had started", None, now)
            return
        self._waiting.drop_claim(worker)
        self._granting.recall(worker, now)
        self._granting.advance(worker, now)
        self._let_go(worker, now)

    def _let_go(self, worker: WorkerRecord, now: float) -> None:
        """End a worker that retires, if it has nothing more to do; the death of a killed one will be told."""
        if worker.is_empty and worker.lease is None and not worker.is_killed:
            self._fleet.step(worker, WorkerEvent.LOST, now)
            self._placement.forget(worker)
            self._outbox.add(Kill(worker.id, "retired", gently=True))

    def _kill_overdue(self, now: float) -> None:
        for call in self._outcomes.overruns.pop_due(now):
            self._kill_for(call)

    def _kill_for(self, call: CallRecord) -> None:
        """An abandoned call runs for too long: its worker is stuck, or its caller wants it gone."""
        worker = call.worker
        if worker is None or worker.is_killed or call.id not in worker.running:
            return
        if call.id in self._outcomes.doomed:
            self._kill(worker, f"killed, because the caller of {call.name} had given it up")
            return
        overrun = f"killed: {call.name} still ran {self.kill_after:g} s after its timeout of {call.timeout:g} s"
        self._kill(worker, overrun)

    def _kill(self, worker: WorkerRecord, reason: str) -> None:
        worker.is_killed = True
        self._placement.update(worker)
        self._outbox.add(Kill(worker.id, reason))

    # ---------------------------------------------------------------- invariants

    def check_invariants(self) -> None:
        """Check what is stated at the fields; for tests, after every step."""
        assert self._outbox.is_empty
        assert not self._fleet.heals or len(self.members()) == self.size
        self._fleet.check_invariants()
        self._waiting.check_invariants()
        self._placement.check_invariants(self._workers.values())
        for worker in self._workers.values():
            worker.check_invariants()
        head, free = self._granting.first(), self._placement.free_worker()
        assert head is None or free is None, f"{head} waits beside {free}"  # G4
        assert self._granting.next_wary() is None  # G4
        assert not self._waiting.claims or self._placement.empty_worker() is None  # G4
        self._check_counts()

    def _check_counts(self) -> None:
        held = [call for w in self._workers.values() for calls in (w.running, w.ahead) for call in calls.values()]
        leases = [w.lease for w in self._workers.values() if w.lease is not None and w.lease.is_lease]
        waiting = self._waiting.calls(self._workers.values())
        live = waiting + leases + [call for call in held if call.state is not CallState.ABANDONED]
        assert self.counters.unsettled == len(live), (self.counters, live)
        timed = [call for call in live if call.deadline != math.inf and not (call.is_lease and call.worker)]
        assert len(self._outcomes.deadlines) == len(timed)


def _holder_of(lease: CallRecord) -> WorkerRecord:
    """The worker that this lease holds.

    Raises:
        LeaseExpired: it holds none any more.
    """
    worker = lease.worker
    assert worker is not None, "a lease is used once it is granted"
    if worker.lease is not lease:
        raise LeaseExpired(worker.id, "lost" if lease.deaths else "released")
    return worker


def _closed_error(call: CallRecord) -> PoolClosed:
    if not call.attempts:
        return PoolClosed("the pool was closed before the call could start; it has not run")
    times = "1 time" if call.attempts == 1 else f"{call.attempts} times"
    return PoolClosed(f"the pool was closed before the call could be tried again; it has run {times}")
