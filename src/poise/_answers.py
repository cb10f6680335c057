"""How an attempt ends: the one vocabulary of the worker that says so, the lane that brings it and the core that judges.

The endings are integers, because they travel.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeAlias

Ending: TypeAlias = int

RETURNED: Final = 0
RAISED: Final = 1
NOT_BEGUN: Final = 2
"""It was recalled or cancelled before it began and will not run."""
RETRYABLE: Final = 3
"""It raised something after which the caller wants another attempt: the engine says this, never a worker."""


class Answer(NamedTuple):
    """The end of one attempt."""

    call_id: int
    ending: Ending
    value: Any
    """The result, or the exception if it raised one; None if it has not begun, and for a stream that ended by itself.
    Packed, as far as the lane, which unpacks it."""
    service_time: float = 0.0
    """Seconds of the worker's time, from its beginning to its end there."""
