"""Values: how arguments and results travel, and how they fail to.

No user code can hurt here: whatever `__reduce__` or `__setstate__` raises becomes a `PayloadError` for that one call.
That is why this module catches `BaseException` where it runs such code.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, Final, cast

from poise._protocol.buffers import own
from poise._protocol.bundles import Bundle, Part
from poise._protocol.lifting import STRINGS, Lift, is_long, long_strings
from poise._protocol.payloads import PROTOCOL, Packed, Payload
from poise._protocol.pickling import Awaited, Unpickler, object_ref_type, pack_deep
from poise._protocol.traces import drop_frames
from poise._protocol.words import describe
from poise.errors import PayloadError, not_pickled

if TYPE_CHECKING:
    from collections.abc import Sequence

FLAT_LIMIT: Final = 64
"""Containers up to this length are looked through for scalars; a longer look would cost more than it saves."""

_SCALARS: Final = frozenset({int, float, bool, type(None)})


def pack(value: Any, what: str = "the value", *, started: bool = False) -> Packed:
    """Pack one value.

    Args:
        value: anything.
        what: how a `PayloadError` names it.
        started: what a `PayloadError` says of the call.

    Raises:
        PayloadError: the value cannot be pickled.
    """
    try:
        if type(value) in _SCALARS:
            return pickle.dumps(value, PROTOCOL)
        shape = _shape_of(value)
        if shape == _DEEP:
            return pack_deep(value, (), long_strings((value,)))
        return pickle.dumps(value, PROTOCOL) if shape == _FLAT else _pack_lifted(Lift().flat(value))
    except BaseException as error:
        drop_frames(error)
        raise not_pickled(what, describe(error), error, started=started) from error


def pack_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Packed:
    """Pack a call's arguments; ObjectRefs among them (not inside them) are to be replaced by their values.

    Raises:
        PayloadError: an argument cannot be pickled; the error names it.
    """
    try:
        is_lifted = False
        for value in args if not kwargs else (*args, *kwargs.values()):
            if type(value) in _SCALARS:
                continue
            shape = _shape_of(value)
            if shape == _DEEP:
                return _pack_deep_arguments(args, kwargs)
            is_lifted |= shape == _LONG
        # Positional arguments alone travel as a tuple, so that the commonest call packs nothing else.
        if not is_lifted:
            return pickle.dumps([args, kwargs] if kwargs else args, PROTOCOL)
        lift = Lift()
        args = tuple(lift.flat(value) for value in args)
        named = {name: lift.flat(value) for name, value in kwargs.items()}
        return _pack_lifted([args, named] if named else args)
    except PayloadError:
        raise
    except BaseException as error:  # there is no memory for them
        drop_frames(error)
        raise PayloadError("the arguments", describe(error), started=False) from error


def unpack(packed: Packed, awaited: Sequence[Any] = (), *, writable: bool = False) -> Any:
    """Unpack a value, once: it may take the payload's buffers for its own.

    Args:
        packed: the value.
        awaited: the values of the payload's `awaited` references.
        writable: whether large arrays and other views of out-of-band buffers may be written to, as small ones may;
            else they are read-only, as in Ray.

    Raises:
        BaseException: whatever the pickle raises, which with user-defined classes may be anything.
    """
    if type(packed) is bytes:
        return pickle.loads(packed)
    packed = cast("Payload", packed)
    buffers = [own(buffer, writable=writable) for buffer in packed.buffers]
    if not packed.nested and not packed.awaited:
        return pickle.loads(packed.data, buffers=buffers)
    return Unpickler(packed.data, buffers, packed.nested, awaited).load()


def packed_part(part: Part) -> Packed:
    """A part of a bundle that has arrived, as it was packed."""
    return Payload(*part) if type(part) is tuple else part


def unpack_part(part: Part, what: str, *, started: bool) -> Any:
    """Unpack one value of a bundle that has arrived, whose buffers came as they are to be handed out.

    Raises:
        PayloadError: it cannot be unpickled here.
    """
    packed = packed_part(part)
    try:
        if not isinstance(packed, Payload):
            return pickle.loads(packed)
        return Unpickler(packed.data, list(packed.buffers), packed.nested, ()).load()
    except BaseException as error:
        drop_frames(error)
        raise PayloadError(what, describe(error), started=started) from error


def unpack_arguments(
    packed: Packed, awaited: Sequence[Any] = (), *, writable: bool = False
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Unpack a call's arguments; see `unpack`.

    Raises:
        PayloadError: they cannot be unpickled here.
    """
    try:
        loaded = unpack(packed, awaited, writable=writable)
    except BaseException as error:
        drop_frames(error)
        raise PayloadError("the arguments", describe(error), started=False) from error
    if type(loaded) is tuple:
        return loaded, {}  # pyright: ignore[reportUnknownVariableType]
    args, kwargs = loaded
    return args, kwargs


def unpack_result(packed: Packed, what: str = "the result", *, writable: bool = False) -> Any:
    """Unpack what a call returned; see `unpack`.

    Raises:
        PayloadError: it cannot be unpickled here.
    """
    try:
        return unpack(packed, writable=writable)
    except BaseException as error:
        drop_frames(error)
        raise PayloadError(what, describe(error), started=True) from error


# What has to be done to pack a value; whole numbers, because an enum's members take 40 ns to name.
_FLAT: Final = 0
"""Nothing: it is a scalar or a string, or a small list, tuple or dict of them, in which pickle meets no surprise."""
_LONG: Final = 1
"""Lifting: it is the same with a long string in it."""
_DEEP: Final = 2
"""Cloudpickle's work: it is anything else."""


def _shape_of(value: Any) -> int:
    """Look at a value that is no scalar, and at the items of a small container."""
    kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType] - narrowing would make the items unknown
    if kind in STRINGS:
        return _LONG if is_long(value) else _FLAT
    if kind is list or kind is tuple:
        items = value
    elif kind is dict:
        items = (*value, *value.values())
    else:
        return _FLAT if issubclass(kind, Bundle) and value.is_flat else _DEEP
    if len(value) > FLAT_LIMIT:
        return _DEEP
    shape = _FLAT
    for item in items:
        if type(item) not in _SCALARS:
            if type(item) not in STRINGS:
                return _DEEP
            if is_long(item):
                shape = _LONG
    return shape


def _pack_lifted(value: Any) -> Payload:
    buffers: list[Any] = []
    return Payload(pickle.dumps(value, PROTOCOL, buffer_callback=buffers.append), buffers)


def _pack_deep_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Packed:
    awaited: list[Any] = []
    ref_type = object_ref_type()

    def placeholder(value: Any) -> Any:
        if ref_type is not None and issubclass(type(value), ref_type):
            awaited.append(value)
            return Awaited(len(awaited) - 1)
        return value

    long = long_strings((*args, *kwargs.values()))
    args = tuple(placeholder(value) for value in args)
    named = {name: placeholder(value) for name, value in kwargs.items()}
    try:
        return pack_deep([args, named] if named else args, awaited, long)
    except BaseException as error:
        what, reason = _culprit(args, named, error)
        drop_frames(error)
        raise not_pickled(what, reason, error, started=False) from error


def _culprit(args: tuple[Any, ...], kwargs: dict[str, Any], error: BaseException) -> tuple[str, str]:
    """Say which argument alone cannot be pickled, and why."""
    names = [(f"argument {position}", value) for position, value in enumerate(args, 1)]
    names += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for what, value in names:
        try:
            pack_deep(value)
        except BaseException as alone:  # noqa: BLE001 - a user's __reduce__ may raise anything
            return what, describe(alone)
    return "the arguments", describe(error)
