"""From what travels back to what the engine hears."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poise._answers import NOT_BEGUN, RAISED, RETURNED, Answer
from poise._lanes.lane import StartFailed
from poise._protocol.codec import unpack_result
from poise._protocol.exceptions import unpack_exception
from poise._protocol.words import describe
from poise.errors import PayloadError, RemoteError

if TYPE_CHECKING:
    from poise._protocol.payloads import Packed


def unpack_answer(answer: Answer, *, writable: bool = False) -> Answer:
    """Unpack the value. Never raises: a result that cannot be unpickled is answered with the error."""
    call_id, ending, packed, service_time = answer
    if packed is None or ending == NOT_BEGUN:
        return Answer(call_id, ending, None, service_time)
    if ending == RETURNED:
        try:
            return Answer(call_id, RETURNED, unpack_result(packed, writable=writable), service_time)
        except PayloadError as error:
            return Answer(call_id, RAISED, error, service_time)
    return Answer(call_id, RAISED, unpack_exception(packed), service_time)


def unpack_items(packed: list[Packed], *, writable: bool = False) -> tuple[list[Any], PayloadError | None]:
    """Unpack stream items up to the first that cannot be unpickled."""
    items: list[Any] = []
    try:
        for item in packed:  # not a comprehension: those before the failure are kept
            items.append(unpack_result(item, "an item of the stream", writable=writable))  # noqa: PERF401
    except PayloadError as error:
        return items, error
    return items, None


def start_failed(packed: Packed) -> StartFailed:
    """What to raise when a constructor raised this."""
    cause = unpack_exception(packed)
    text = f"{cause.type_name}: {cause.text}" if isinstance(cause, RemoteError) else describe(cause)
    failure = StartFailed(text if isinstance(cause, PayloadError) else f"the constructor raised {text}")
    failure.__cause__ = cause
    return failure
