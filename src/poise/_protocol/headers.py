"""What the headers of a call say: the variables of its caller's context, and the trace that it belongs to.

| header | |
|---|---|
| `poise.context` | where each variable is found, and its pickled value |
| `poise.function` | what the call's span is called; without it the call is not traced |
| `poise.attempt` | which attempt it is, if not the first |
| `poise.batch` | of a batch: the fields of each of its calls, as JSON |
| any other | a field of the trace's, such as W3C's `traceparent`, `tracestate` and `baggage` |
"""

from __future__ import annotations

import json
import pickle
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from poise._protocol.payloads import PROTOCOL
from poise._protocol.pickling import pack_in_band
from poise._protocol.traces import drop_frames
from poise._protocol.variables import find_variable
from poise._protocol.words import describe
from poise.errors import PayloadError, not_pickled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextvars import ContextVar

    from poise._protocol.messages import Headers
    from poise._protocol.variables import Places

CONTEXT: Final = "poise.context"
FUNCTION: Final = "poise.function"
ATTEMPT: Final = "poise.attempt"
BATCH: Final = "poise.batch"

MOST_CONTEXT: Final = 64 << 10
"""Bytes that the pickled values of one call's variables may have together."""

TRACEPARENT: Final = "traceparent"
_IDS: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-|$)")
"""W3C, Trace Context, 3.2: any version begins so."""

_PLAIN: Final = frozenset({str, int, float, bool, bytes, type(None)})


# ---------------------------------------------------------------------------------------------------------------------
# Variables


def pack_context(values: Iterable[tuple[str, Places, Any]]) -> bytes | None:
    """Pack variables, each with its name, where it is found, and its value; None if there are none.

    Raises:
        PayloadError: a value cannot be pickled, or is too large; names the variable.
    """
    packed: list[tuple[str, Places, bytes]] = []
    room = MOST_CONTEXT
    for name, places, value in values:
        packed.append((name, places, _pack_value(name, value, room)))
        room -= len(packed[-1][2])
    return pickle.dumps(packed, PROTOCOL) if packed else None


def _pack_value(name: str, value: Any, room: int) -> bytes:
    what = _named(name)
    try:
        packed = pickle.dumps(value, PROTOCOL) if type(value) in _PLAIN else pack_in_band(value)
    except BaseException as error:
        drop_frames(error)
        raise not_pickled(what, describe(error), error, started=False) from error
    if not isinstance(packed, bytes):
        raise PayloadError(what, "it holds an object of Ray's: give that as an argument", started=False)
    if len(packed) > room:
        size = f"it has {len(packed)} bytes, and there is room for {room} of the {MOST_CONTEXT} that may travel so"
        reason = f"{size}: give it as an argument"
        raise PayloadError(what, reason, started=False)
    return packed


def unpack_context(packed: bytes) -> Iterator[tuple[ContextVar[Any], Any]]:
    """Find the variables, and unpack their values.

    Raises:
        PayloadError: one is not found here, or cannot be unpickled; names it.
    """
    for name, places, value in pickle.loads(packed):
        try:
            yield find_variable(places), pickle.loads(value)
        except BaseException as error:
            drop_frames(error)
            raise PayloadError(_named(name), describe(error), started=False) from error


def _named(name: str) -> str:
    return f"the context variable {name!r}"


# ---------------------------------------------------------------------------------------------------------------------
# Traces


def trace_headers(function: str, attempt: int, fields: Mapping[str, str]) -> Headers:
    """Headers of a call that is traced, if there is a trace at all."""
    if not fields:
        return {}
    headers = {name: value.encode() for name, value in fields.items()}
    headers[FUNCTION] = function.encode(errors="backslashreplace")
    if attempt > 1:
        headers[ATTEMPT] = str(attempt).encode()
    return headers


def trace_fields(headers: Headers) -> dict[str, str]:
    """The trace's own fields."""
    return {name: value.decode() for name, value in headers.items() if not name.startswith("poise.")}


class Ids(NamedTuple):
    """A span and its trace, as W3C writes them."""

    trace: str
    """32 hexadecimal digits."""
    span: str
    """16 of them."""
    is_sampled: bool


def ids_in(fields: Mapping[str, str]) -> Ids | None:
    """The span that these fields are about, if they say it as W3C does."""
    found = _IDS.match(fields.get(TRACEPARENT, ""))
    return None if found is None else Ids(found[1], found[2], bool(int(found[3], 16) & 1))


def batch_fields(headers: Headers) -> list[dict[str, str]]:
    """The trace's own fields of each call of a batch that is traced; none if it is no batch."""
    return json.loads(headers[BATCH]) if BATCH in headers else []


def joined(each: Sequence[Headers | None]) -> Headers | None:
    """The headers of a batch of such calls: of their variables it has those that are the same for all."""
    known = [headers for headers in each if headers]
    if not known:
        return None
    whole = dict(known[0])
    traced = [headers for headers in known if FUNCTION in headers]
    if traced:
        whole |= traced[0]
        whole[BATCH] = json.dumps([trace_fields(headers) for headers in traced]).encode()
    if (context := _shared_context([headers.get(CONTEXT) for headers in known], len(each))) is not None:
        whole[CONTEXT] = context
    else:
        whole.pop(CONTEXT, None)
    return whole or None


def _shared_context(contexts: Sequence[bytes | None], calls: int) -> bytes | None:
    given = [context for context in contexts if context is not None]
    if len(given) < calls:
        return None
    if len(set(given)) == 1:
        return given[0]
    each = [pickle.loads(context) for context in given]
    shared = [entry for entry in each[0] if all(entry in other for other in each[1:])]
    return pickle.dumps(shared, PROTOCOL) if shared else None
