"""Buffers beside a pickle: whose they are, and whether they may still change."""

from __future__ import annotations

import pickle
import sys
from typing import Any, Final

COPIED_BELOW: Final = 64 * 1024
"""Bytes of a buffer below which it is copied on arrival rather than handed out read-only: that takes microseconds."""


def raw(buffer: Any) -> memoryview:
    """The bytes of a contiguous buffer as they lie in memory, whatever its shape."""
    return pickle.PickleBuffer(buffer).raw()


def own(buffer: Any, *, writable: bool) -> bytearray | memoryview:
    """A buffer for what is unpacked: its own to write to if it is small or that is asked for, else read-only.

    A `bytearray` was received from a socket, or copied, and belongs to nobody else; all others may be the caller's or
    Ray's. What was packed from `bytes` is received as `bytes`, and read-only whatever is asked for.
    """
    view = memoryview(buffer)
    if type(buffer) is bytearray:
        return buffer if writable or view.nbytes < COPIED_BELOW else view.toreadonly()
    if type(buffer) is bytes or (view.nbytes >= COPIED_BELOW and not writable and type(view.obj) is not bytearray):
        return view.toreadonly()
    return bytearray(raw(buffer))


def settled(buffer: Any) -> Any:
    """The buffer if its bytes do not change any more, as `may_change` has it, else a copy that is nobody else's."""
    if may_change(buffer):
        return bytearray(raw(buffer))
    owner = memoryview(buffer).obj
    return owner if type(owner) is bytearray else buffer


def unchanging(view: memoryview) -> memoryview:
    """The same bytes, which stay what they are: a copy, unless they lie in `bytes`."""
    return view if type(view.obj) is bytes else memoryview(bytes(view))


def may_change(buffer: Any) -> bool:
    """Whether the bytes of a buffer may still change: unless they are immutable, or nothing else refers to them.

    What cannot be looked through may change. Whoever asks has let go of the object that was packed.
    """
    owner: Any = memoryview(buffer).obj
    is_alone = sys.getrefcount(owner) <= _ALONE
    numpy = sys.modules.get("numpy")
    while isinstance(owner, memoryview) or (numpy is not None and isinstance(owner, numpy.ndarray)):
        below: Any = owner.obj if isinstance(owner, memoryview) else owner.base
        if below is None:
            return not is_alone
        owner = below
        del below
        is_alone = is_alone and sys.getrefcount(owner) <= _ALONE
    if isinstance(owner, bytes) or (type(owner).__module__ == "ray._raylet" and owner.readonly):
        return False  # what Ray's object store holds is sealed
    return not (is_alone and isinstance(owner, bytearray))


def _references_of_one_holder() -> int:
    buffer = pickle.PickleBuffer(bytearray(1))
    owner = memoryview(buffer).obj
    return sys.getrefcount(owner)


_ALONE: Final = _references_of_one_holder()
