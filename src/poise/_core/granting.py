"""Which call gets which slot, and which is asked back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from poise._core.effects import Lease, Withdraw
from poise._core.pace import Pace
from poise._core.states import CallEvent, CallState, WorkerState
from poise.errors import WorkerLost

if TYPE_CHECKING:
    from poise._core.calls import CallRecord
    from poise._core.effects import Outbox
    from poise._core.outcomes import Outcomes
    from poise._core.placement import Placement
    from poise._core.queues import Waiting
    from poise._core.workers import WorkerRecord

_WAIT_WEIGHT: Final = 0.05
"""Of the newest sample in the moving average of waiting times."""


class Granting:
    """Brings waiting calls and workers together. Whoever grants, records, in the same step."""

    __slots__ = (
        "_backlog",
        "_outbox",
        "_outcomes",
        "_parked",
        "_placement",
        "_slots",
        "_waiting",
        "_wary",
        "pace",
        "wait_time",
    )

    def __init__(self, slots: int, waiting: Waiting, placement: Placement, outcomes: Outcomes, outbox: Outbox) -> None:
        self.pace = Pace()
        self.wait_time: float | None = None
        """Moving average of the time that a call waits for its slot, in seconds."""
        self._slots = slots
        self._waiting = waiting
        self._backlog = waiting.backlog
        self._parked = waiting.parked
        self._wary = waiting.wary
        self._placement = placement
        self._outcomes = outcomes
        self._outbox = outbox

    # ---------------------------------------------------------------- from the order

    def first(self) -> CallRecord | None:
        """The call that is next for any worker."""
        return self._backlog.first() or self._parked.first()

    def worker_for(self, call: CallRecord, now: float) -> WorkerRecord | None:
        """The worker that takes this new call at once, or None if it must wait, as others do before it.

        Raises:
            WorkerLost: the one worker that it is bound for is gone.
        """
        if call.deadline <= now:
            return None
        if (bound := call.bound_for) is not None:
            if bound.state is WorkerState.GONE:
                raise WorkerLost(bound.id, "it was gone when the call was submitted", started=False)
            is_its_turn = bound.is_serving and bound.lease is call.lease and not bound.queue
            return bound if is_its_turn and bound.free_slots > 0 else None
        if self.first() is not None:
            return None
        return self._placement.empty_worker() if call.is_lease else self._any_worker_for(call, now)

    def _any_worker_for(self, call: CallRecord, now: float) -> WorkerRecord | None:
        """A worker with a free slot, else one to which the call can be sent ahead.

        While a wary call before it waits for a free worker none is sent ahead, because the workers would never be free.
        """
        placement = self._placement
        worker = placement.free_worker()
        if worker is not None or (self._wary.calls and any(wary.precedes(call) for wary in self._wary.heads())):
            return worker
        return placement.roomy_worker(call, self.pace, now, len(self._backlog))

    def place(self, now: float) -> None:
        """Give waiting calls to workers for as long as the next one in the order can be given to one."""
        if self._waiting.claims:
            self._move_claims(now)
        while True:
            if self._wary.calls:
                self._place_wary(now)
            if (call := self.first()) is None:
                break
            if call.deadline <= now:
                self._outcomes.expire(call)
                continue
            if call.needs_whole_worker:
                worker = self._placement.empty_worker()
                if worker is None and self._claim_worker(call, now):
                    continue
            else:
                worker = self._any_worker_for(call, now)
            if worker is None:
                return
            self._waiting.take_out(call)
            self.grant(call, worker, now)
        self._recall_for_idle(now)

    def next_wary(self) -> tuple[CallRecord, WorkerRecord] | None:
        """The first wary call whose turn it is and for which there is a worker, and that worker."""
        head = self.first()
        best: tuple[CallRecord, WorkerRecord] | None = None
        for call in self._wary.heads():
            is_before_others = (head is None or call.precedes(head)) and (best is None or call.precedes(best[0]))
            if is_before_others and (worker := self._placement.other_worker(call)) is not None:
                best = call, worker
        return best

    def _place_wary(self, now: float) -> None:
        while (placed := self.next_wary()) is not None:
            self._grant_in_time(*placed, now)

    def grant(self, call: CallRecord, worker: WorkerRecord, now: float) -> None:
        """Record that the worker holds the call, and have it sent."""
        call.worker = worker
        if call.is_lease:
            call.step(CallEvent.GRANT)
            worker.lease = call
            self._outcomes.deadlines.forget(call)  # its timeout was for getting the worker
            self._outbox.add(Lease(call, worker.id))
        else:
            self._give_slot(call, worker, now)
            self._outbox.send(worker.id, call)
        waited = now - call.since
        known = self.wait_time
        self.wait_time = waited if known is None else known + _WAIT_WEIGHT * (waited - known)
        call.since = now
        self._placement.update(worker)

    def _give_slot(self, call: CallRecord, worker: WorkerRecord, now: float) -> None:
        running = worker.running
        if len(running) == worker.slots:
            call.step(CallEvent.SEND_AHEAD)
            if not worker.ahead:
                worker.is_patient = self.pace.is_long(call.function)
            worker.ahead[call.id] = call
            return
        call.step(CallEvent.GRANT)
        if not running:
            self._placement.progressed(worker, now)
        running[call.id] = call
        call.attempts += 1
        if call.deaths:
            worker.lease = call

    # ---------------------------------------------------------------- from a worker's own queues

    def advance(self, worker: WorkerRecord, now: float) -> None:
        """A worker's calls or state have changed: move up what it holds, then grant what waits for it alone."""
        running, ahead = worker.running, worker.ahead
        while ahead and len(running) < worker.slots:
            call = ahead.pop(next(iter(ahead)))
            running[call.id] = call
            call.attempts += not call.is_announced
            if call.state is CallState.AHEAD:
                call.step(CallEvent.BEGIN)
            else:
                self._outcomes.watch_overrun(call, now)
        if worker.is_serving:
            while len(running) < worker.slots and (bound := worker.queue.first()) is not None:
                self._grant_in_time(bound, worker, now)
            if worker.claim is not None and worker.is_empty:
                self._grant_in_time(worker.claim, worker, now)
        self._placement.update(worker)

    def _grant_in_time(self, call: CallRecord, worker: WorkerRecord, now: float) -> None:
        """Grant a call that waited for a worker, unless its time has passed (G6)."""
        if call.deadline <= now:
            self._outcomes.expire(call)
        else:
            self._outcomes.take_out(call)
            self.grant(call, worker, now)

    # ---------------------------------------------------------------- claims

    def _claim_worker(self, call: CallRecord, now: float) -> bool:
        """Reserve a worker with several slots for a call that needs all of it; it is granted when the worker is empty.

        A worker with one slot needs no claim: the call waits at the head, and the next free worker is an empty one.
        """
        worker = self._placement.least_loaded()
        if self._slots == 1 or worker is None:
            return False
        self._waiting.claim(call, worker)
        self._placement.update(worker)
        self.recall(worker, now)
        return True

    def _move_claims(self, now: float) -> None:
        """Let calls that claimed a worker have another that was empty sooner (G4)."""
        for claimed in list(self._waiting.claims.values()):
            worker = self._placement.empty_worker()
            if worker is None:
                return
            assert claimed.claim is not None
            self._grant_in_time(claimed.claim, worker, now)

    # ---------------------------------------------------------------- recalls

    def recall(self, worker: WorkerRecord, now: float, *, half: bool = False) -> None:
        """Ask for what has not begun as far as is known, or the older half of it; one recall at a time per worker."""
        if worker.recalled:
            return
        wanted = [call.id for call in worker.ahead.values() if call.state is CallState.AHEAD and not call.is_kept]
        if half:
            wanted = wanted[: (len(wanted) + 1) // 2]
        if not wanted:
            self._placement.not_stuck(worker)
            return
        worker.recalled = wanted
        worker.recalled_at = now
        worker.has_grace = False
        self._placement.update(worker)
        self._outbox.recall(worker.id, wanted)

    def _recall_for_idle(self, now: float) -> None:
        """Nothing waits: a worker with a free slot takes the older half of what another was sent ahead (G4)."""
        while self._placement.wants_recall and (worker := self._placement.stuck_worker()) is not None:
            self.recall(worker, now, half=True)

    def recall_overdue(self, now: float) -> None:
        """Ask back what was sent ahead to a worker that does not get on, for the others to do."""
        while (worker := self._placement.overdue_worker(now)) is not None:
            self.recall(worker, now)

    def withdraw_unanswered(self, now: float) -> None:
        """Give a worker that does not answer nothing more until it does, and take from it what has not begun (G4)."""
        while (worker := self._placement.unanswered_worker(now)) is not None:
            worker.is_silent = True
            self._waiting.drop_claim(worker)
            self._placement.update(worker)
            self._outbox.add(Withdraw(worker.id, [*worker.running, *worker.ahead]))
