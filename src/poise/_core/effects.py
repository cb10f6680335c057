"""What the scheduler decided and the engine must now do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poise._core.call import CallId, CallRecord
    from poise._core.worker import WorkerId
    from poise.errors import PoiseError


@dataclass(slots=True, eq=False)
class Send:
    """Give the worker these calls, in order."""

    worker_id: WorkerId
    calls: Sequence[CallRecord]


@dataclass(slots=True, eq=False)
class Recall:
    """Ask the worker for these calls back if they have not begun."""

    worker_id: WorkerId
    call_ids: Sequence[CallId]


@dataclass(slots=True, eq=False)
class Cancel:
    """Tell the worker that nobody waits for this call any more."""

    worker_id: WorkerId
    call_id: CallId


@dataclass(slots=True, eq=False)
class Resolve:
    """Give the caller what its attempt ended with; `outcome` is what the engine passed in, untouched."""

    call: CallRecord
    outcome: Any


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


@dataclass(slots=True, eq=False)
class Kill:
    """End this worker; its record is gone already if it was retired, else say `worker_lost`."""

    worker_id: WorkerId
    reason: str


Effect = Send | Recall | Cancel | Resolve | Reject | Lease | Start | Kill
