"""The scheduler: one owner of all state. Every method decides, records what it decided, and returns what to do.

Granting and recording are one synchronous step, and only a worker's answer or its death ends a slot. Time is handed in,
in seconds of any steady clock, and so is the randomness of the backoff.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from poise._core.call import CallEvent, CallRecord, CallState
from poise._core.deadlines import Deadlines
from poise._core.effects import Cancel, Effect, Kill, Lease, Recall, Reject, Resolve, Send, Start
from poise._core.fleet import Fleet
from poise._core.placement import Pace, Placement
from poise._core.stats import Counters, Stats, WorkerStats
from poise._core.waiting import Waiting
from poise._core.worker import WorkerEvent, WorkerRecord, WorkerState
from poise.errors import (
    DeadlineExceeded,
    LeaseExpired,
    Overloaded,
    PoiseError,
    PoisonCall,
    PoolBroken,
    PoolClosed,
    WorkerLost,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from poise._core.call import CallId
    from poise._core.worker import WorkerId

_WAIT_WEIGHT: Final = 0.05
"""Of the newest sample in the moving average of waiting times."""


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
        jitter: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.size = size
        self.slots = slots
        self.kill_after = kill_after
        self.poison_after = poison_after
        self.counters = Counters()
        self.pace = Pace()
        self.is_closed = False
        """Nothing more is accepted."""
        self._refuses = False
        """What has not begun is refused instead of waiting, and nothing is tried again."""
        self._fleet = Fleet(slots, heals=heals, jitter=jitter)
        self._workers = self._fleet.workers
        """Invariant: as many are not RETIRING as `size` asks for, while healing."""
        self._waiting = Waiting(backlog)
        self._placement = Placement(slots)
        self._deadlines = Deadlines()
        """Invariant: the calls with a deadline whose caller waits; not a lease that is granted."""
        self._overruns = Deadlines()
        """Calls that expired on a worker and are still there, by when that worker is to be killed."""
        self._wait_time: float | None = None
        self._sends: dict[WorkerId, list[CallRecord]] = {}
        """Granted in the current step. Empty between steps."""
        self._recalls: list[Recall] = []
        """Decided in the current step, to go out after what it sends. Empty between steps."""

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
        worker = self._worker_for(call, now)
        if worker is None and not self._waiting.admit(call, may_park=may_park):
            self.counters.rejected += 1
            raise Overloaded(len(self._waiting.backlog), int(self._waiting.limit), self.retry_after)
        self.counters.submitted += 1
        if call.deadline != math.inf:
            self._deadlines.add(call, call.deadline)
        effects: list[Effect] = []
        if worker is not None:
            self._grant(call, worker, now)
        elif call.bound_for is not None:
            self._placement.update(call.bound_for)
        elif self._first() is call:  # else the first one could not be placed before, and cannot now
            self._place(now, effects)
        return self._flush(effects)

    def cancel(self, call: CallRecord, now: float) -> list[Effect]:
        """The caller is gone. A call that waits is dropped; one on a worker keeps its slot until that answers."""
        effects: list[Effect] = []
        if call.state is CallState.DONE or call.state is CallState.ABANDONED:
            return effects
        self.counters.cancelled += 1
        if call.is_lease and (worker := call.worker) is not None:
            self._end_lease(worker, call, "released", effects)
            self._advance(worker, now, effects)
        else:
            self._leave(call, effects)
        self._place(now, effects)
        return self._flush(effects)

    def release(self, lease: CallRecord, now: float) -> list[Effect]:
        """The holder gives its worker back. Its calls that have not begun are refused; running ones keep their slot."""
        effects: list[Effect] = []
        worker = lease.worker
        if worker is not None and worker.lease is lease:
            self.counters.completed += 1
            self._end_lease(worker, lease, "released", effects)
            self._advance(worker, now, effects)
            self._place(now, effects)
        return self._flush(effects)

    def forgo_retries(self, call: CallRecord) -> None:
        """The caller has seen a part of the result, so that another attempt would repeat it."""
        call.retries = 0

    # ---------------------------------------------------------------- workers

    def finished(self, worker_id: WorkerId, endings: Iterable[Ended], now: float) -> list[Effect]:
        """The worker has answered. Answers for calls that it does not hold are ignored."""
        effects: list[Effect] = []
        worker = self._workers.get(worker_id)
        if worker is None:
            return effects
        has_progressed = False
        for ended in endings:
            has_progressed |= ended.ending is not Ending.NOT_BEGUN
            call = worker.running.pop(ended.call_id, None) or worker.ahead.pop(ended.call_id, None)
            if call is not None:
                self._end_attempt(call, worker, ended, now, effects)
        if has_progressed:
            self._placement.progressed(worker, now)
        self._advance(worker, now, effects)
        self._place(now, effects)
        return self._flush(effects)

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
        """The worker has answered a recall: whatever it gave back has come through `finished` before."""
        effects: list[Effect] = []
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.is_recalling = False
            self._placement.update(worker)
            self._place(now, effects)
        return self._flush(effects)

    def worker_ready(self, worker_id: WorkerId, now: float, *, sends_ahead: bool = False) -> list[Effect]:
        """A worker has started."""
        effects: list[Effect] = []
        worker = self._workers.get(worker_id)
        if worker is None or worker.state is not WorkerState.STARTING:
            return effects  # retired while it started: its Kill is on the way
        self._fleet.step(worker, WorkerEvent.READY, now)
        worker.sends_ahead = sends_ahead
        self._advance(worker, now, effects)
        self._place(now, effects)
        return self._flush(effects)

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
        effects: list[Effect] = []
        worker = self._workers.get(worker_id)
        if worker is None:
            return effects
        if all_in_doubt:
            self.begun(worker_id, tuple(worker.ahead))
        heir = self._fleet.lose(worker, reason, now)
        self.counters.deaths += 1
        self._settle(worker, reason, heir, now, effects)
        if self._fleet.judge(self.size, reason, cause):
            for call in self._waiting.calls(self.members()):
                self._refuse(call, self._fleet.broken_error(), effects)
        self._place(now, effects)
        return self._flush(effects)

    # ---------------------------------------------------------------- size and time

    def open(self, now: float) -> list[Effect]:
        """Ask for the first workers."""
        return self.resize(self.size, now)

    def resize(self, size: int, now: float) -> list[Effect]:
        """Ask for another number of workers. Those over it finish what they hold, the least busy ones first."""
        effects: list[Effect] = []
        self.size = size
        for _ in range(size - len(self.members())):
            self._fleet.add(now)
        for worker in self._fleet.surplus(size):
            self._retire(worker, now, effects)
        self._start_due(now, effects)
        self._place(now, effects)
        return self._flush(effects)

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: expire calls, kill what overran, start what is due, ask back what is stuck."""
        effects: list[Effect] = []
        for call in self._deadlines.pop_due(now):
            self._expire(call, effects)
        for call in self._overruns.pop_due(now):
            self._kill_for(call, effects)
        self._start_due(now, effects)
        self._recall_overdue(now)
        self._place(now, effects)
        return self._flush(effects)

    def next_tick(self) -> float:
        """When `tick` is due next, `math.inf` if nothing waits for time to pass."""
        return min(self._deadlines.next(), self._overruns.next(), self._fleet.next_start(), self._next_overdue())

    def close(self, now: float, *, reject_waiting: bool) -> list[Effect]:
        """Accept nothing more; if so told refuse what has not begun, else let it finish."""
        effects: list[Effect] = []
        self.is_closed = True
        if reject_waiting:
            self._refuse_waiting(effects)
            for worker in self._workers.values():
                self._recall(worker, worker.ahead.values())
            self._place(now, effects)
        return self._flush(effects)

    def stop(self, now: float) -> list[Effect]:
        """Give up every worker; what is still on them ends as lost."""
        effects: list[Effect] = []
        self.is_closed = True
        self._fleet.heals = False
        self._refuse_waiting(effects)
        for worker in list(self._workers.values()):
            if worker.state is not WorkerState.PENDING:
                effects.append(Kill(worker.id, "the pool was closed"))
            self._fleet.step(worker, WorkerEvent.STOP, now)
            for call in worker.take_calls():  # any of them may have begun: nobody asks the worker any more
                if call.state is CallState.ABANDONED:
                    self._end_abandoned(call)
                else:
                    self._finish(call, WorkerLost(worker.id, "the pool was closed"), effects)
            self._settle(worker, "the pool was closed", None, now, effects)
        return effects

    # ---------------------------------------------------------------- looking

    def members(self) -> list[WorkerRecord]:
        """The workers that count towards the size: all but those that retire."""
        return self._fleet.members()

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
        return max(0.01, len(self._waiting.backlog) / 10 * service_time / slots)

    def stats(self, now: float) -> Stats:
        """A snapshot."""
        records = list(self._workers.values())
        workers = tuple(WorkerStats.of(worker, now) for worker in records)
        states = [call.state for w in records for calls in (w.running, w.ahead) for call in calls.values()]
        waiting = self._waiting
        return Stats(
            size=self.size,
            ready=self.ready_workers,
            starting=sum(w.state is WorkerState.PENDING or w.state is WorkerState.STARTING for w in records),
            waiting=len(waiting.backlog) + len(waiting.claims) + sum(w.waiting for w in records),
            parked=len(waiting.parked),
            running=states.count(CallState.RUNNING),
            ahead=states.count(CallState.AHEAD),
            abandoned=states.count(CallState.ABANDONED),
            free_slots=sum(w.free_slots for w in records if w.is_open),
            leased=sum(w.leased for w in workers),
            service_time=self.pace.overall,
            wait_time=self._wait_time,
            workers=workers,
            **self.counters.as_dict(),
        )

    # ---------------------------------------------------------------- granting

    def _first(self) -> CallRecord | None:
        """The call that is next for any worker."""
        return self._waiting.backlog.first() or self._waiting.parked.first()

    def _worker_for(self, call: CallRecord, now: float) -> WorkerRecord | None:
        """The worker that takes this new call at once, or None if it must wait, as others do before it."""
        if call.deadline <= now:
            return None
        if (bound := call.bound_for) is not None:
            if bound.state is WorkerState.GONE:
                raise WorkerLost(bound.id, "it was gone when the call was submitted")
            is_its_turn = bound.is_serving and bound.lease is call.lease and not bound.queue
            return bound if is_its_turn and bound.free_slots > 0 else None
        if self._first() is not None:
            return None
        return self._placement.empty_worker() if call.is_lease else self._any_worker_for(call, now)

    def _any_worker_for(self, call: CallRecord, now: float) -> WorkerRecord | None:
        """A worker with a free slot, else one to which the call can be sent ahead."""
        return self._placement.free_worker() or self._placement.roomy_worker(call, self.pace, now)

    def _place(self, now: float, effects: list[Effect]) -> None:
        """Give waiting calls to workers for as long as the next one in the order can be given to one."""
        if self._waiting.claims:
            self._move_claims(now, effects)
        while (call := self._first()) is not None:
            if call.deadline <= now:
                self._expire(call, effects)
                continue
            if call.needs_whole_worker:
                worker = self._placement.empty_worker()
                if worker is None and self._claim_worker(call):
                    continue
            else:
                worker = self._any_worker_for(call, now)
            if worker is None:
                return
            self._waiting.take_out(call)
            self._grant(call, worker, now)
        self._recall_for_idle()

    def _grant(self, call: CallRecord, worker: WorkerRecord, now: float) -> None:
        """Record that the worker holds the call, and have it sent."""
        call.worker = worker
        if call.is_lease:
            call.step(CallEvent.GRANT)
            worker.lease = call
            self._deadlines.forget(call)  # its timeout was for getting the worker
        elif worker.free_slots > 0:
            call.step(CallEvent.GRANT)
            if not worker.running:
                self._placement.progressed(worker, now)
            worker.running[call.id] = call
            call.attempts += 1
            if call.needs_whole_worker:
                worker.lease = call
        else:
            call.step(CallEvent.SEND_AHEAD)
            worker.ahead[call.id] = call
        self._note_wait(now - call.since)
        call.since = now
        self._sends.setdefault(worker.id, []).append(call)
        self._placement.update(worker)

    def _note_wait(self, seconds: float) -> None:
        known = self._wait_time
        self._wait_time = seconds if known is None else known + _WAIT_WEIGHT * (seconds - known)

    def _flush(self, effects: list[Effect]) -> list[Effect]:
        """Add what was granted in this step, one `Send` for each worker, and what was recalled."""
        for worker_id, calls in self._sends.items():
            if calls[0].is_lease:
                effects.append(Lease(calls[0], worker_id))
            else:
                effects.append(Send(worker_id, calls))
        if self._sends:
            self._sends = {}
        if self._recalls:
            effects += self._recalls
            self._recalls = []
        return effects

    def _advance(self, worker: WorkerRecord, now: float, effects: list[Effect]) -> None:
        """A worker's calls or state have changed: bring what follows from that up to date, its own calls first."""
        running, ahead = worker.running, worker.ahead
        while ahead and len(running) < worker.slots:
            call = ahead.pop(next(iter(ahead)))
            running[call.id] = call
            call.attempts += not call.is_announced
            if call.state is CallState.AHEAD:
                call.step(CallEvent.BEGIN)
        if worker.is_serving:
            while worker.free_slots > 0 and (bound := worker.queue.first()) is not None:
                self._start_or_expire(bound, worker, now, effects)
            if worker.claim is not None and worker.is_empty:
                self._start_or_expire(worker.claim, worker, now, effects)
            if worker.state is WorkerState.RETIRING and worker.is_empty and worker.lease is None:
                self._fleet.step(worker, WorkerEvent.LOST, now)
                effects.append(Kill(worker.id, "retired"))
                self._placement.forget(worker)
                return
        self._placement.update(worker)

    def _start_or_expire(self, call: CallRecord, worker: WorkerRecord, now: float, effects: list[Effect]) -> None:
        """Grant a call that waited for this worker, unless its time has passed (G6)."""
        if call.deadline <= now:
            self._expire(call, effects)
        else:
            self._take_out(call)
            self._grant(call, worker, now)

    # ---------------------------------------------------------------- claims

    def _claim_worker(self, call: CallRecord) -> bool:
        """Reserve a worker with several slots for a call that needs all of it; it is granted when the worker is empty.

        A worker with one slot needs no claim: the call waits at the head, and the next free worker is an empty one.
        """
        worker = self._placement.least_loaded()
        if self.slots == 1 or worker is None:
            return False
        self._waiting.claim(call, worker)
        self._recall(worker, worker.ahead.values())
        self._placement.update(worker)
        return True

    def _move_claims(self, now: float, effects: list[Effect]) -> None:
        """Let calls that claimed a worker have another that was empty sooner (G4)."""
        for claimed in list(self._waiting.claims.values()):
            worker = self._placement.empty_worker()
            if worker is None:
                return
            assert claimed.claim is not None
            self._start_or_expire(claimed.claim, worker, now, effects)

    # ---------------------------------------------------------------- waiting

    def _take_out(self, call: CallRecord) -> None:
        """Take a call out of wherever it waits."""
        claimed = self._waiting.claims.get(call.id)
        self._waiting.take_out(call)
        if claimed is not None:
            self._placement.update(claimed)

    def _put_back(self, call: CallRecord, worker: WorkerRecord, now: float, effects: list[Effect]) -> None:
        """Let a call that this worker held wait again, at its place in the order, if there still is one for it."""
        call.step(CallEvent.RETURN)
        call.worker = None
        call.is_announced = False
        call.since = now
        if self._refuses:
            self._finish(call, _not_run_error(), effects)
        elif call.lease is not None and call.lease.state is CallState.DONE:
            self._finish(call, LeaseExpired(worker.id, "released"), effects)
        elif self._fleet.broken is not None:
            self._finish(call, self._fleet.broken_error(), effects)
        else:
            self._waiting.put_back(call)

    def _may_retry(self, call: CallRecord) -> bool:
        """Whether a call that may have begun is given another attempt (G2)."""
        if call.retries <= 0 or self._refuses or self._fleet.broken is not None:
            return False
        return call.lease is None or call.lease.state is not CallState.DONE

    def _retry(self, call: CallRecord, worker: WorkerRecord, now: float, effects: list[Effect]) -> None:
        """Let a call that may have begun wait for another attempt."""
        call.retries -= 1
        self.counters.retried += 1
        self._put_back(call, worker, now, effects)

    # ---------------------------------------------------------------- endings

    def _end_attempt(
        self, call: CallRecord, worker: WorkerRecord, ended: Ended, now: float, effects: list[Effect]
    ) -> None:
        """One attempt has ended by the worker's own word."""
        if worker.lease is call:
            worker.lease = None  # a suspect that ran alone
        ending = ended.ending
        if ending is Ending.NOT_BEGUN:
            call.attempts -= call.may_have_begun
        else:
            call.attempts += not call.may_have_begun  # it began and ended between two answers
            worker.finished += 1
            self.pace.record(call.function, ended.service_time)
        if call.state is CallState.ABANDONED:
            self._end_abandoned(call)
        elif ending is Ending.NOT_BEGUN:
            self._put_back(call, worker, now, effects)
        elif ending is Ending.RETRYABLE and self._may_retry(call):
            self._retry(call, worker, now, effects)
        else:
            self._end(call)
            self.counters.completed += 1
            self.counters.failed += ending is not Ending.ANSWERED
            effects.append(Resolve(call, ended.outcome))

    def _settle(
        self, worker: WorkerRecord, reason: str, heir: WorkerRecord | None, now: float, effects: list[Effect]
    ) -> None:
        """A worker is gone: end or move everything that it held or that waited for it."""
        held = worker.take_calls()
        self._waiting.drop_claim(worker)
        if worker.lease is not None and worker.lease.is_lease:
            self.counters.lost += 1
            worker.lease.deaths += 1
            self._end_lease(worker, worker.lease, "lost", effects)
        worker.lease = None
        for call in held:
            self._settle_held(call, worker, reason, now, effects)
        for call in list(worker.pinned_queue):
            worker.pinned_queue.discard(call)
            if heir is None:
                self._finish(call, WorkerLost(worker.id, reason), effects)
            else:
                call.bound_for = heir
                heir.pinned_queue.add(call)
        self._placement.forget(worker)

    def _settle_held(
        self, call: CallRecord, worker: WorkerRecord, reason: str, now: float, effects: list[Effect]
    ) -> None:
        """End or move one call that was on a worker when that died."""
        if call.state is CallState.ABANDONED:
            self._end_abandoned(call)
            return
        if not call.may_have_begun:  # so it was sent ahead, and is bound for no worker
            self._put_back(call, worker, now, effects)
            return
        call.deaths += 1
        if call.bound_for is None and call.deaths < self.poison_after and self._may_retry(call):
            self._retry(call, worker, now, effects)
        elif call.deaths > 1 or call.deaths >= self.poison_after:
            self._finish(call, PoisonCall(worker.id, reason, call.deaths, call.name), effects)
        else:
            self._finish(call, WorkerLost(worker.id, reason), effects)

    def _end(self, call: CallRecord) -> None:
        """The call is over: keep nothing of it, and let it keep nothing of ours."""
        call.step(CallEvent.END)
        call.worker = None
        call.bound_for = None
        self._deadlines.forget(call)

    def _end_abandoned(self, call: CallRecord) -> None:
        """A call whose caller is gone has left its worker."""
        self._end(call)
        self._overruns.forget(call)

    def _finish(self, call: CallRecord, error: PoiseError, effects: list[Effect]) -> None:
        """End a call with an error of the pool's own."""
        self._end(call)
        self.counters.lost += 1
        effects.append(Reject(call, error))

    def _refuse(self, call: CallRecord, error: PoiseError, effects: list[Effect]) -> None:
        """End a call that waits."""
        self._take_out(call)
        self._finish(call, error, effects)

    def _refuse_waiting(self, effects: list[Effect]) -> None:
        """End everything that waits, now and from now on."""
        self._refuses = True
        for call in self._waiting.calls(self._workers.values()):
            self._refuse(call, _not_run_error(), effects)

    def _leave(self, call: CallRecord, effects: list[Effect]) -> None:
        """The caller no longer waits: forget a call that waits, abandon one that a worker holds."""
        if call.worker is None:
            self._take_out(call)
            self._end(call)
        else:
            call.step(CallEvent.ABANDON)
            self._deadlines.forget(call)
            effects.append(Cancel(call.worker.id, call.id))

    def _expire(self, call: CallRecord, effects: list[Effect]) -> None:
        """The deadline has passed: the caller is answered now; a worker that holds the call has `kill_after` more."""
        self.counters.expired += 1
        started = call.worker is not None or call.attempts > 0
        self._leave(call, effects)
        effects.append(Reject(call, DeadlineExceeded(call.timeout, started=started)))
        if call.worker is not None and self.kill_after is not None:
            self._overruns.add(call, call.deadline + self.kill_after)

    def _end_lease(
        self, worker: WorkerRecord, lease: CallRecord, cause: Literal["released", "lost"], effects: list[Effect]
    ) -> None:
        """End the lease on this worker and refuse the calls that still wait under it."""
        for call in list(worker.leased_queue):
            self._refuse(call, LeaseExpired(worker.id, cause), effects)
        worker.lease = None
        lease.step(CallEvent.END)

    # ---------------------------------------------------------------- recalling

    def _recall(self, worker: WorkerRecord, calls: Iterable[CallRecord]) -> bool:
        """Ask for those of the calls that have not begun as far as is known; one recall at a time for each worker."""
        if worker.is_recalling:
            return False
        wanted = [call.id for call in calls if call.state is CallState.AHEAD and not call.is_announced]
        if not wanted:
            return False
        worker.is_recalling = True
        self._placement.update(worker)
        self._recalls.append(Recall(worker.id, wanted))
        return True

    def _recall_for_idle(self) -> None:
        """Nothing waits: a worker with a free slot takes the older half of what another was sent ahead (G4)."""
        while self._placement.wants_recall and (worker := self._placement.stuck_worker()) is not None:
            ahead = list(worker.ahead.values())
            if not self._recall(worker, ahead[: (len(ahead) + 1) // 2]):
                self._placement.not_stuck(worker)

    def _recall_overdue(self, now: float) -> None:
        """Ask back what was sent ahead to a worker that does not get on, for the others to do."""
        while self._next_overdue() <= now and (worker := self._placement.stuck_worker()) is not None:
            if not self._recall(worker, worker.ahead.values()):
                self._placement.not_stuck(worker)

    def _next_overdue(self) -> float:
        return self._placement.next_overdue() if len(self._workers) > 1 else math.inf

    # ---------------------------------------------------------------- starting and ending workers

    def _start_due(self, now: float, effects: list[Effect]) -> None:
        effects += [Start(worker.id) for worker in self._fleet.start_due(now)]

    def _retire(self, worker: WorkerRecord, now: float, effects: list[Effect]) -> None:
        """Take a worker out of the pool: at once if it has not started, else when it has finished what it holds."""
        if worker.state is WorkerState.STARTING:
            effects.append(Kill(worker.id, "retired"))
        self._fleet.step(worker, WorkerEvent.RETIRE, now)
        if worker.state is WorkerState.GONE:
            self._settle(worker, "retired before it had started", None, now, effects)
        else:
            self._waiting.drop_claim(worker)
            self._recall(worker, worker.ahead.values())
            self._advance(worker, now, effects)

    def _kill_for(self, call: CallRecord, effects: list[Effect]) -> None:
        """A call that expired still runs: its worker is stuck."""
        worker = call.worker
        if worker is None or worker.is_killed or call.id not in worker.running:
            return
        worker.is_killed = True
        self._placement.update(worker)
        overrun = f"killed: {call.name} still ran {self.kill_after:g} s after its timeout of {call.timeout:g} s"
        effects.append(Kill(worker.id, overrun))

    # ---------------------------------------------------------------- invariants

    def check_invariants(self) -> None:
        """Check what is stated at the fields; for tests, after every step."""
        assert not self._sends
        assert not self._recalls
        assert not self._fleet.heals or len(self.members()) == self.size
        self._fleet.check_invariants()
        self._waiting.check_invariants()
        self._placement.check_invariants(self._workers.values())
        for worker in self._workers.values():
            worker.check_invariants()
        head, free = self._first(), self._placement.free_worker()
        if head is not None and free is not None:
            raise AssertionError(f"{head} waits beside {free}")  # G4
        self._check_counts()

    def _check_counts(self) -> None:
        held = [call for w in self._workers.values() for calls in (w.running, w.ahead) for call in calls.values()]
        leases = [w.lease for w in self._workers.values() if w.lease is not None and w.lease.is_lease]
        waiting = self._waiting.calls(self._workers.values())
        live = waiting + leases + [call for call in held if call.state is not CallState.ABANDONED]
        assert self.counters.unsettled == len(live), (self.counters, live)
        timed = [call for call in live if call.deadline != math.inf and not (call.is_lease and call.worker)]
        assert len(self._deadlines) == len(timed)


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


def _not_run_error() -> PoolClosed:
    return PoolClosed("the pool was closed before the call could start; it has not run")
