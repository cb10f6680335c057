"""What the scheduler decided and the engine must now do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poise._answers import Answer
    from poise._core.calls import CallId, CallRecord
    from poise._core.workers import WorkerId
    from poise.errors import PoiseError


@dataclass(slots=True, eq=False)
class Send:
    """Give the worker these calls, in order."""

    worker_id: WorkerId
    calls: Sequence[CallRecord]


@dataclass(slots=True, eq=False)
class SendBatch:
    """Give the worker these calls, which begin together in one of its slots."""

    worker_id: WorkerId
    calls: Sequence[CallRecord]


@dataclass(slots=True, eq=False)
class Recall:
    """Ask the worker for these calls back if they have not begun."""

    worker_id: WorkerId
    call_ids: Sequence[CallId]


@dataclass(slots=True, eq=False)
class Withdraw:
    """Take from a worker that does not answer those of these calls that have not begun, so that they cannot begin."""

    worker_id: WorkerId
    call_ids: Sequence[CallId]


@dataclass(slots=True, eq=False)
class Cancel:
    """Tell the worker that nobody waits for this call any more."""

    worker_id: WorkerId
    call_id: CallId


@dataclass(slots=True, eq=False)
class Check:
    """Have the worker checked, as a call of this number."""

    worker_id: WorkerId
    call_id: CallId


@dataclass(slots=True, eq=False)
class Resolve:
    """Give the caller what its attempt ended with; `answer` is what the engine passed in, untouched."""

    call: CallRecord
    answer: Answer


@dataclass(slots=True, eq=False)
class Reject:
    """Fail the call with an error of the pool's own."""

    call: CallRecord
    error: PoiseError


@dataclass(slots=True, eq=False)
class Lease:
    """The caller that asked for a whole worker now holds this one."""

    call: CallRecord
    worker_id: WorkerId


@dataclass(slots=True, eq=False)
class Start:
    """Start this worker; say `worker_ready` or `worker_lost`."""

    worker_id: WorkerId
    is_spare: bool = False
    """Whether another works until it is ready. If there is no room for both, say `no_room`."""
    generation: int = 0
    """By which factory it is made: a reload brings a new one."""


@dataclass(slots=True, eq=False)
class Kill:
    """End this worker; its record is gone already if it was retired, else say `worker_lost`."""

    worker_id: WorkerId
    reason: str
    gently: bool = False
    """Whether it may close what it holds before: it runs nothing, and ends because it is not wanted any more."""


@dataclass(slots=True, eq=False)
class Lost:
    """Tell whoever watches of a worker that died or could not start. One whose end was planned is not told of."""

    worker_id: WorkerId
    reason: str
    has_started: bool
    """False if it could not start."""
    calls: Sequence[str]
    """Names of the functions that were on it and may have begun, one for each call."""
    replaced_in: float | None
    """Seconds until another is started in its place; None if none will be."""
    was_killed: bool = False
    """Whether its end was asked for."""


@dataclass(slots=True, eq=False)
class Replacing:
    """Tell whoever watches that a worker which lives is to be replaced."""

    worker_id: WorkerId
    heir_id: WorkerId
    reason: str
    is_gentle: bool
    """Whether the new one starts before the old one leaves."""
    is_sick: bool
    """Whether that is because it is sick."""


@dataclass(slots=True, eq=False)
class Oversized:
    """Tell whoever watches that a worker was beyond its limit of memory before it had run anything."""

    worker_id: WorkerId
    resident: int
    limit: int


@dataclass(slots=True, eq=False)
class Crowded:
    """Tell whoever watches that a worker leaves before the one that replaces it starts, because there is no room."""

    worker_id: WorkerId
    heir_id: WorkerId
    shortage: str


@dataclass(slots=True, eq=False)
class Struck:
    """Tell whoever watches that a check of a worker has failed, or was not answered in time."""

    worker_id: WorkerId
    check: str
    strikes: int
    """How many in a row."""
    most: int
    """At how many of them it is replaced."""
    is_answered: bool
    failure: BaseException | None
    """What it raised, if that is how it failed."""


@dataclass(slots=True, eq=False)
class Grown:
    """Tell whoever watches that an elastic pool wants more workers. If they wait for room, say what is missing."""

    before: int
    size: int
    waiting: int
    """Calls that wait for a worker."""


@dataclass(slots=True, eq=False)
class Shrunk:
    """Tell whoever watches that an elastic pool does not want this worker any more."""

    worker_id: WorkerId
    size: int
    idle: float
    """Seconds for which nobody had use for it."""


Sending = Send | SendBatch
"""What gives a worker calls. It has a name because Python makes the union anew, for 0.1 us, wherever it is written."""

News = Lost | Replacing | Crowded | Oversized | Struck | Grown | Shrunk
"""What is only told of."""

Effect = Sending | Recall | Withdraw | Cancel | Check | Resolve | Reject | Lease | Start | Kill | News


class Outbox:
    """What was decided in the current step, in the order in which it must be done."""

    __slots__ = ("_effects", "_recalls", "_sends")

    def __init__(self) -> None:
        self._effects: list[Effect] = []
        self._sends: dict[WorkerId, list[CallRecord]] = {}
        """Granted in this step: one `Send` for each worker."""
        self._recalls: list[Recall] = []
        """These go out last, because they may ask for what was sent in the same step."""

    def add(
        self, effect: Resolve | Reject | Lease | Start | Kill | Cancel | Withdraw | Check | News | SendBatch
    ) -> None:
        """Have this done, after what was added before."""
        self._effects.append(effect)

    def send(self, worker_id: WorkerId, call: CallRecord) -> None:
        """Have the call sent, together with the others that this worker is granted."""
        calls = self._sends.get(worker_id)
        if calls is None:
            self._sends[worker_id] = [call]
        else:
            calls.append(call)

    def recall(self, worker_id: WorkerId, call_ids: Sequence[CallId]) -> None:
        """Have these calls asked back."""
        self._recalls.append(Recall(worker_id, call_ids))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do: so it is between steps."""
        return not self._effects and not self._sends and not self._recalls

    def flush(self) -> list[Effect]:
        """Everything that was decided; the next step begins with nothing."""
        effects, self._effects = self._effects, []
        if self._sends:
            for worker_id, calls in self._sends.items():
                effects.append(Send(worker_id, calls))
            self._sends = {}
        if self._recalls:
            effects += self._recalls
            self._recalls = []
        return effects
