"""The decision: which call, which worker, now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from poise._core.affinity import KeyedCallRecord
from poise._core.attempts import Attempt
from poise._core.batches import Batches, Batching
from poise._core.calls import CallRecord
from poise._core.effects import Lease
from poise._core.states import AHEAD, BEGIN, GONE, GRANT, SEND_AHEAD, WAITING
from poise.errors import WorkerLost

if TYPE_CHECKING:
    from poise._core.affinity import Affinity
    from poise._core.alarms import Alarms
    from poise._core.effects import Outbox
    from poise._core.outcomes import Outcomes
    from poise._core.pace import Pace
    from poise._core.placement import Placement
    from poise._core.queues import Queues
    from poise._core.recalls import Recalls
    from poise._core.workers import WorkerRecord

_WAIT_WEIGHT: Final = 0.05
"""Of the newest sample in the moving average of waiting times."""


class Granting:
    """Brings waiting calls and workers together. Whoever grants, records, in the same step."""

    __slots__ = (
        "_affinity",
        "_alarms",
        "_batches",
        "_outbox",
        "_outcomes",
        "_pace",
        "_placement",
        "_queues",
        "_recalls",
        "_slots",
        "wait_time",
    )

    def __init__(
        self,
        slots: int,
        queues: Queues,
        placement: Placement,
        alarms: Alarms,
        pace: Pace,
        outcomes: Outcomes,
        recalls: Recalls,
        affinity: Affinity,
        outbox: Outbox,
    ) -> None:
        self.wait_time: float | None = None
        """Moving average of the time that a call waits for its slot, in seconds; the first of a batch stands for it."""
        self._batches = Batches(queues, outcomes, outbox)
        self._slots = slots
        self._queues = queues
        self._placement = placement
        self._alarms = alarms
        self._pace = pace
        self._outcomes = outcomes
        self._recalls = recalls
        self._affinity = affinity
        self._outbox = outbox

    # ---------------------------------------------------------------- from the order

    def worker_for(self, call: CallRecord, now: float) -> WorkerRecord | None:
        """The worker that takes this new call at once, or None if it must wait, as others do before it.

        Raises:
            WorkerLost: the one worker that it is bound for is gone.
        """
        if call.deadline <= now:
            return None
        if (bound := call.bound_for) is not None:
            if bound.state is GONE:
                raise WorkerLost(bound.id, "it was gone when the call was submitted", started=False)
            is_its_turn = bound.is_serving and bound.lease is call.lease and self._queues.first_for(bound) is None
            return bound if is_its_turn and bound.free_slots > 0 else None
        if self._queues.first() is not None:
            return None
        if call.is_lease:
            return self._whole_worker_for(call)
        if (
            type(call) is not CallRecord
            and isinstance(call, KeyedCallRecord)
            and self._affinity.awaited_home(call, now)
            and self._queues.has_room(call)
        ):
            return None
        return self._any_worker_for(call, now)

    def _whole_worker_for(self, call: CallRecord) -> WorkerRecord | None:
        """A worker that holds nothing."""
        home = self._affinity.home(call) if type(call) is not CallRecord and isinstance(call, KeyedCallRecord) else None
        return home if home is not None and home.is_open and home.is_empty else self._placement.empty_worker()

    def _any_worker_for(self, call: CallRecord, now: float) -> WorkerRecord | None:
        """A worker with a free slot, else one to which the call can be sent ahead.

        Those of batched functions are not: the longer they wait, the more begin together. Nor are long ones where
        tenants share: each would be one more for which another tenant's single call waits.
        While a wary call before it waits for a free worker none is sent ahead, because the workers would never be free.
        """
        placement, queues = self._placement, self._queues
        worker = placement.free_worker()
        if type(call) is not CallRecord and isinstance(call, KeyedCallRecord):
            worker = self._affinity.choose(call, worker)
        if worker is not None or (queues.wary.calls and any(wary.precedes(call) for wary in queues.wary.heads())):
            return worker
        if type(call.function) is Batching or (queues.shares.is_used and self._pace.is_long(call.function)):
            return None
        return placement.roomy_worker(self._pace.ahead_limit(call.function), now, queues.bound)

    def place(self, now: float) -> None:
        """Give waiting calls to workers for as long as the next one in the order can be given to one."""
        if self._queues.claims:
            self._move_claims(now)
        while True:
            if self._queues.aside:
                self._place_aside(now)
            if (call := self._queues.first()) is None:
                break
            if call.deadline <= now:
                self._outcomes.expire(call)
                continue
            if call.needs_whole_worker:
                worker = self._whole_worker_for(call)
                if worker is None and self._claim_worker(call, now):
                    continue
            elif type(call) is not CallRecord and isinstance(call, KeyedCallRecord) and self._set_aside(call, now):
                continue
            else:
                worker = self._any_worker_for(call, now)
            if worker is None:
                return
            self._queues.take_out(call)
            self.grant(call, worker, now)
        self._recalls.ask_for_idle(now)

    def next_wary(self) -> tuple[CallRecord, WorkerRecord] | None:
        """The first wary call whose turn it is and for which there is a worker, and that worker."""
        head = self._queues.first()
        best: tuple[CallRecord, WorkerRecord] | None = None
        for call in self._queues.wary.heads():
            is_before_others = (head is None or call.precedes(head)) and (best is None or call.precedes(best[0]))
            if is_before_others and (worker := self._placement.other_worker(call)) is not None:
                best = call, worker
        return best

    def _place_aside(self, now: float) -> None:
        """Give workers to calls that wait for some of them only, as far as it is their turn."""
        while (placed := self.next_wary() or self._affinity.next_homed()) is not None:
            self._grant_in_time(*placed, now)

    def _set_aside(self, call: KeyedCallRecord, now: float) -> bool:
        """Let a call wait for its home, if it had rather, and if there is room for those that wait."""
        has_room = call.state is WAITING and self._queues.depth <= self._queues.limit
        home = self._affinity.awaited_home(call, now) if has_room else None
        if home is not None:
            self._queues.set_aside(call, home, now)
        return home is not None

    def grant(self, call: CallRecord, worker: WorkerRecord, now: float) -> None:
        """Record that the worker holds the call, and have it sent."""
        attempt = call.attempt = Attempt(worker, now)
        if call.is_lease:
            call.step(GRANT)
            worker.lease = call
            self._alarms.expiries.forget(call)  # its timeout was for getting the worker
            self._outbox.add(Lease(call, worker.id))
        else:
            if self._queues.shares.is_used:
                is_contended = len(self._queues.backlog) > 0
                attempt.charged = self._queues.shares.charge(call, self._expected(call), is_contended=is_contended)
            self._give_slot(call, attempt, worker, now)
            if type(call.function) is Batching and (others := self._batches.form(call, worker, now)):
                for other in others:
                    self._note_company(other, worker)
            else:
                self._outbox.send(worker.id, call)
        if type(call) is not CallRecord and isinstance(call, KeyedCallRecord):
            self._affinity.remember(call, worker)
        waited = now - call.waits_since
        known = self.wait_time
        self.wait_time = waited if known is None else known + _WAIT_WEIGHT * (waited - known)
        self._placement.update(worker)

    def _note_company(self, call: CallRecord, worker: WorkerRecord) -> None:
        """The same for one that shares the slot of another: it is its own tenant's, and has a key of its own."""
        if call.attempt is not None and self._queues.shares.is_used:
            call.attempt.charged = self._queues.shares.charge_along(call, self._expected(call))
        if type(call) is not CallRecord and isinstance(call, KeyedCallRecord):
            self._affinity.remember(call, worker)

    def _expected(self, call: CallRecord) -> float | None:
        """How many seconds it will take, as far as is known."""
        known = self._pace.of(call.function)
        return self._pace.overall if known is None else known

    def _give_slot(self, call: CallRecord, attempt: Attempt, worker: WorkerRecord, now: float) -> None:
        running = worker.running
        if len(running) == worker.slots:
            call.step(SEND_AHEAD)
            if not worker.ahead:
                worker.sent_long = self._pace.is_long(call.function)
            worker.keeps_all = False
            worker.ahead[call.id] = call
            return
        call.step(GRANT)
        if not running:
            worker.progress_at = now
        running[call.id] = call
        attempt.may_have_begun = True
        if call.deaths:
            worker.lease = call

    # ---------------------------------------------------------------- from a worker's own queues

    def advance(self, worker: WorkerRecord, now: float) -> None:
        """A worker's calls or state have changed: move up what it holds, then grant what waits for it alone."""
        running, ahead = worker.running, worker.ahead
        while ahead and len(running) < worker.slots:
            call = ahead.pop(next(iter(ahead)))
            running[call.id] = call
            assert call.attempt is not None
            call.attempt.may_have_begun = True
            if call.state is AHEAD:
                call.step(BEGIN)
            else:
                self._outcomes.watch_overrun(call, now)
        if worker.is_serving:
            queues = self._queues
            while queues.bound and len(running) < worker.slots and (bound := queues.first_for(worker)) is not None:
                self._grant_in_time(bound, worker, now)
            if worker.claim is not None and worker.is_empty:
                self._grant_in_time(worker.claim, worker, now)
        self._placement.update(worker)

    def _grant_in_time(self, call: CallRecord, worker: WorkerRecord, now: float) -> None:
        """Grant a call that waited for a worker, unless its time has passed (G6)."""
        if call.deadline <= now:
            self._outcomes.expire(call)
        else:
            self._queues.take_out(call)
            self.grant(call, worker, now)

    # ---------------------------------------------------------------- claims

    def _claim_worker(self, call: CallRecord, now: float) -> bool:
        """Reserve a worker with several slots for a call that needs all of it; it is granted when the worker is empty.

        A worker with one slot needs no claim: the call waits at the head, and the next free worker is an empty one.
        """
        worker = self._placement.least_loaded()
        if self._slots == 1 or worker is None:
            return False
        self._queues.claim(call, worker)
        self._recalls.ask(worker, now)
        return True

    def _move_claims(self, now: float) -> None:
        """Let calls that claimed a worker have another that was empty sooner (G4)."""
        for claimed in list(self._queues.claims.values()):
            worker = self._placement.empty_worker()
            if worker is None:
                return
            assert claimed.claim is not None
            self._grant_in_time(claimed.claim, worker, now)

    def check_invariants(self) -> None:
        """Check that nobody waits beside an idle worker (G4); for tests."""
        head, free = self._queues.first(), self._placement.free_worker()
        assert head is None or free is None, f"{head} waits beside {free}"
        assert self.next_wary() is None
        assert not self._queues.claims or self._placement.empty_worker() is None
