"""Calls that are observed: each tells of its own steps, and knows its times.

A pool that is not observed has no such call: which record is made for a call is decided where it is submitted, and
nothing else asks. Where all that anybody wants to hear is how calls end, one that runs once and returns or raises does
no more for it than it must: 1 us of the 14 that the caller's process takes for a call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from poise._answers import NOT_BEGUN, RETURNED
from poise._core.affinity import KeyedCallRecord
from poise._core.calls import CallRecord, TenantCallRecord
from poise._core.states import (
    ABANDON,
    ABANDONED,
    AHEAD,
    BEGIN,
    CALL_TRANSITIONS,
    END,
    GRANT,
    PAUSE,
    RETURN,
    RUNNING,
    SEND_AHEAD,
    CallEvent,
    CallState,
    IllegalTransitionError,
)
from poise.events import CallAdmitted, CallBegun, CallEnded, CallGranted, CallPutBack, CallRefused, CallReleased

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from poise._answers import Answer
    from poise._core.shares import Shares
    from poise.errors import PoiseError
    from poise.events import Event, Outcome

    Count: TypeAlias = Callable[[str, Outcome, int, float, float], object]

CALL_EVENTS: Final = frozenset(
    {CallAdmitted, CallRefused, CallGranted, CallBegun, CallPutBack, CallEnded, CallReleased}
)
"""What such calls tell."""


class Telling:
    """To whom the observed calls of a pool tell."""

    __slots__ = (
        "admitted",
        "begun",
        "count",
        "ended",
        "granted",
        "kinds",
        "pool",
        "put_back",
        "refused",
        "released",
        "tell",
        "time",
        "unsay",
    )

    def __init__(
        self, pool: str, time: Callable[[], float], tell: Callable[[Event], object], unsay: Callable[[Event], object]
    ) -> None:
        self.pool: str = pool
        """What the pool is called."""
        self.time: Callable[[], float] = time
        """The clock from which the scheduler is told the time."""
        self.tell: Callable[[Event], object] = tell
        self.unsay: Callable[[Event], object] = unsay
        """Take back what was told last, in the same step."""
        self.kinds: dict[bool, tuple[type[CallRecord], ...]] = {}
        """Classes of calls that tell this: those that tell of every step, and those that do not."""
        self.listen((), None)

    def listen(self, kinds: Container[type[Event]], count: Count | None) -> None:
        """Somebody listens to these events, and no others are made; and to each end of a call, as figures, at once."""
        self.admitted: bool = CallAdmitted in kinds
        self.refused: bool = CallRefused in kinds
        self.granted: bool = CallGranted in kinds
        self.begun: bool = CallBegun in kinds
        self.put_back: bool = CallPutBack in kinds
        self.ended: bool = CallEnded in kinds
        self.released: bool = CallReleased in kinds
        self.count: Count | None = count

    def calls(self) -> tuple[type[CallRecord], ...]:
        """Classes of calls that tell this: of nobody's, of a tenant's and of those with a key.

        The class knows whom to tell, and not the call, which so is made as fast as any other.
        """
        is_close = self.admitted or self.granted or self.begun
        if is_close not in self.kinds:
            bases = _CLOSELY if is_close else _AT_THE_END
            make: Any = type
            self.kinds[is_close] = tuple(make(base.__name__, (base,), {"telling": self}) for base in bases)
        return self.kinds[is_close]


def observe(shares: Shares, telling: Telling | None) -> None:
    """Let the calls that are submitted from now on tell of their steps; or let them be as any other."""
    kinds = (CallRecord, TenantCallRecord, KeyedCallRecord) if telling is None else telling.calls()
    shares.nobodys_call, shares.tenants_call, shares.keyed_call = kinds


def note_company(calls: Sequence[CallRecord]) -> None:
    """These calls are sent as a batch: each will be answered with its share of the time."""
    if isinstance(calls[0], Observed):
        for call in calls:
            if isinstance(call, Observed):
                call.recall().together = len(calls)


class Past:
    """What is known of a call that has not simply run and answered."""

    __slots__ = ("error", "is_in_doubt", "outcome", "ran", "slot_time", "together", "worker")

    def __init__(self) -> None:
        self.together: int = 1
        """Calls that share its slot, itself among them."""
        self.worker: int | None = None
        """Which it has left last, while it waits again."""
        self.slot_time: float = 0.0
        """Seconds for which it has held a slot in attempts that are over."""
        self.ran: float = 0.0
        """Seconds for which it ran in those."""
        self.is_in_doubt: bool = False
        """Whether the attempt that has just ended may have run, without its worker's word for it."""
        self.outcome: Outcome | None = None
        """How it ends without that."""
        self.error: type[BaseException] | None = None


