"""From what travels back to what the engine hears."""

from __future__ import annotations

from typing import Any

from poise._lanes.lane import Answer, StartFailed, Verdict
from poise._protocol.codec import NOT_BEGUN, RETURNED, Packed, Reply, unpack_exception, unpack_result
from poise._protocol.words import describe
from poise.errors import PayloadError, RemoteError


def answer_of(reply: Reply, *, writable: bool = False) -> Answer:
    """Unpack a reply. Never raises: a result that cannot be unpickled is answered with the error."""
    call_id, code, packed, service_time = reply
    if code == NOT_BEGUN:
        return Answer(call_id, Verdict.NOT_BEGUN)
    if packed is None:
        return Answer(call_id, Verdict.RETURNED, None, service_time)
    if code == RETURNED:
        try:
            return Answer(call_id, Verdict.RETURNED, unpack_result(packed, writable=writable), service_time)
        except PayloadError as error:
            return Answer(call_id, Verdict.RAISED, error, service_time)
    return Answer(call_id, Verdict.RAISED, unpack_exception(packed), service_time)


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
