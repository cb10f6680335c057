"""The messages of the express lane, as the lists that frames carry: an operation, then its fields.

| operation | fields | from |
|---|---|---|
| CALL | call id, method name or digest, arguments, stream credit or None, mark if it was sent ahead or None | caller |
| DEFINE | digest, pickled function | caller |
| RECALL | call ids | caller |
| CANCEL | call id | caller |
| GRANT | call id, stream items | caller |
| REPLY | call id, verdict, value or exception or None, seconds of service | worker |
| ITEM | call id, item | worker |
| BEGUN | call ids that may begin from now on | worker |
| RECALL_DONE | | worker |
| COLLECT | call id whose reply waits in the worker for a Ray call | worker |
| COLLECT_ITEM | call id, the number under which an item of it waits there | worker |

A packed value, and a pickled function, is bytes, or `[pickle, number of buffers]` with the buffers following in the
frame, in order. A large pickle is the first of the buffers itself, and None in its place.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, cast

from poise._protocol.codec import NOT_BEGUN, RAISED, RETURNED, Packed, Payload, nbytes
from poise._protocol.frames import DIRECT, MOST_BUFFERS, FrameError, Unloaded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CALL: Final = 0
DEFINE: Final = 1
RECALL: Final = 2
CANCEL: Final = 3
GRANT: Final = 4
REPLY: Final = 5
ITEM: Final = 6
BEGUN: Final = 7
RECALL_DONE: Final = 8
COLLECT: Final = 9
COLLECT_ITEM: Final = 10

DEPOSIT: Final = 16 << 20
"""Bytes above which a value goes through Ray's object store: there it is not copied on arrival (see docs/design.md)."""

VERDICTS: Final = (RETURNED, RAISED, NOT_BEGUN)

_PACKED_AT: Final = {CALL: 3, DEFINE: 2, REPLY: 3, ITEM: 2}
"""Where the packed value of a message stands."""


def is_express(packed: Packed) -> bool:
    """Whether a frame can carry the value: it holds no Ray object and is not too large."""
    if type(packed) is bytes:
        return len(packed) <= DEPOSIT
    payload = cast("Payload", packed)
    if payload.nested or payload.awaited or len(payload.buffers) > MOST_BUFFERS // 2:
        return False
    return nbytes(payload) <= DEPOSIT


def unload(message: Sequence[Any]) -> Unloaded:
    """Take the buffers of a message's packed value, and the value itself if it is large, out of the message."""
    position = _PACKED_AT.get(message[0])
    if position is None or (packed := message[position]) is None:
        return message, ()
    if type(packed) is bytes:
        if len(packed) <= DIRECT:
            return message, ()
        packed = Payload(packed)
    data = packed.data
    own = packed.buffers
    if len(data) > DIRECT:
        own = [data, *own]
        data = None
    return [*message[:position], [data, len(own)], *message[position + 1 :]], own


def whole(value: Any) -> int:
    """Return the value if it is a number of a call, or of items.

    Raises:
        FrameError: it is not.
    """
    if type(value) is not int or value < 0:
        raise FrameError(f"a whole number stands here, and this is {type(value).__name__}")
    return value


def wholes(values: Any) -> list[int]:
    """Return the values if they are a list of numbers of calls.

    Raises:
        FrameError: they are not.
    """
    kind = type(values)  # pyright: ignore[reportUnknownVariableType]
    if kind is not list:
        raise FrameError(f"a list of calls stands here, and this is {kind.__name__}")
    given: list[Any] = values
    return [whole(value) for value in given]


def seconds(value: Any) -> float:
    """Return the value if it is a length of time.

    Raises:
        FrameError: it is not.
    """
    if type(value) is not float or not 0 <= value < math.inf:
        raise FrameError("a length of time stands here, and this is none")
    return value


def load(packed: Any, buffers: Iterator[bytes | bytearray]) -> Packed:
    """Put a packed value together again.

    Raises:
        FrameError: it is not one.
    """
    if type(packed) is bytes:
        return packed
    try:
        data, count = packed
        own = [next(buffers) for _ in range(count)]
        if data is None:
            data = own.pop(0)
    except (TypeError, ValueError, StopIteration, RuntimeError, IndexError, OverflowError):
        raise _no_packed_value() from None
    if not isinstance(data, bytes | bytearray):
        raise _no_packed_value()
    return Payload(cast("bytes", data), own)  # or a bytearray, which unpickles as well


def _no_packed_value() -> FrameError:
    return FrameError("a packed value is bytes, or a pickle and the number of its buffers")