class Observed(CallRecord):
    """One submission that tells how it ends. Any other so takes no more room, and no more time."""

    telling: Telling
    """The class's."""
    past: Past | None = None
    # Set by each grant, so that no call need have them before. A class of calls that differ otherwise has these slots.
    _worker: int
    """Which it was given to last."""
    _since: float | None
    """Since when it holds its slot there; None if it was sent ahead and has none as far as is known."""
    # Set when that worker has let go of it.
    _ran: float | None
    """Seconds for which it ran there, by the worker's word; None if there is no such word."""
    _outcome: Outcome
    _error: type[BaseException] | None

    def recall(self) -> Past:
        """What is known of it beside: something has befallen it that befalls few."""
        if self.past is None:
            self.past = Past()
        return self.past

    # ---------------------------------------------------------------- what it hears

    def refused(self, error: BaseException) -> None:
        """It was not accepted."""
        telling = self.telling
        if telling.refused:
            telling.tell(CallRefused(telling.time(), telling.pool, self.name, type(error)))

    def answered(self, answer: Answer) -> None:
        """Its worker has ended the attempt."""
        self.attempt = None
        ending, past = answer.ending, self.past
        if ending == NOT_BEGUN:
            self._ran = None
            return
        self.past_attempts += 1
        self._ran = answer.service_time
        if ending == RETURNED:
            self._outcome, self._error = "returned", None
        else:
            self._outcome, self._error = "raised", type(answer.value)
        if past is not None:
            self._ran *= past.together
            past.together = 1

    def end_attempt(self, *, has_begun: bool) -> None:
        """No worker holds it any more."""
        CallRecord.end_attempt(self, has_begun=has_begun)
        self._ran, self.recall().is_in_doubt = None, has_begun

    def ends(self, outcome: Outcome, error: PoiseError | None = None) -> None:
        """It is about to end so, without its worker's word for it."""
        past = self.recall()
        past.outcome, past.error = outcome, None if error is None else type(error)

    def step(self, event: CallEvent) -> None:
        """Move to the next state, and tell of it.

        Raises:
            IllegalTransitionError: the table has no such transition.
        """
        before = self.state
        try:  # as any other call: to have that do it would take 0.1 us
            self.state = CALL_TRANSITIONS[before, event]
        except KeyError:
            raise IllegalTransitionError(f"call {self.id}: {event.name} while {before.name}") from None
        attempt = self.attempt
        if event is END:
            if self.past is None and attempt is None and (before is RUNNING or before is AHEAD):
                self._tell_answer()
            else:
                self._tell_end(before)
        elif event is GRANT or event is SEND_AHEAD:
            assert attempt is not None
            self._worker = attempt.worker.id
            self._since = attempt.granted_at if event is GRANT else None
        elif event is BEGIN:
            self._since = self.telling.time()
        elif event is ABANDON:
            self._tell_abandoned()
        elif event is RETURN or event is PAUSE:
            self._tell_put_back()

    # ---------------------------------------------------------------- what it tells

    def _tell_answer(self) -> None:
        """It has run once, and its worker has said how it ended."""
        telling, since, running = self.telling, self._since, self._ran
        assert running is not None
        now = telling.time()
        slot_time = 0.0 if since is None else now - since
        if telling.ended:
            self._tell(now, self._worker, 1, self._outcome, self._error, slot_time, running)
        elif telling.count is not None:
            total = now - self.submitted_at  # as `_tell` does it; to have that do it would take 0.15 us
            if running > total:
                running = total
            waiting = total - slot_time if slot_time > running else total - running
            telling.count(self.name, self._outcome, 1, waiting if waiting > 0.0 else 0.0, running)

    def _tell_end(self, before: CallState) -> None:
        now, past = self.telling.time(), self.recall()
        worker = past.worker
        if before is RUNNING or before is AHEAD or before is ABANDONED:
            worker = self._worker
            if self.attempt is not None:  # a lease, which keeps it
                self._ran, past.is_in_doubt = None, True
            elif self._ran is not None and past.outcome is None:
                past.outcome, past.error = self._outcome, self._error
            self._leave_slot(now, past)
        if before is ABANDONED:
            self._tell_release(now, past)
            return
        attempts = self.attempts if not self.is_lease else int(worker is not None)
        how = past.outcome or "cancelled", past.error
        self._tell(now, worker, attempts, *how, past.slot_time, past.ran)

    def _tell_abandoned(self) -> None:
        """Its caller was answered, and its worker still holds it."""
        now, past = self.telling.time(), self.recall()
        held = 0.0 if self._since is None else now - self._since
        how = past.outcome or "cancelled", past.error
        self._tell(now, self._worker, self.attempts, *how, past.slot_time + held, past.ran + held, is_abandoned=True)

    def _tell(
        self,
        now: float,
        worker: int | None,
        attempts: int,
        outcome: Outcome,
        error: type[BaseException] | None,
        slot_time: float,
        running: float,
        *,
        is_abandoned: bool = False,
    ) -> None:
        telling = self.telling
        total = now - self.submitted_at
        if running > total:
            running = total
        waiting = total - slot_time if slot_time > running else total - running
        waiting = waiting if waiting > 0.0 else 0.0
        if telling.count is not None:
            telling.count(self.name, outcome, attempts, waiting, running)
        if telling.ended:
            travelling = total - waiting - running
            times = waiting, travelling if travelling > 0.0 else 0.0, running
            what = now, telling.pool, self.id, self.name, worker, attempts, outcome, error, *times, is_abandoned
            telling.tell(CallEnded(*what))

    def _tell_release(self, now: float, past: Past) -> None:
        telling = self.telling
        if telling.released:
            number = self.past_attempts + (not self._has_counted(past))
            telling.tell(CallReleased(now, telling.pool, self.id, self.name, self._worker, number, past.ran))

    def _tell_put_back(self) -> None:
        """It has left its worker, and waits again or pauses."""
        telling, past = self.telling, self.recall()
        now, is_retry = telling.time(), self._has_counted(past)
        self._leave_slot(now, past)
        past.worker, past.outcome, past.error = self._worker, None, None
        if telling.put_back:
            number = self.past_attempts + (not is_retry)
            who = self.id, self.name, self._worker, number
            telling.tell(CallPutBack(now, telling.pool, *who, is_retry))

    def _has_counted(self, past: Past) -> bool:
        """Whether the attempt that has just ended is one of those that may have begun."""
        return self._ran is not None or past.is_in_doubt

    def _leave_slot(self, now: float, past: Past) -> None:
        """It holds no slot from now on. Without its worker's word for it, it may have run since it was given one."""
        held = 0.0 if self._since is None else now - self._since
        past.slot_time += held
        past.ran += self._ran if self._ran is not None else held if past.is_in_doubt else 0.0
        past.is_in_doubt = False


