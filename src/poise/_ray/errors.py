"""Ray's errors, in the words of this library."""

from __future__ import annotations

import re
from typing import Final

from ray.exceptions import RayTaskError

from poise._protocol.traces import set_cause
from poise._protocol.words import text_of

_UNINFORMATIVE: Final = re.compile(
    r"^(The actor died unexpectedly before finishing this task\.|\s*(class_name|actor_id|pid|name|namespace|ip): .*)$"
)

CONNECTION_ENDED: Final = "Worker unexpectedly exits with a connection error code"
"""What Ray says of a process that has ended if it does not know why."""


def own_error(error: BaseException) -> BaseException:
    """The exception that the user's own task or method raised, out of Ray's wrapping, if that is what it is."""
    cause = getattr(error, "cause", None) if isinstance(error, RayTaskError) else None
    if not isinstance(cause, BaseException):
        return error
    set_cause(cause, remote_text(error))
    return cause


def remote_text(error: BaseException) -> str:
    """The remote traceback that an error of Ray's carries."""
    # Ray raises a class made of RayTaskError and the user's exception, which has the text only as its `str()`.
    return str(getattr(error, "traceback_str", None) or text_of(error))


def last_words(error: BaseException) -> str:
    """Why Ray says that an actor died, without what says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not _UNINFORMATIVE.match(line)]
    # Ray goes on with a list of what might have been; it is in Ray's own log too.
    return " ".join(lines).partition(" Some common causes include")[0] or type(error).__name__
