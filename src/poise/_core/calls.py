"""A call: its record."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from poise._answers import NOT_BEGUN
from poise._core.retry import Retry
from poise._core.states import CALL_TRANSITIONS, CallEvent, CallState, IllegalTransitionError
from poise.errors import LeaseExpired

if TYPE_CHECKING:
    from collections.abc import Hashable

    from poise._answers import Answer
    from poise._core.attempts import Attempt
    from poise._core.shares import Tenant
    from poise._core.workers import WorkerId, WorkerRecord
    from poise.errors import PoiseError
    from poise.events import Outcome

CallId = int
"""Grows with each submission, so it is also the call's place in the order."""

CHECK_IDS: Final = 1 << 60
"""From here on numbers are those of checks of workers, by the worker's number. Nobody waits for one."""


class CallRecord:
    """One submission, to its outcome."""

    __slots__ = (
        "attempt",
        "bound_for",
        "deadline",
        "deaths",
        "function",
        "id",
        "is_lease",
        "lease",
        "name",
        "past_attempts",
        "priority",
        "retry",
        "state",
        "submitted_at",
        "tag",
        "timeout",
        "waits_since",
    )

    is_keyed: bool = False
    """The class's: whether it has a key, for whose worker it may wait for some time."""

    def __init__(
        self,
        call_id: CallId,
        function: Hashable,
        *,
        name: str = "",
        priority: int = 0,
        deadline: float = math.inf,
        timeout: float = math.inf,
        retries: int = 0,
        retry_delay: float = 0.0,
        lease: CallRecord | None = None,
        is_lease: bool = False,
        tag: Any = None,
    ) -> None:
        self.id: CallId = call_id
        self.function: Hashable = function
        """What its service times are averaged by."""
        self.name: str = name or str(function)
        """The function, for messages."""
        self.priority: int = priority
        self.deadline: float = deadline
        """Seconds on the engine's clock."""
        self.timeout: float = timeout
        """What the caller asked for, in seconds: for the message only."""
        self.retry: Retry | None = Retry(retries, retry_delay) if retries else None
        """What a call that may be run again has beside; None for any other, which so takes no more room."""
        self.lease: CallRecord | None = lease
        """The lease under which it was submitted: it runs on that worker or nowhere."""
        self.is_lease: bool = is_lease
        """Whether it asks for a whole worker and runs nothing itself."""
        self.tag: Any = tag
        """The engine's own object for this call, which the core hands back and never looks at."""
        self.state: CallState = CallState.WAITING
        self.attempt: Attempt | None = None
        """Invariant: set if and only if the state is AHEAD, RUNNING or ABANDONED; an ended lease keeps it, so that a
        late use of the lease can be told which worker it was."""
        self.bound_for: WorkerRecord | None = None
        """The one worker on which it may run: broadcasts and leased calls."""
        self.past_attempts: int = 0
        """Attempts that are over and may have begun."""
        self.deaths: int = 0
        """Workers that died while it was on them and may have begun; for a lease, while it held them."""
        self.submitted_at: float = 0.0
        self.waits_since: float = 0.0
        """When it was submitted or last came back from a worker: from then to its next grant it waits for a slot."""

    @property
    def tenant(self) -> Tenant | None:
        """For whom it is made, if that was said."""
        return None

    def step(self, event: CallEvent) -> None:
        """Move to the next state.

        Raises:
            IllegalTransitionError: the table has no such transition.
        """
        try:
            self.state = CALL_TRANSITIONS[self.state, event]
        except KeyError:
            raise IllegalTransitionError(f"call {self.id}: {event.name} while {self.state.name}") from None

    def answered(self, answer: Answer) -> None:
        """Its worker has ended the attempt."""
        self.past_attempts += answer.ending != NOT_BEGUN
        self.attempt = None

    def end_attempt(self, *, has_begun: bool) -> None:
        """No worker holds it any more."""
        self.past_attempts += has_begun
        self.attempt = None

    def refused(self, error: BaseException) -> None:
        """It was not accepted."""

    def ends(self, outcome: Outcome, error: PoiseError | None = None) -> None:
        """It is about to end so, without its worker's word for it."""

    @property
    def worker(self) -> WorkerRecord | None:
        """The worker that holds it, or None."""
        return None if self.attempt is None else self.attempt.worker

    def leased_worker(self) -> WorkerRecord:
        """The worker that this lease, which was granted, holds.

        Raises:
            LeaseExpired: it holds none any more.
        """
        worker = self.worker
        assert worker is not None, "a lease is used once it is granted"
        if worker.lease is not self:
            raise LeaseExpired(worker.id, "lost" if self.deaths else "released")
        return worker

    @property
    def attempts(self) -> int:
        """How many times it may have begun."""
        return self.past_attempts + (self.attempt is not None and self.attempt.may_have_begun)

    @property
    def retries(self) -> int:
        """How many more attempts may follow one that may have begun."""
        return 0 if self.retry is None else self.retry.left

    @property
    def avoids(self) -> frozenset[WorkerId]:
        """Workers on which it has failed, and which it is not given to while another can take it."""
        return frozenset() if self.retry is None else self.retry.avoids

    def precedes(self, other: CallRecord) -> bool:
        """Whether it comes before the other in the order (G5)."""
        return (-self.priority, self.id) < (-other.priority, other.id)

    @property
    def needs_whole_worker(self) -> bool:
        """Whether it may start only on a worker that holds nothing else.

        That is so for a lease, and for a call with which a worker has died: it runs alone, so that nobody else is
        hurt or blamed if it does it again (G9).
        """
        return self.is_lease or self.deaths > 0

    def __repr__(self) -> str:
        """Give the number, the function and the state."""
        return f"<call {self.id} {self.name} {self.state.name.lower()}>"


class TenantCallRecord(CallRecord):
    """One submission for a tenant. Any other so takes no more room."""

    __slots__ = ("_tenant",)

    def __init__(self, tenant: Tenant | None, call_id: CallId, function: Hashable, **fields: Any) -> None:
        super().__init__(call_id, function, **fields)
        self._tenant = tenant

    @property
    def tenant(self) -> Tenant | None:
        """For whom it is made."""
        return self._tenant
