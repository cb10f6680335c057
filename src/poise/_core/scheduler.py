"""The scheduler: one owner of all state. Every method decides, records what it decided, and returns what to do.

Granting and recording are one synchronous step, and only a worker's answer or its death ends a slot. Time is handed in,
in seconds of any steady clock, and so is the randomness of the backoff.
"""

from __future__ import annotations

import enum
import heapq
import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from poise._core.backlog import Backlog, Deadlines
from poise._core.call import CallEvent, CallRecord, CallState
from poise._core.effects import Cancel, Effect, Kill, Lease, Recall, Reject, Resolve, Send, Start
from poise._core.placement import Pace, Placement
from poise._core.stats import Counters, Stats, WorkerStats
from poise._core.worker import WorkerEvent, WorkerRecord, WorkerState
from poise.errors import (
    DeadlineExceeded,
    LeaseExpired,
    Overloaded,
    PoisonCall,
    PoolBroken,
    PoolClosed,
    WorkerLost,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from poise._core.call import CallId
    from poise._core.worker import WorkerId

BACKOFF_FIRST: Final = 0.1
BACKOFF_MOST: Final = 30.0
HEALTHY_AFTER: Final = 10.0
"""Seconds for which a worker must have been ready for its death to count as the first in a row."""
_WAIT_WEIGHT: Final = 0.05


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
        self.limit = math.inf if backlog is None else backlog
        self.kill_after = kill_after
        self.poison_after = poison_after
        self.heals = heals
        """Whether lost workers are replaced."""
        self.counters = Counters()
        self.pace = Pace()
        self.broken: PoolBroken | None = None
        """Why no worker can start. Ends when one does."""
        self.is_closed = False
        """Nothing more is accepted."""
        self._jitter = jitter
        self._backlog = Backlog()
        """Invariant: holds exactly the WAITING calls that are not bound for one worker."""
        self._parked = Backlog()
        """Invariant: empty unless the backlog is full."""
        self._deadlines = Deadlines()
        self._workers: dict[WorkerId, WorkerRecord] = {}
        """Every worker that is not GONE. Invariant: as many are not RETIRING as `size` asks for, while healing."""
        self._placement = Placement()
        self._starts: list[tuple[float, WorkerId]] = []
        self._overruns: list[tuple[float, CallId, CallRecord]] = []
        """Calls that expired on a worker, by when that worker is to be killed."""
        self._next_worker_id: WorkerId = 0
        self.failed_starts = 0
        """In a row, with none that succeeded between them."""
        self.last_failure: str | None = None
        """Why the last of them failed."""
        self._wait_time: float | None = None
        self._sends: dict[WorkerId, list[CallRecord]] = {}
        """Granted in the current step. Empty between steps."""

    # ---------------------------------------------------------------- callers

    def submit(self, call: CallRecord, now: float, *, may_park: bool = False) -> list[Effect]:
        """Accept a call, park it until there is room if it may be, or refuse it.

        Raises:
            PoolClosed: nothing more is accepted.
            PoolBroken: no worker can start.
            Overloaded: the backlog is full and the call may not be parked.
            LeaseExpired: it belongs to a lease that has ended.
        """
        effects: list[Effect] = []
        if self.is_closed:
            raise PoolClosed("the pool is closed and takes no more calls")
        if self.broken is not None:
            raise self.broken_error()
        call.since = now
        if call.bound_for is not None or call.lease is not None:
            self._submit_bound(call, now)
        elif self._can_start_at_once(call, now):
            pass
        elif len(self._backlog) < self.limit:
            self._backlog.add(call)
            self._place(now, effects)
        elif may_park:
            call.state = CallState.PARKED
            self._parked.add(call)
            self._place(now, effects)
        else:
            self.counters.rejected += 1
            raise Overloaded(len(self._backlog), int(self.limit), self.retry_after)
        self.counters.submitted += 1
        if call.deadline != math.inf:
            self._deadlines.add(call)
        return self._flush(effects)

    def cancel(self, call: CallRecord, now: float) -> list[Effect]:
        """The caller is gone. A call that waits is dropped; one on a worker keeps its slot until that answers."""
        effects: list[Effect] = []
        if call.state is CallState.DONE or call.state is CallState.ABANDONED:
            return effects
        self.counters.cancelled += 1
        if call.deadline != math.inf:
            self._deadlines.forget()
        self._leave(call, now, effects)
        return self._flush(effects)

    def release(self, lease: CallRecord, now: float) -> list[Effect]:
        """The holder gives its worker back. Its calls that have not begun are refused; running ones keep their slot."""
        effects: list[Effect] = []
        worker = lease.worker
        if worker is not None and worker.lease is lease:
            self._end_lease(worker, "released", effects)
            self._after_change(worker, now, effects)
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
        self._after_change(worker, now, effects)
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
            self._after_change(worker, now, effects)
            self._place(now, effects)
        return self._flush(effects)

    def worker_ready(self, worker_id: WorkerId, now: float, *, sends_ahead: bool = False) -> list[Effect]:
        """A worker has started."""
        effects: list[Effect] = []
        worker = self._workers.get(worker_id)
        if worker is None or worker.state is not WorkerState.STARTING:
            return effects  # retired while it started: its Kill is on the way
        worker.step(WorkerEvent.READY, now)
        worker.sends_ahead = sends_ahead
        self.failed_starts = 0
        self.broken = None
        self._after_change(worker, now, effects)
        self._place(now, effects)
        return self._flush(effects)

    def worker_lost(
        self, worker_id: WorkerId, reason: str, now: float, *, cause: BaseException | None = None
    ) -> list[Effect]:
        """A worker has died or could not start. Told again of the same worker, it does nothing."""
        effects: list[Effect] = []
        worker = self._workers.pop(worker_id, None)
        if worker is None:
            return effects
        self.counters.deaths += 1
        was_starting = worker.state is WorkerState.STARTING
        was_healthy = not was_starting and now - worker.since >= HEALTHY_AFTER
        was_retiring = worker.state is WorkerState.RETIRING
        worker.step(WorkerEvent.LOST, now)
        self._placement.update(worker)
        heir = None
        if self.heals and not was_retiring:
            heir = self._add_worker(now, failures=0 if was_healthy else worker.failures + 1, is_replacement=True)
        self._settle_calls(worker, reason, heir, now, effects)
        if was_starting:
            self.failed_starts += 1
            self.last_failure = reason
        self._check_broken(reason, cause, now, effects)
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
        active = self.members()
        for _ in range(size - len(active)):
            self._add_worker(now)
        surplus = sorted(active, key=lambda worker: (worker.state, worker.lease is not None, worker.load, -worker.id))
        for worker in surplus[: max(0, len(active) - size)]:
            self._retire(worker, now, effects)
        self._start_due(now, effects)
        self._place(now, effects)
        return self._flush(effects)

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: expire calls, start workers whose backoff is over, ask back what is stuck, kill what overran."""
        effects: list[Effect] = []
        for call in self._deadlines.pop_expired(now):
            self._expire(call, now, effects)
        self._start_due(now, effects)
        while self._overruns and self._overruns[0][0] <= now:
            self._kill_for(heapq.heappop(self._overruns)[2], effects)
        self._recall_overdue(now, effects)
        self._place(now, effects)
        return self._flush(effects)

    def next_tick(self) -> float:
        """When `tick` is due next, `math.inf` if nothing waits for time to pass."""
        times = [self._deadlines.next(), self._next_overdue()]
        times += [queue[0][0] for queue in (self._starts, self._overruns) if queue]
        return min((time for time in times if time is not None), default=math.inf)

    def close(self, now: float, *, reject_waiting: bool) -> list[Effect]:
        """Accept nothing more; reject what waits if so told, else let it finish."""
        effects: list[Effect] = []
        self.is_closed = True
        if reject_waiting:
            for call in self._waiting_calls():
                self._reject(call, PoolClosed("the pool was closed before the call could start; it has not run"), effects)
            self._place(now, effects)
        return self._flush(effects)

    def stop(self, now: float) -> list[Effect]:
        """Give up every worker; what is still on them ends as lost."""
        effects = self.close(now, reject_waiting=True)
        self.heals = False
        for worker_id in list(self._workers):
            effects += self.worker_lost(worker_id, "the pool was closed", now)
            effects.append(Kill(worker_id, "the pool was closed"))
        return effects

    # ---------------------------------------------------------------- looking

    def members(self) -> list[WorkerRecord]:
        """The workers that count towards the size: all but those that retire."""
        return [worker for worker in self._workers.values() if worker.state is not WorkerState.RETIRING]

    def is_starting(self, worker_id: WorkerId) -> bool:
        """Whether this worker is wanted and has not started yet."""
        worker = self._workers.get(worker_id)
        return worker is not None and worker.state is WorkerState.STARTING

    @property
    def ready_workers(self) -> int:
        """How many workers have started."""
        return sum(worker.state is WorkerState.READY for worker in self._workers.values())

    @property
    def is_idle(self) -> bool:
        """Whether every accepted call has had its outcome and no lease is held."""
        return (
            not self._backlog
            and not self._parked
            and all(
                (worker.lease is None or not worker.lease.is_lease)
                and not worker.claim
                and not worker.pinned_queue
                and not worker.leased_queue
                and all(
                    call.state is CallState.ABANDONED
                    for held in (worker.running, worker.ahead)
                    for call in held.values()
                )
                for worker in self._workers.values()
            )
        )

    @property
    def retry_after(self) -> float:
        """Seconds in which the backlog shrinks by a tenth at the recent pace, and at least 10 ms."""
        slots = max(1, self.ready_workers * self.slots)
        service_time = 0.1 if self.pace.overall is None else self.pace.overall
        return max(0.01, len(self._backlog) / 10 * service_time / slots)

    def stats(self, now: float) -> Stats:
        """A snapshot."""
        workers = tuple(
            WorkerStats(
                id=worker.id,
                state=worker.state.name.lower(),
                running=len(worker.running),
                ahead=len(worker.ahead),
                slots=worker.slots,
                leased=worker.lease is not None and worker.lease.is_lease,
                finished=worker.finished,
                age=max(0.0, now - worker.since),
            )
            for worker in self._workers.values()
        )
        held = [call for w in self._workers.values() for calls in (w.running, w.ahead) for call in calls.values()]
        states = [call.state for call in held]
        counters = {name: getattr(self.counters, name) for name in Counters.__slots__}
        return Stats(
            size=self.size,
            ready=self.ready_workers,
            starting=sum(w.state in (WorkerState.PENDING, WorkerState.STARTING) for w in self._workers.values()),
            waiting=len(self._waiting_calls()) - len(self._parked),
            parked=len(self._parked),
            running=states.count(CallState.RUNNING),
            ahead=states.count(CallState.AHEAD),
            abandoned=states.count(CallState.ABANDONED),
            free_slots=sum(w.free_slots for w in self._workers.values() if w.is_open),
            leased=sum(w.leased for w in workers),
            service_time=self.pace.overall,
            wait_time=self._wait_time,
            workers=workers,
            **counters,
        )

    # ---------------------------------------------------------------- granting

    def _can_start_at_once(self, call: CallRecord, now: float) -> bool:
        """Give the call to a worker without going through the backlog, if nobody waits before it."""
        if self._backlog or self._parked or call.is_lease:
            return False
        worker = self._placement.free_worker() or self._placement.roomy_worker(call, self.pace, now)
        if worker is None:
            return False
        self._grant(call, worker, now)
        return True

    def _place(self, now: float, effects: list[Effect]) -> None:
        """Give waiting calls to workers for as long as the next one in the order can be given to one."""
        placement = self._placement
        while (call := self._backlog.first() or self._parked.first()) is not None:
            if call.needs_whole_worker:
                worker = placement.empty_worker()
                if worker is None:
                    if not self._claim_worker(call, effects):
                        return
                    continue
            else:
                worker = placement.free_worker() or placement.roomy_worker(call, self.pace, now)
                if worker is None:
                    return
            self._unqueue(call)
            self._grant(call, worker, now)
        self._recall_for_idle(effects)

    def _grant(self, call: CallRecord, worker: WorkerRecord, now: float) -> None:
        """Record that the worker holds the call, and have it sent."""
        call.worker = worker
        call.bound_for = None
        if call.is_lease:
            call.step(CallEvent.GRANT)
            worker.lease = call
            if call.deadline != math.inf:
                call.deadline = math.inf  # its timeout was for getting the worker
                self._deadlines.forget()
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
        """Add what was granted in this step, one `Send` for each worker."""
        for worker_id, calls in self._sends.items():
            if calls[0].is_lease:
                effects.append(Lease(calls[0], worker_id))
            else:
                effects.append(Send(worker_id, calls))
        if self._sends:
            self._sends = {}
        return effects

    def _after_change(self, worker: WorkerRecord, now: float, effects: list[Effect]) -> None:
        """A worker's calls or state have changed: bring what follows from that up to date, its own calls first."""
        running = worker.running
        while worker.ahead and len(running) < worker.slots:
            call = worker.ahead.pop(next(iter(worker.ahead)))
            running[call.id] = call
            call.attempts += not call.is_announced
            if call.state is CallState.AHEAD:
                call.step(CallEvent.BEGIN)
        if worker.state is WorkerState.READY or worker.state is WorkerState.RETIRING:
            queue = worker.pinned_queue if worker.lease is None else worker.leased_queue
            while worker.free_slots > 0 and not worker.is_killed and (call := queue.first()) is not None:
                queue.discard(call)
                self._grant(call, worker, now)
            if worker.claim is not None and worker.is_empty and not worker.is_killed:
                claim, worker.claim = worker.claim, None
                self._grant(claim, worker, now)
            if worker.state is WorkerState.RETIRING and worker.is_empty and worker.lease is None:
                worker.step(WorkerEvent.LOST, now)
                del self._workers[worker.id]
                effects.append(Kill(worker.id, "retired"))
        self._placement.update(worker)

    def _claim_worker(self, call: CallRecord, effects: list[Effect]) -> bool:
        """Reserve a worker with several slots for a call that needs all of it; it is granted when the worker is empty.

        A worker with one slot needs no claim: the call waits at the head, and the next free worker is an empty one.
        """
        if self.slots == 1:
            return False
        open_workers = [worker for worker in self._workers.values() if worker.is_open]
        if not open_workers:
            return False
        worker = min(open_workers, key=lambda worker: worker.load)
        self._unqueue(call)
        call.bound_for = worker
        worker.claim = call
        self._recall(worker, list(worker.ahead.values()), effects)
        self._placement.update(worker)
        return True

    # ---------------------------------------------------------------- waiting

    def _submit_bound(self, call: CallRecord, now: float) -> None:
        """Queue a call for its one worker."""
        if call.lease is not None:
            call.bound_for = call.lease.worker
        worker = call.bound_for
        if worker is None or (call.lease is not None and worker.lease is not call.lease):
            is_lost = worker is not None and worker.state is WorkerState.GONE
            raise LeaseExpired(-1 if worker is None else worker.id, "lost" if is_lost else "released")
        queue = worker.pinned_queue if call.lease is None else worker.leased_queue
        if len(queue) >= self.limit and worker.free_slots == 0:
            self.counters.rejected += 1
            raise Overloaded(len(queue), int(self.limit), self.retry_after)
        queue.add(call)
        self._after_change(worker, now, [])

    def _unqueue(self, call: CallRecord) -> None:
        """Take a call out of wherever it waits, and admit who was waiting for its room."""
        worker = call.bound_for
        if call.state is CallState.PARKED:
            self._parked.discard(call)
            call.step(CallEvent.ADMIT)
        elif worker is not None:
            if worker.claim is call:
                worker.claim = None
                self._placement.update(worker)
            else:
                (worker.pinned_queue if call.lease is None else worker.leased_queue).discard(call)
            call.bound_for = None
        else:
            self._backlog.discard(call)
        while len(self._backlog) < self.limit and (parked := self._parked.first()) is not None:
            self._parked.discard(parked)
            parked.step(CallEvent.ADMIT)
            self._backlog.add(parked)

    def _requeue(self, call: CallRecord, worker: WorkerRecord, now: float) -> None:
        """Put a call that will get another attempt back to its place in the order."""
        call.step(CallEvent.RETURN)
        call.worker = None
        call.is_announced = False
        call.since = now
        if call.lease is not None and worker.lease is call.lease:
            call.bound_for = worker
            worker.leased_queue.add(call)
        else:
            self._backlog.add(call)

    def _waiting_calls(self) -> list[CallRecord]:
        """Every call that has not been given to a worker."""
        waiting = [*self._backlog, *self._parked]
        for worker in self._workers.values():
            waiting += [*worker.pinned_queue, *worker.leased_queue]
            if worker.claim is not None:
                waiting.append(worker.claim)
        return waiting

    # ---------------------------------------------------------------- endings

    def _end_attempt(
        self, call: CallRecord, worker: WorkerRecord, ended: Ended, now: float, effects: list[Effect]
    ) -> None:
        """One attempt has ended by the worker's own word."""
        if worker.lease is call:
            worker.lease = None  # a suspect that ran alone
        ending = ended.ending
        if ending is not Ending.NOT_BEGUN:
            worker.finished += 1
            self.pace.record(call.function, ended.service_time)
        if call.state is CallState.ABANDONED:
            call.step(CallEvent.END)
            call.worker = None
        elif ending is Ending.NOT_BEGUN:
            call.attempts -= call.may_have_begun
            self._requeue(call, worker, now)
        elif ending is Ending.RETRYABLE and call.retries > 0:
            call.retries -= 1
            self.counters.retried += 1
            self._requeue(call, worker, now)
        else:
            call.step(CallEvent.END)
            call.worker = None
            if call.deadline != math.inf:
                self._deadlines.forget()
            self.counters.completed += 1
            self.counters.failed += ending is not Ending.ANSWERED
            effects.append(Resolve(call, ended.outcome))

    def _settle_calls(
        self, worker: WorkerRecord, reason: str, heir: WorkerRecord | None, now: float, effects: list[Effect]
    ) -> None:
        """A worker is gone: end or move everything that it held or that waited for it."""
        held = [*worker.running.values(), *worker.ahead.values()]
        worker.running.clear()
        worker.ahead.clear()
        lease = worker.lease
        if worker.claim is not None:
            call, worker.claim = worker.claim, None
            call.bound_for = None
            self._backlog.add(call)
        if lease is not None and lease.is_lease:
            self._end_lease(worker, "lost", effects)
        worker.lease = None
        for call in held:
            self._settle_call(call, worker, reason, now, effects)
        for call in list(worker.pinned_queue):
            worker.pinned_queue.discard(call)
            if heir is None:
                call.bound_for = None
                self._finish(call, effects, WorkerLost(worker.id, reason))
            else:
                call.bound_for = heir
                heir.pinned_queue.add(call)

    def _settle_call(
        self,
        call: CallRecord,
        worker: WorkerRecord,
        reason: str,
        now: float,
        effects: list[Effect],
    ) -> None:
        """End or move one call that was on a worker when that died."""
        if call.state is CallState.ABANDONED:
            call.step(CallEvent.END)
            call.worker = None
            return
        is_bound_to_lease = call.lease is not None
        if not call.may_have_begun and not is_bound_to_lease:
            self._requeue(call, worker, now)
            return
        call.deaths += call.may_have_begun
        if not is_bound_to_lease and call.retries > 0 and call.deaths < self.poison_after:
            call.retries -= 1
            self.counters.retried += 1
            self._requeue(call, worker, now)
            return
        error: WorkerLost | LeaseExpired
        if not call.may_have_begun:
            error = LeaseExpired(worker.id, "lost")
        elif call.deaths > 1:
            error = PoisonCall(worker.id, reason, call.deaths, call.name)
        else:
            error = WorkerLost(worker.id, reason)
        call.worker = None
        self._finish(call, effects, error)

    def _finish(self, call: CallRecord, effects: list[Effect], error: Any) -> None:
        """End a call with an error of the pool's own."""
        call.step(CallEvent.END)
        if call.deadline != math.inf:
            self._deadlines.forget()
        self.counters.lost += 1
        effects.append(Reject(call, error))

    def _reject(self, call: CallRecord, error: Any, effects: list[Effect]) -> None:
        """End a call that waits."""
        self._unqueue(call)
        self._finish(call, effects, error)

    def _leave(self, call: CallRecord, now: float, effects: list[Effect]) -> None:
        """The caller no longer waits: forget a call that waits, abandon one that a worker holds."""
        worker = call.worker
        if worker is None:
            self._unqueue(call)
            call.step(CallEvent.END)
            self._place(now, effects)
        elif call.is_lease:
            self._end_lease(worker, "released", effects)
            self._after_change(worker, now, effects)
            self._place(now, effects)
        else:
            call.step(CallEvent.ABANDON)
            effects.append(Cancel(worker.id, call.id))

    def _expire(self, call: CallRecord, now: float, effects: list[Effect]) -> None:
        """The deadline has passed: the caller is answered now; a worker that holds the call has `kill_after` more."""
        self.counters.expired += 1
        started = call.worker is not None or call.attempts > 0
        self._leave(call, now, effects)
        effects.append(Reject(call, DeadlineExceeded(call.timeout, started=started)))
        if call.worker is not None and self.kill_after is not None:
            heapq.heappush(self._overruns, (call.deadline + self.kill_after, call.id, call))

    def _end_lease(self, worker: WorkerRecord, cause: Any, effects: list[Effect]) -> None:
        """End the lease on this worker and refuse the calls that still wait under it."""
        lease = worker.lease
        if lease is None:
            return
        worker.lease = None
        lease.step(CallEvent.END)
        for call in list(worker.leased_queue):
            worker.leased_queue.discard(call)
            call.bound_for = None
            self._finish(call, effects, LeaseExpired(worker.id, cause))

    # ---------------------------------------------------------------- recalling

    def _recall(self, worker: WorkerRecord, calls: Sequence[CallRecord], effects: list[Effect]) -> bool:
        """Ask for those of the calls that have not begun as far as is known; one recall at a time for each worker."""
        wanted = [call.id for call in calls if call.state is CallState.AHEAD and not call.is_announced]
        if not wanted or worker.is_recalling:
            return False
        worker.is_recalling = True
        self._placement.update(worker)
        effects.append(Recall(worker.id, wanted))
        return True

    def _recall_for_idle(self, effects: list[Effect]) -> None:
        """Nothing waits: a worker with a free slot takes the older half of what another was sent ahead (G4)."""
        if self._placement.free_worker() is None:
            return
        for worker in list(self._placement.stuck_workers()):
            ahead = list(worker.ahead.values())
            if self._recall(worker, ahead[: (len(ahead) + 1) // 2], effects):
                return

    def _recall_overdue(self, now: float, effects: list[Effect]) -> None:
        """Ask back what was sent ahead to a worker that does not get on, for the others to do."""
        while (due := self._next_overdue()) is not None and due <= now:
            worker = next(iter(self._placement.stuck_workers()))
            if not self._recall(worker, list(worker.ahead.values()), effects):
                self._placement.progressed(worker, now)  # nothing left to ask for: look again later

    def _next_overdue(self) -> float | None:
        return self._placement.next_overdue() if len(self._workers) > 1 else None

    # ---------------------------------------------------------------- healing

    def _add_worker(self, now: float, *, failures: int = 0, is_replacement: bool = False) -> WorkerRecord:
        """Record a worker that is wanted, to be started when its backoff has passed."""
        delay = 0.0
        if is_replacement:
            delay = min(BACKOFF_MOST, BACKOFF_FIRST * 2.0 ** min(20, max(0, failures - 1))) * self._jitter()
        worker = WorkerRecord(self._next_worker_id, self.slots, now + delay, failures)
        self._next_worker_id += 1
        self._workers[worker.id] = worker
        heapq.heappush(self._starts, (worker.start_at, worker.id))
        return worker

    def _start_due(self, now: float, effects: list[Effect]) -> None:
        while self._starts and self._starts[0][0] <= now:
            worker = self._workers.get(heapq.heappop(self._starts)[1])
            if worker is not None:
                worker.step(WorkerEvent.START, now)
                effects.append(Start(worker.id))

    def _retire(self, worker: WorkerRecord, now: float, effects: list[Effect]) -> None:
        """Take a worker out of the pool: at once if it has not started, else when it has finished what it holds."""
        was_starting = worker.state is WorkerState.STARTING
        worker.step(WorkerEvent.RETIRE, now)
        if worker.state is WorkerState.GONE:
            del self._workers[worker.id]
            if was_starting:
                effects.append(Kill(worker.id, "retired"))
            self._settle_calls(worker, "retired before it had started", None, now, effects)
            return
        self._recall(worker, list(worker.ahead.values()), effects)
        if worker.claim is not None:
            call, worker.claim = worker.claim, None
            call.bound_for = None
            self._backlog.add(call)
        self._after_change(worker, now, effects)

    def _check_broken(
        self, reason: str, cause: BaseException | None, now: float, effects: list[Effect]
    ) -> None:
        """Decide whether any worker can still be hoped for, and if not, fail everything that waits (G8)."""
        if any(worker.state in (WorkerState.READY, WorkerState.RETIRING) for worker in self._workers.values()):
            return
        gave_up = self.heals and self.failed_starts >= max(3, self.size)
        died_out = not self.heals and not self._workers
        if gave_up or died_out:
            self.broken = PoolBroken(reason, self.failed_starts)
            self.broken.__cause__ = cause
            for call in self._waiting_calls():
                self._reject(call, self.broken_error(), effects)

    def broken_error(self) -> PoolBroken:
        """A new error for each caller, so that none shares a traceback."""
        assert self.broken is not None
        error = PoolBroken(self.broken.reason, self.broken.failures)
        error.__cause__ = self.broken.__cause__
        return error

    def _kill_for(self, call: CallRecord, effects: list[Effect]) -> None:
        """A call that expired still runs: its worker is stuck."""
        worker = call.worker
        if worker is None or worker.is_killed or call.id not in worker.running:
            return
        worker.is_killed = True
        self._placement.update(worker)
        self._recall(worker, list(worker.ahead.values()), effects)
        overrun = f"killed: {call.name} still ran {self.kill_after:g} s after its timeout of {call.timeout:g} s"
        effects.append(Kill(worker.id, overrun))

    # ---------------------------------------------------------------- invariants

    def check_invariants(self) -> None:
        """Check what is stated at the fields; for tests, after every step."""
        assert not self._sends
        assert not self._parked or len(self._backlog) >= self.limit
        if self.heals:
            assert len(self.members()) == self.size
        for call in self._backlog:
            assert call.state is CallState.WAITING, call
            assert call.worker is None, call
            assert call.bound_for is None, call
        assert all(call.state is CallState.PARKED for call in self._parked)
        for worker in self._workers.values():
            self._check_worker(worker)
        if not self._backlog and not self._parked:
            return
        head = self._backlog.first() or self._parked.first()
        assert head is not None
        free = self._placement.free_worker()
        assert free is None or (head.needs_whole_worker and free.running), f"{head} waits beside idle {free}"  # G4

    def _check_worker(self, worker: WorkerRecord) -> None:
        assert worker.state is not WorkerState.GONE, worker
        assert len(worker.running) <= worker.slots, worker  # G3
        assert not worker.ahead or len(worker.running) == worker.slots, worker
        for call in worker.running.values():
            assert call.worker is worker, call
            assert call.state in (CallState.RUNNING, CallState.ABANDONED), call
        for call in worker.ahead.values():
            assert call.worker is worker, call
            assert call.state in (CallState.AHEAD, CallState.ABANDONED), call
        if worker.lease is not None and worker.lease.is_lease:
            assert worker.lease.state is CallState.RUNNING, worker.lease
            held = (*worker.running.values(), *worker.ahead.values())
            assert all(call.lease is worker.lease or call.state is CallState.ABANDONED for call in held), worker
        for call in (*worker.pinned_queue, *worker.leased_queue):
            assert call.state is CallState.WAITING, call
            assert call.bound_for is worker, call
