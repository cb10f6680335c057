"""Calls that are observed: each tells of its own steps, and knows its times.

A pool that is not observed has no such call: which record is made for a call is decided where it is submitted, and
nothing else asks.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from poise._answers import NOT_BEGUN, RETURNED
from poise._core.calls import CallRecord, TenantCallRecord
from poise._core.states import CallEvent, CallState
from poise.events import CallAdmitted, CallBegun, CallEnded, CallGranted, CallPutBack, CallRefused, CallReleased

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Hashable, Sequence

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

    __slots__ = ("pool", "take_back", "tell", "time", "wanted")

    def __init__(
        self,
        pool: str,
        time: Callable[[], float],
        tell: Callable[[Event], object],
        take_back: Callable[[Event], object],
    ) -> None:
        self.pool: str = pool
        """What the pool is called."""
        self.time: Callable[[], float] = time
        """The clock from which the scheduler is told the time."""
        self.tell: Callable[[Event], object] = tell
        self.take_back: Callable[[Event], object] = take_back
        """Unsay what was told last, in the same step."""
        self.wanted: Container[type[Event]] = ()
        """What anybody listens to: nothing else is made."""


def observe(shares: Shares, telling: Telling | None) -> None:
    """Let the calls that are submitted from now on tell of their steps; or let them be as any other."""
    if telling is None:
        shares.nobodys_call, shares.tenants_call = CallRecord, TenantCallRecord
    else:
        shares.nobodys_call = partial(ObservedCall, telling, None)
        shares.tenants_call = partial(ObservedCall, telling)


def note_company(calls: Sequence[CallRecord]) -> None:
    """These calls are sent as a batch: each will be answered with its share of the time."""
    if isinstance(calls[0], ObservedCall):
        for call in calls:
            if isinstance(call, ObservedCall):
                call.together = len(calls)


class ObservedCall(CallRecord):
    """One submission that tells of its steps. Any other so takes no more room, and no more time."""

    __slots__ = (
        "_admitted",
        "_end",
        "_number",
        "_ran",
        "_slot_at",
        "_slot_time",
        "_telling",
        "_tenant",
        "_worker",
        "together",
    )

    def __init__(
        self, telling: Telling, tenant: Tenant | None, call_id: CallId, function: Hashable, **fields: Any
    ) -> None:
        super().__init__(call_id, function, **fields)
        self.together: int = 1
        """Calls that share its slot, itself among them: each of a batch is answered with its share of the time."""
        self._telling = telling
        self._tenant = tenant
        self._worker: int | None = None
        """Which it was given to last."""
        self._number = 0
        """Of the attempt for that."""
        self._slot_at: float | None = None
        """Since when it holds a slot, if it does."""
        self._slot_time = 0.0
        """Seconds for which it has held one before."""
        self._ran = 0.0
        """Seconds for which it ran in attempts that are over."""
        self._end: tuple[Outcome, type[BaseException] | None] = ("cancelled", None)
        """How it ends, as far as it has heard."""
        self._admitted: CallAdmitted | None = None
        if CallAdmitted in telling.wanted:
            self._admitted = CallAdmitted(telling.time(), telling.pool, call_id, self.name)
            telling.tell(self._admitted)

    @property
    def tenant(self) -> Tenant | None:
        """For whom it is made, if that was said."""
        return self._tenant

    # ---------------------------------------------------------------- what it hears

    def refused(self, error: BaseException) -> None:
        """It was not accepted."""
        telling = self._telling
        if self._admitted is not None:
            telling.take_back(self._admitted)
        if CallRefused in telling.wanted:
            telling.tell(CallRefused(telling.time(), telling.pool, self.name, type(error)))

    def answered(self, answer: Answer) -> None:
        """Its worker has ended the attempt."""
        super().answered(answer)
        self._leave_slot(self._telling.time())
        if answer.ending != NOT_BEGUN:
            self._ran += answer.service_time * self.together
            self._end = ("returned", None) if answer.ending == RETURNED else ("raised", type(answer.value))
        self.together = 1

    def ends(self, outcome: Outcome, error: PoiseError | None = None) -> None:
        """It is about to end so, without its worker's word for it."""
        self._end = (outcome, None if error is None else type(error))

    def step(self, event: CallEvent) -> None:
        """Move to the next state, and tell of it.

        Raises:
            IllegalTransitionError: the table has no such transition.
        """
        before = self.state
        super().step(event)
        now = self._telling.time()
        if event is CallEvent.GRANT or event is CallEvent.SEND_AHEAD:
            self._granted(now, is_ahead=event is CallEvent.SEND_AHEAD)
        if event is CallEvent.GRANT or event is CallEvent.BEGIN:
            self._begun(now)
        elif event is CallEvent.RETURN or event is CallEvent.PAUSE:
            self._put_back(now)
        elif event is CallEvent.ABANDON or (event is CallEvent.END and before is not CallState.ABANDONED):
            self._ended(now, is_abandoned=event is CallEvent.ABANDON)
        elif event is CallEvent.END:
            self._released(now)

    # ---------------------------------------------------------------- what it tells

    def _granted(self, now: float, *, is_ahead: bool) -> None:
        assert self.attempt is not None
        telling = self._telling
        self._worker = worker = self.attempt.worker.id
        self._number = number = self.past_attempts + 1
        if CallGranted in telling.wanted:
            telling.tell(CallGranted(now, telling.pool, self.id, self.name, worker, number, is_ahead))

    def _begun(self, now: float) -> None:
        assert self._worker is not None
        telling = self._telling
        self._slot_at = now
        if CallBegun in telling.wanted:
            telling.tell(CallBegun(now, telling.pool, self.id, self.name, self._worker, self._number))

    def _put_back(self, now: float) -> None:
        assert self._worker is not None
        telling = self._telling
        is_retry = self.past_attempts >= self._number
        held = self._leave_slot(now)  # nothing if its worker has answered
        self._ran += held if is_retry else 0.0
        self._end = ("cancelled", None)
        if CallPutBack in telling.wanted:
            telling.tell(CallPutBack(now, telling.pool, self.id, self.name, self._worker, self._number, is_retry))

    def _ended(self, now: float, *, is_abandoned: bool) -> None:
        telling = self._telling
        if CallEnded not in telling.wanted:
            return
        held = 0.0 if self._slot_at is None else now - self._slot_at  # without an answer
        total = now - self.submitted_at
        running = min(self._ran + held, total)
        waiting = max(0.0, total - max(self._slot_time + held, running))
        attempts = self.attempts if not self.is_lease else int(self._number > 0)
        outcome, error = self._end
        telling.tell(
            CallEnded(
                now,
                telling.pool,
                self.id,
                self.name,
                self._worker,
                attempts,
                outcome,
                error,
                waiting,
                max(0.0, total - waiting - running),
                running,
                is_abandoned,
            )
        )

    def _released(self, now: float) -> None:
        assert self._worker is not None
        telling = self._telling
        self._ran += self._leave_slot(now)
        if CallReleased in telling.wanted:
            telling.tell(CallReleased(now, telling.pool, self.id, self.name, self._worker, self._number, self._ran))

    def _leave_slot(self, now: float) -> float:
        """It holds no slot from now on; returns for how many seconds it has held one."""
        since, self._slot_at = self._slot_at, None
        if since is None:
            return 0.0
        self._slot_time += now - since
        return now - since
