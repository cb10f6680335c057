"""Log records: how they travel from a worker to its caller, and are bounded on the way.

No user code can hurt here: a record whose text cannot be made, or a field that cannot be pickled, arrives with words
that say so.
"""

from __future__ import annotations

import logging
import pickle
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from poise._protocol.codec import unpack
from poise._protocol.payloads import PROTOCOL
from poise._protocol.pickling import pack_in_band
from poise._protocol.traces import format_trace
from poise._protocol.words import describe, type_name

if TYPE_CHECKING:
    from collections.abc import Mapping

LogBatch: TypeAlias = tuple[list[bytes], int]
"""Packed records, in order, and how many were dropped since that was told last."""

Levels: TypeAlias = tuple[int, dict[str, int]]
"""What `logging.disable` was given, and the level of each logger that has one; the root's name is ""."""

MOST_TEXT: Final = 16_384
"""Characters of a message, a traceback or a field; of longer ones the beginning and the end arrive."""
MOST_FIELD: Final = 16_384
"""Bytes of a pickled field; of a larger one its type alone arrives."""

_PLAIN: Final = frozenset({int, float, bool, type(None)})


def pack_record(record: logging.LogRecord, function: str, trace: Mapping[str, Any] = MappingProxyType({})) -> bytes:
    """Pack a record, as `logging.handlers.QueueHandler` prepares one: its message is text, and so is its exception.

    Args:
        record: anybody's.
        function: what the call runs that has logged it; "" if none has.
        trace: what is to be said of the trace that it is in, unless the record says it.
    """
    plain: dict[str, Any] = {"function": function, **trace}
    packed: dict[str, bytes] = {}
    for name, value in record.__dict__.items():
        if name in ("msg", "message", "args", "exc_info", "exc_text"):
            continue
        if type(value) in _PLAIN:
            plain[name] = value
        elif type(value) is str:
            plain[name] = shorten(value)
        else:
            _pack_field(name, value, plain, packed)
    plain["msg"] = shorten(_message_of(record))
    plain["exc_text"] = _exception_of(record)
    return pickle.dumps((plain, packed), PROTOCOL)


def unpack_record(row: bytes) -> logging.LogRecord:
    """The record as it is to be handled here."""
    plain, packed = pickle.loads(row)
    for name, data in packed.items():
        try:
            plain[name] = unpack(data)
        except BaseException as failure:  # noqa: BLE001 - a user's __setstate__ may raise anything
            plain[name] = f"<it could not be unpickled: {shorten(describe(failure))}>"
    return logging.makeLogRecord(plain)


def shorten(text: str) -> str:
    """The text, or its beginning and its end."""
    if len(text) <= MOST_TEXT:
        return text
    half = MOST_TEXT // 2
    return f"{text[:half]}... [{len(text) - 2 * half:,} characters left out] ...{text[-half:]}"


def _pack_field(name: str, value: Any, plain: dict[str, Any], packed: dict[str, bytes]) -> None:
    try:
        data = pack_in_band(value)
    except BaseException as failure:  # noqa: BLE001 - a user's __reduce__ may raise anything
        plain[name] = f"<{type_name(value)}, which could not be pickled: {shorten(describe(failure))}>"
        return
    if not isinstance(data, bytes):
        plain[name] = f"<{type_name(value)}, which holds objects of Ray's>"
    elif len(data) > MOST_FIELD:
        plain[name] = f"<{type_name(value)} of {len(data):,} bytes>"
    else:
        packed[name] = data


def _message_of(record: logging.LogRecord) -> str:
    try:
        return str.__str__(record.getMessage())
    except Exception as failure:  # noqa: BLE001 - the arguments do not fit, or a user's __str__ raised
        return f"a message could not be formatted: {describe(failure)}"


def _exception_of(record: logging.LogRecord) -> str | None:
    if record.exc_text:
        return shorten(record.exc_text)
    error = record.exc_info[1] if record.exc_info else None
    return None if error is None else shorten(format_trace(error).rstrip("\n"))
