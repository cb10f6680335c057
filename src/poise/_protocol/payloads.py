"""Packed values, as they travel and are kept.

One is plain `bytes` in the common case. A `Payload` is needed for what bytes cannot hold: big buffers, which stay
outside the pickle, and Ray's own objects (`ObjectRef`, actor handles), which only Ray can count.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

from poise._protocol.buffers import settled
from poise._protocol.lifting import LIFTED, STRINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

PROTOCOL: Final = 5


class Payload(NamedTuple):
    """A packed value that is more than bytes."""

    data: bytes
    buffers: Sequence[Any] = ()
    """Out-of-band buffers, in the order in which the pickle asks for them."""
    nested: Sequence[Any] = ()
    """Ray objects found anywhere inside; they arrive as they are."""
    awaited: Sequence[Any] = ()
    """ObjectRefs given as arguments themselves; the worker's function gets their values, as in Ray."""


class Forwarded(Payload):
    """A packed value that is in Ray's object store, and is passed on by its reference, the one that is nested."""

    __slots__ = ()


Packed: TypeAlias = bytes | Payload


def nbytes(packed: Packed) -> int:
    """The size of a packed value, without Ray's objects."""
    if isinstance(packed, bytes):
        return len(packed)
    return len(packed.data) + sum(memoryview(buffer).nbytes for buffer in packed.buffers)


def for_ray(packed: Packed) -> Packed:
    """The same with what is long as buffers, so that Ray, which pickles what it carries, does not pickle it anew."""
    data = packed if isinstance(packed, bytes) else packed.data
    if len(data) >= LIFTED:
        data = cast("bytes", pickle.PickleBuffer(data))
    elif isinstance(packed, bytes):
        return packed
    if isinstance(packed, bytes):
        return Payload(data)
    return packed._replace(data=data, buffers=[_beside(buffer) for buffer in packed.buffers])


def _beside(buffer: Any) -> Any:
    """The buffer as one that is not pickled, if it is long."""
    return pickle.PickleBuffer(buffer) if type(buffer) in STRINGS and len(buffer) >= LIFTED else buffer


def detach(packed: Packed) -> Packed:
    """Copy those out-of-band buffers that somebody may still change, so that they may do so."""
    if isinstance(packed, bytes) or not packed.buffers:
        return packed
    return packed._replace(buffers=[settled(buffer) for buffer in packed.buffers])