class ObservedClosely(Observed):
    """One that tells of every step."""

    _admitted: CallAdmitted | None

    def __init__(self, *of_kind: Any, **fields: Any) -> None:
        super().__init__(*of_kind, **fields)
        telling = self.telling
        self._admitted = None
        if telling.admitted:
            self._admitted = CallAdmitted(telling.time(), telling.pool, self.id, self.name)
            telling.tell(self._admitted)

    def refused(self, error: BaseException) -> None:
        """It was not accepted."""
        if self._admitted is not None:
            self.telling.unsay(self._admitted)
        super().refused(error)

    def step(self, event: CallEvent) -> None:
        """Move to the next state, and tell of it."""
        super().step(event)
        if event is not GRANT and event is not SEND_AHEAD and event is not BEGIN:
            return
        telling = self.telling
        now, who = telling.time(), (self.id, self.name, self._worker, self.past_attempts + 1)
        if telling.granted and event is not BEGIN:
            telling.tell(CallGranted(now, telling.pool, *who, event is SEND_AHEAD))
        if telling.begun and event is not SEND_AHEAD:
            telling.tell(CallBegun(now, telling.pool, *who))


_OWN: Final = ("_error", "_outcome", "_ran", "_since", "_worker")


class ObservedCall(Observed):
    """One of nobody's that has no key."""

    __slots__ = _OWN


class ObservedTenantCall(Observed, TenantCallRecord):
    """One of a tenant's that has none."""

    __slots__ = _OWN


class ObservedKeyedCall(Observed, KeyedCallRecord):
    """One with a key."""

    __slots__ = _OWN


class CloseCall(ObservedClosely, ObservedCall):
    """One of nobody's that has no key."""


class CloseTenantCall(ObservedClosely, ObservedTenantCall):
    """One of a tenant's that has none."""


class CloseKeyedCall(ObservedClosely, ObservedKeyedCall):
    """One with a key."""


_AT_THE_END: Final = (ObservedCall, ObservedTenantCall, ObservedKeyedCall)
_CLOSELY: Final = (CloseCall, CloseTenantCall, CloseKeyedCall)
