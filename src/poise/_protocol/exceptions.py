"""Exceptions: how they travel as themselves, and what stands for those that cannot.

No user code can hurt here: whatever `__reduce__`, `__setstate__` or `__str__` raises becomes a `RemoteError` for that
one call. That is why this module catches `BaseException` where it runs such code.
"""

from __future__ import annotations

import pickle
from typing import Final, cast

from poise._protocol.codec import unpack
from poise._protocol.payloads import PROTOCOL, Packed, Payload
from poise._protocol.pickling import pack_in_band
from poise._protocol.traces import format_trace, set_cause
from poise._protocol.words import describe, text_of, type_name
from poise.errors import RemoteError


def pack_exception(error: BaseException, *, skip_frames: int = 0) -> Packed:
    """Pack an exception that is to arrive as itself, together with the text that stands in if it cannot. Never raises.

    Args:
        error: what the user's code raised, or an error of ours.
        skip_frames: how many frames of the worker's own code begin the traceback.
    """
    try:
        return _pack_exception(error, skip_frames)
    except BaseException:  # noqa: BLE001 - no memory, or what nobody has thought of: the call must end all the same
        return _UNTOLD


def unpack_exception(packed: Packed) -> Exception:
    """Unpack an exception: the user's own with the remote traceback as its cause, or a `RemoteError`. Never raises."""
    try:
        return _unpack_exception(packed)
    except BaseException as failure:  # noqa: BLE001 - as above, and what is no packed exception at all
        return RemoteError("an exception", "it could not be read", "", describe(failure))


_ENDERS: Final = frozenset({SystemExit, KeyboardInterrupt})
"""What ends programs arrives as a `RemoteError`, which ends none; it is the cause of that."""

_UNTOLD: Final = pickle.dumps(("an exception", "it could not be told", "", None, "to pack it failed"), PROTOCOL)
"""Made beforehand: it is for when nothing can be made any more."""


def _pack_exception(error: BaseException, skip_frames: int) -> Packed:
    text = format_trace(error, skip_frames)
    inner: Packed | None = None
    why = ""
    if _may_arrive(error) or type(error) in _ENDERS:
        try:
            inner = pack_in_band(error)
        except BaseException as failure:  # noqa: BLE001 - a user's __reduce__ may raise anything
            why = f"it could not be pickled: {describe(failure)}"
    data = inner.data if isinstance(inner, Payload) else inner
    outer = pickle.dumps((type_name(error), text_of(error), text, data, why), PROTOCOL)
    return Payload(outer, (), inner.nested) if isinstance(inner, Payload) else outer


def _unpack_exception(packed: Packed) -> Exception:
    nested = packed.nested if isinstance(packed, Payload) else ()
    name, text, trace, data, why = pickle.loads(packed.data if isinstance(packed, Payload) else packed)
    if data is not None:
        try:
            error = unpack(Payload(data, (), nested) if nested else data)
            if _may_arrive(error):
                set_cause(error, trace)
                return cast("Exception", error)
            if type(error) in _ENDERS:
                set_cause(error, trace)
                remote = RemoteError(name, text, trace)
                remote.__cause__ = error
                return remote
            why = f"it was unpickled as {type_name(error)}"
        except BaseException as failure:  # noqa: BLE001 - a user's __setstate__ may raise anything
            why = f"it could not be unpickled: {describe(failure)}"
    return RemoteError(name, text, trace, why)


def _may_arrive(error: object) -> bool:
    """Whether the exception can be raised to a caller as itself; its class is asked, and not what it says of that."""
    kind = type(error)
    return issubclass(kind, Exception) and not issubclass(kind, StopIteration | StopAsyncIteration)
