"""Calls that are observed: each tells of its own steps, and knows its times.

A pool that is not observed has no such call: which record is made for a call is decided where it is submitted, and
nothing else asks.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from poise._answers import NOT_BEGUN, RETURNED
from poise._core.affinity import KeyedCallRecord
from poise._core.calls import CallRecord, TenantCallRecord
from poise._core.states import CallEvent, CallState
from poise.events import CallAdmitted, CallBegun, CallEnded, CallGranted, CallPutBack, CallRefused, CallReleased

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from poise._answers import Answer
    from poise._core.calls import CallId
    from poise._core.shares import Shares, Tenant
    from poise.errors import PoiseError
    from poise.events import Event, Outcome

CALL_EVENTS: Final = frozenset(
    {CallAdmitted, CallRefused, CallGranted, CallBegun, CallPutBack, CallEnded, CallReleased}
)
"""What such calls tell."""


class Telling:
    """To whom the observed calls of a pool tell."""

    __slots__ = (
        "admitted",
        "begun",
        "ended",
        "granted",
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
        self.listen(())

    def listen(self, kinds: Container[type[Event]]) -> None:
        """Somebody listens to these events, and no others are made."""
        self.admitted: bool = CallAdmitted in kinds
        self.refused: bool = CallRefused in kinds
        self.granted: bool = CallGranted in kinds
        self.begun: bool = CallBegun in kinds
        self.put_back: bool = CallPutBack in kinds
        self.ended: bool = CallEnded in kinds
        self.released: bool = CallReleased in kinds


def observe(shares: Shares, telling: Telling | None) -> None:
    """Let the calls that are submitted from now on tell of their steps; or let them be as any other."""
    if telling is None:
        shares.nobodys_call, shares.tenants_call, shares.keyed_call = CallRecord, TenantCallRecord, KeyedCallRecord
    else:
        shares.nobodys_call = partial(ObservedCall, telling, None)
        shares.tenants_call = partial(ObservedCall, telling)
        shares.keyed_call = partial(ObservedKeyedCall, telling)


def note_company(calls: Sequence[CallRecord]) -> None:
    """These calls are sent as a batch: each will be answered with its share of the time."""
    if isinstance(calls[0], Observed):
        for call in calls:
            if isinstance(call, Observed):
                call.together = len(calls)


class Observed(CallRecord):
    """One submission that tells of its steps. Any other so takes no more room, and no more time."""

    def begin_story(self, telling: Telling) -> None:
        """It was made, and is about to be submitted."""
        self.together: int = 1
        """Calls that share its slot, itself among them: each of a batch is answered with its share of the time."""
        self._telling = telling
        self._worker: int | None = None
        """Which it was given to last."""
        self._number = 0
        """Of the attempt for that."""
        self._is_answered = False
        """Whether its worker has ended that, which the next step tells."""
        self._slot_at: float | None = None
        """Since when it holds a slot, if it does."""
        self._slot_time = 0.0
        """Seconds for which it has held one before."""
        self._ran = 0.0
        """Seconds for which it ran in attempts that are over."""
        self._outcome: Outcome = "cancelled"
        """How it ends, as far as it has heard."""
        self._error: type[BaseException] | None = None
        """With what exception."""
        self._admitted: CallAdmitted | None = None
        if telling.admitted:
            self._admitted = CallAdmitted(telling.time(), telling.pool, self.id, self.name)
            telling.tell(self._admitted)

    # ---------------------------------------------------------------- what it hears

    def refused(self, error: BaseException) -> None:
        """It was not accepted."""
        telling = self._telling
        if self._admitted is not None:
            telling.unsay(self._admitted)
        if telling.refused:
            telling.tell(CallRefused(telling.time(), telling.pool, self.name, type(error)))

    def answered(self, answer: Answer) -> None:
        """Its worker has ended the attempt."""
        CallRecord.answered(self, answer)
        self._is_answered = True
        ending = answer.ending
        if ending != NOT_BEGUN:
            self._ran += answer.service_time * self.together
            if ending == RETURNED:
                self._outcome = "returned"
            else:
                self._outcome, self._error = "raised", type(answer.value)
        self.together = 1

    def ends(self, outcome: Outcome, error: PoiseError | None = None) -> None:
        """It is about to end so, without its worker's word for it."""
        self._outcome, self._error = outcome, None if error is None else type(error)

    def step(self, event: CallEvent) -> None:
        """Move to the next state, and tell of it.

        Raises:
            IllegalTransitionError: the table has no such transition.
        """
        before = self.state
        CallRecord.step(self, event)
        tell = _TELLS.get(event)
        if tell is not None:
            tell(self, self._telling.time(), before)

    # ---------------------------------------------------------------- what it tells

    def on_grant(self, now: float, _before: CallState) -> None:
        """It was given a slot."""
        self._given(now, is_ahead=False)
        self.on_begin(now, _before)

    def on_send_ahead(self, now: float, _before: CallState) -> None:
        """It was sent ahead of its slot."""
        self._given(now, is_ahead=True)

    def _given(self, now: float, *, is_ahead: bool) -> None:
        assert self.attempt is not None
        telling = self._telling
        self._worker = worker = self.attempt.worker.id
        self._number = number = self.past_attempts + 1
        if telling.granted:
            telling.tell(CallGranted(now, telling.pool, self.id, self.name, worker, number, is_ahead))

    def on_begin(self, now: float, _before: CallState) -> None:
        """It holds a slot."""
        assert self._worker is not None
        telling = self._telling
        self._slot_at = now
        if telling.begun:
            telling.tell(CallBegun(now, telling.pool, self.id, self.name, self._worker, self._number))

    def on_put_back(self, now: float, _before: CallState) -> None:
        """It has left its worker, and waits again or pauses."""
        assert self._worker is not None
        telling = self._telling
        is_retry = self.past_attempts >= self._number
        self._leave_slot(now, has_run=is_retry)
        self._outcome, self._error = "cancelled", None
        if telling.put_back:
            telling.tell(CallPutBack(now, telling.pool, self.id, self.name, self._worker, self._number, is_retry))

    def on_end(self, now: float, before: CallState) -> None:
        """It is over."""
        if before is CallState.ABANDONED:
            self._released(now)
        else:
            self._leave_slot(now, has_run=True)
            self._tell_end(now, self._slot_time, self._ran, is_abandoned=False)

    def on_abandon(self, now: float, _before: CallState) -> None:
        """Its caller was answered, and its worker still holds it."""
        held = 0.0 if self._slot_at is None else now - self._slot_at
        self._tell_end(now, self._slot_time + held, self._ran + held, is_abandoned=True)

    def _tell_end(self, now: float, slot_time: float, running: float, *, is_abandoned: bool) -> None:
        telling = self._telling
        if not telling.ended:
            return
        total = now - self.submitted_at
        running = min(running, total)
        waiting = total - slot_time if slot_time > running else total - running
        attempts = self.attempts if not self.is_lease else int(self._number > 0)
        waiting = waiting if waiting > 0.0 else 0.0
        travelling = total - waiting - running
        telling.tell(
            CallEnded(
                now,
                telling.pool,
                self.id,
                self.name,
                self._worker,
                attempts,
                self._outcome,
                self._error,
                waiting,
                travelling if travelling > 0.0 else 0.0,
                running,
                is_abandoned,
            )
        )

    def _released(self, now: float) -> None:
        assert self._worker is not None
        telling = self._telling
        self._leave_slot(now, has_run=True)
        if telling.released:
            telling.tell(CallReleased(now, telling.pool, self.id, self.name, self._worker, self._number, self._ran))

    def _leave_slot(self, now: float, *, has_run: bool) -> None:
        """It holds no slot from now on. Without its worker's word for it, it may have run since it was given one."""
        since, self._slot_at = self._slot_at, None
        was_answered, self._is_answered = self._is_answered, False
        if since is not None:
            self._slot_time += now - since
            if has_run and not was_answered:
                self._ran += now - since


class ObservedCall(Observed, TenantCallRecord):
    """One that has no key."""

    def __init__(self, telling: Telling, tenant: Tenant | None, call_id: CallId, function: Any, **fields: Any) -> None:
        CallRecord.__init__(self, call_id, function, **fields)  # at once, and not by way of each class
        self._tenant = tenant
        self.begin_story(telling)


class ObservedKeyedCall(Observed, KeyedCallRecord):
    """One with a key."""

    def __init__(self, telling: Telling, *of_kind: Any, **fields: Any) -> None:
        super().__init__(*of_kind, **fields)
        self.begin_story(telling)


_TELLS: Final[dict[CallEvent, Callable[[Observed, float, CallState], None]]] = {
    CallEvent.GRANT: Observed.on_grant,
    CallEvent.SEND_AHEAD: Observed.on_send_ahead,
    CallEvent.BEGIN: Observed.on_begin,
    CallEvent.RETURN: Observed.on_put_back,
    CallEvent.PAUSE: Observed.on_put_back,
    CallEvent.ABANDON: Observed.on_abandon,
    CallEvent.END: Observed.on_end,
}
"""What a call does after each step. A table, because Python 3.11 takes 0.1 us to find each name in an enumeration."""
