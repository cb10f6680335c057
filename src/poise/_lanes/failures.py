"""What a failure of Ray's means for the call that it befell."""

from __future__ import annotations

from typing import Final

from ray.exceptions import ObjectLostError, OutOfDiskError, RayTaskError

from poise._answers import RAISED, Answer
from poise._protocol.words import describe, type_name
from poise._ray.errors import own_error, remote_text
from poise.errors import PayloadError, RemoteError

_UNREACHABLE_RESULT: Final = (ObjectLostError, OutOfDiskError)


def answer_of_failure(call_id: int, error: BaseException) -> Answer | None:
    """What a failed Ray call to a host means for its call; None if it means that the worker is lost."""
    if isinstance(error, RayTaskError):  # the host itself failed, for example to store a result
        cause = own_error(error)
        why = "raised in the worker while the answer was on its way"
        return Answer(call_id, RAISED, RemoteError(type_name(cause), describe(cause), remote_text(error), why))
    if isinstance(error, _UNREACHABLE_RESULT):
        return Answer(call_id, RAISED, PayloadError("the result", describe(error), started=True))
    return None
