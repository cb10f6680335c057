"""A worker: its record, its slots and what it holds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from poise._core.calls import CHECK_IDS
from poise._core.states import (
    ABANDONED,
    AHEAD,
    JOINT,
    PENDING,
    READY,
    RETIRING,
    RUNNING,
    WORKER_TRANSITIONS,
    Duty,
    Hold,
    IllegalTransitionError,
    WorkerEvent,
    WorkerState,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poise._core.batches import Batch
    from poise._core.calls import CallId, CallRecord
    from poise._core.renewal import Renewal
    from poise._core.vitals import Vitals

WorkerId = int


class WorkerRecord:
    """The pool's record of one actor."""

    __slots__ = (
        "ahead",
        "batches",
        "busy",
        "claim",
        "excused_at",
        "failures",
        "finished",
        "generation",
        "has_failed",
        "has_grace",
        "id",
        "is_far",
        "is_killed",
        "is_quarantined",
        "is_silent",
        "keeps_all",
        "lease",
        "most_ahead",
        "most_calls",
        "progress_at",
        "recalled",
        "recalled_at",
        "renewal",
        "running",
        "sent_long",
        "since",
        "slots",
        "start_at",
        "state",
        "tolerated_until",
        "vitals",
    )

    def __init__(self, worker_id: WorkerId, slots: int, start_at: float, failures: int = 0) -> None:  # noqa: PLR0915 (its fields)
        self.id: WorkerId = worker_id
        self.slots: int = slots
        self.start_at: float = start_at
        """When its start is due."""
        self.failures: int = failures
        """Failed starts and early deaths in a row, of this worker and those that it replaces."""
        self.generation: int = 0
        """By which factory it is made. Changes only while it is PENDING."""
        self.state: WorkerState = PENDING
        self.since: float = start_at
        """When it came into its state."""
        self.most_ahead: int = 0
        """The most calls that its lane takes beyond its slots."""
        self.is_far: bool = False
        """Whether it is on another node than the caller. Does not change once it is ready."""
        self.running: dict[CallId, CallRecord] = {}
        """Holds a slot each, and may have begun. Invariant: never more than `slots` (G3)."""
        self.ahead: dict[CallId, CallRecord] = {}
        """Sent beyond the slots, oldest first. Invariant: empty unless every slot is held."""
        self.batches: dict[CallId, Batch] = {}
        """The batch of each call that is in one. Invariant: one of each batch is in `running`: it holds the slot."""
        self.sent_long: bool = False
        """Whether the first call that it was sent ahead was a long one: if it still has that, it has no other."""
        self.keeps_all: bool = False
        """Whether nothing that it was sent ahead could be asked back: it has begun, or nobody waits for it."""
        self.claim: CallRecord | None = None
        """A call that waits for this worker to be empty. Nothing is granted from the backlog meanwhile."""
        self.lease: CallRecord | None = None
        """Its exclusive holder: a lease, or a suspect that runs alone."""
        self.recalled: Sequence[CallId] = ()
        """What it was asked to give back and has not answered for yet."""
        self.recalled_at: float = start_at
        """When it was asked."""
        self.has_grace: bool = False
        """Whether it was given more time for that."""
        self.is_silent: bool = False
        """Whether it has not answered that in time: it is given nothing more until it does.

        Invariant: only if it was asked.
        """
        self.tolerated_until: float = math.inf
        """When it is to be killed, if it is still silent then and holds nothing."""
        self.is_killed: bool = False
        """Whether its end was asked for: it is given nothing more, and its death will be told."""
        self.progress_at: float = start_at
        """When it last answered, or was last given a first call: how long its sent-ahead calls have been stuck."""
        self.excused_at: float = math.nan
        """The same, if that was set anew because the pool itself looked too late to say that it is stuck."""
        self.has_failed: bool = False
        """Whether its last answer to a caller was an exception: among equally loaded ones it comes last."""
        self.renewal: Renewal | None = None
        """What it is a part of, if it is to be replaced though it lives, or starts in the place of such a one."""
        self.most_calls: float | None = None
        """After how many calls it is recycled, once that was decided."""
        self.vitals: Vitals | None = None
        """What is known of its health, in a pool that looks after it."""
        self.is_quarantined: bool = False
        """Whether it is sick, so that nothing from the backlog is given to it."""
        self.finished: int = 0
        self.busy: float = 0.0
        """Seconds of service that it has reported."""

    def step(self, event: WorkerEvent, now: float) -> None:
        """Move to the next state.

        Raises:
            IllegalTransitionError: the table has no such transition.
        """
        try:
            self.state = WORKER_TRANSITIONS[self.state, event]
        except KeyError:
            raise IllegalTransitionError(f"worker {self.id}: {event.name} while {self.state.name}") from None
        self.since = now

    @property
    def is_spare(self) -> bool:
        """Whether it starts while the one that it is to replace works, so that it does not count towards the size."""
        return (renewal := self.renewal) is not None and renewal.old is not None and renewal.heir is self

    @property
    def free_slots(self) -> int:
        """Calls that it could begin at once."""
        return self.slots - len(self.running)

    @property
    def is_empty(self) -> bool:
        """Whether it holds no call."""
        return not self.running and not self.ahead

    @property
    def is_unused(self) -> bool:
        """Whether it works and holds nothing but a check of it at most."""
        return self.is_open and not self.ahead and all(call_id >= CHECK_IDS for call_id in self.running)

    @property
    def is_idle(self) -> bool:
        """Whether it works and nobody has anything for it to do."""
        return self.is_open and self.is_empty

    @property
    def hold(self) -> Hold:
        """Who has it for himself."""
        if self.lease is not None:
            return Hold.LEASED if self.lease.is_lease else Hold.ALONE
        return Hold.FREE if self.claim is None else Hold.CLAIMED

    @property
    def duty(self) -> Duty:
        """What it has to answer."""
        if self.recalled:
            return Duty.SILENT if self.is_silent else Duty.RECALLED
        return Duty.NONE

    @property
    def is_open(self) -> bool:
        """Whether a call from the backlog may be given to it."""
        is_free = self.claim is None and self.lease is None
        is_there = self.state is READY and not self.is_killed and not self.is_silent
        return is_free and is_there and not self.is_quarantined

    @property
    def is_serving(self) -> bool:
        """Whether it may be given the calls that are bound for it."""
        is_there = self.state is READY or self.state is RETIRING
        return is_there and not self.is_killed and not self.is_silent

    @property
    def is_patient(self) -> bool:
        """Whether what it was sent ahead is one long call."""
        return self.sent_long and bool(self.ahead)

    @property
    def is_useless(self) -> bool:
        """Whether it is silent and holds nothing for which it could be waited."""
        return self.is_silent and self.is_empty and not self.is_killed

    @property
    def held(self) -> list[CallRecord]:
        """Every call that it holds: in the order in which they were sent, but for those that share a slot."""
        shared = [batch.calls[call_id] for call_id, batch in self.batches.items() if call_id not in self.running]
        return [*self.running.values(), *shared, *self.ahead.values()]

    @property
    def begun_calls(self) -> int:
        """How many calls it may run: those that hold a slot, and those that share one."""
        return len(self.running) + sum(call_id not in self.running for call_id in self.batches)

    def runs(self, call: CallRecord) -> bool:
        """Whether this call holds a slot, or shares one."""
        return call.id in self.running or call.id in self.batches

    def begun_functions(self) -> list[str]:
        """The names of the functions that it may have begun and not ended, one for each call."""
        return [call.name for call in self.held if call.attempt is not None and call.attempt.may_have_begun]

    def ask_back(self, call_ids: Sequence[CallId], now: float) -> None:
        """It is asked to give these calls back."""
        self.recalled = call_ids
        self.recalled_at = now
        self.has_grace = False

    def end_recall(self) -> None:
        """It has no recall to answer any more."""
        self.recalled = ()
        self.is_silent = False
        self.tolerated_until = math.inf

    def answered(self, call_id: CallId) -> CallRecord | None:
        """Take away a call that is in a batch: the slot passes to another of that, and is free after the last."""
        batch = self.batches.pop(call_id, None)
        if batch is None:
            return None
        call = batch.calls.pop(call_id)
        if self.running.pop(call_id, None) is not None and batch.calls:
            heir = next(iter(batch.calls.values()))
            self.running[heir.id] = heir
            if self.lease is call:
                self.lease = heir
        return call

    def take_calls(self) -> list[CallRecord]:
        """Take away every call that it holds; which of them were in a batch is still known."""
        held = self.held
        self.running.clear()
        self.ahead.clear()
        return held

    def __repr__(self) -> str:
        """Give the number, the state and what it holds."""
        load = f"running={len(self.running)}/{self.slots} ahead={len(self.ahead)}"
        return f"<worker {self.id} {self.state.name.lower()} {load}>"

    def check_invariants(self) -> None:
        """Check what is stated at the fields; for tests."""
        assert (self.state, self.hold, self.duty) in JOINT, self
        assert self.claim is None or self.lease is None, self
        assert len(self.running) <= self.slots, self  # G3
        assert not self.ahead or len(self.running) == self.slots, self
        self._check_batches()
        assert not self.is_patient or len(self.ahead) == 1, self
        assert not self.is_silent or self.recalled, self
        assert self.is_silent or self.tolerated_until == math.inf, self
        for calls, state in ((self.running, RUNNING), (self.ahead, AHEAD)):
            for call in calls.values():
                assert call.worker is self, call
                assert call.state in (state, ABANDONED), call
        assert self.claim is None or self.is_killed or not self.is_empty, self
        if self.lease is None:
            return
        if self.lease.is_lease:
            assert self.lease.state is RUNNING, self.lease
            assert self.lease.worker is self, self.lease
            assert all(call.lease is self.lease for call in self.held), self
        else:
            batch = self.batches.get(self.lease.id)
            assert self.held == [self.lease] if batch is None else set(self.held) == {*batch.calls.values()}, self

    def _check_batches(self) -> None:
        for call_id, batch in self.batches.items():
            call = batch.calls[call_id]
            assert call.worker is self, call
            assert call.state in (RUNNING, ABANDONED), call
            assert all(self.batches[other] is batch for other in batch.calls), call
            assert sum(other in self.running for other in batch.calls) == 1, call
