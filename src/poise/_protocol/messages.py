"""The messages of the express lane, as the lists that frames carry: an operation, then its fields.

| operation | fields | from |
|---|---|---|
| CALL | those of `CallMessage` | caller |
| DEFINE | digest, pickled function | caller |
| RECALL | call ids | caller |
| CANCEL | call id | caller |
| CREDIT | call id, stream items | caller |
| REPLY | call id, verdict, value or exception or None, seconds of service | worker |
| ITEM | call id, item | worker |
| BEGUN | call ids that may begin from now on | worker |
| RECALL_DONE | | worker |
| COLLECT | call id whose reply waits in the worker for a Ray call | worker |
| COLLECT_ITEM | call id, the number under which an item of it waits there | worker |
| RETIRE | | worker, which asks to be replaced |
| LOG | packed log records, how many were dropped before | worker |
| SUBMIT | call id, what to run, arguments, credit, mark, function's name, terms (`_shared.terms`), headers | client |
| KILL | call id, seconds that its worker has, None for as many as the pool gives | client |
| CLASSES | the workers' classes, each by module and name | owner |

The last three are spoken by the processes that share a pool, its clients, and by its owner, which answers in the words
of a worker.

A packed value, and a pickled function, is bytes, or `[pickle, number of buffers]` with the buffers following in the
frame, in order. A large pickle is the first of the buffers itself, and None in its place.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

from poise._answers import NOT_BEGUN, RAISED, RETURNED
from poise._protocol.frames import DIRECT, MOST_BUFFERS, FrameError, Unloaded
from poise._protocol.functions import PickledFunction, Target
from poise._protocol.marks import MARKS, UNMARKED
from poise._protocol.payloads import Packed, Payload, nbytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from poise._protocol.records import LogBatch

CALL: Final = 0
DEFINE: Final = 1
RECALL: Final = 2
CANCEL: Final = 3
CREDIT: Final = 4
REPLY: Final = 5
ITEM: Final = 6
BEGUN: Final = 7
RECALL_DONE: Final = 8
COLLECT: Final = 9
COLLECT_ITEM: Final = 10
RETIRE: Final = 11
LOG: Final = 12
SUBMIT: Final = 13
KILL: Final = 14
CLASSES: Final = 15

DEPOSIT: Final = 16 << 20
"""Bytes above which a value goes through Ray's object store: there it is not copied on arrival (see docs/design.md)."""

Headers: TypeAlias = dict[str, bytes]
"""What travels with a call beside what it is to run."""


class CallMessage(NamedTuple):
    """What a worker is told of a call, over the socket as by Ray."""

    operation: int
    """`CALL`: as it is, this is a message of the express lane."""
    call_id: int
    target: Any
    """A `Target`, what to run; in a frame, bytes are the digest of a function that the worker knows."""
    arguments: Packed
    credit: int | None = None
    """For a stream, how many items it may send at first; None for a call with one result."""
    mark: int | None = None
    """Where the worker shows that it has begun. None if it holds a slot, so that it counts as begun anyway."""
    headers: Headers | None = None


new_call: Callable[[tuple[int, int, Target | bytes, Packed, int | None, int | None, Headers | None]], CallMessage]
"""`CallMessage` from its fields as a tuple: takes 0.3 us less, of the 3.5 us that it takes to send a call."""
new_call = partial(cast("Any", tuple).__new__, CallMessage)


ENDINGS: Final = (RETURNED, RAISED, NOT_BEGUN)
"""What a worker says of an attempt's end."""

_PACKED_AT: Final = {CALL: 3, DEFINE: 2, REPLY: 3, ITEM: 2, SUBMIT: 3}
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


def load_call(message: list[Any], buffers: Iterator[bytes | bytearray]) -> CallMessage:
    """Read a CALL.

    Raises:
        FrameError: it is not one.
        ValueError: it has too many fields or too few.
    """
    _, call_id, target, arguments, credit, mark, headers = message
    if type(target) is not str:
        target = load_function(target, b"")
    if type(arguments) is not bytes:
        arguments = load(arguments, buffers)
    if credit is not None:
        whole(credit)
    if mark is not None and (type(mark) is not int or not UNMARKED <= mark < MARKS):
        raise FrameError(f"a mark is a number from {UNMARKED} to {MARKS - 1}, and this is {mark!r}")
    if headers is not None:
        _check_headers(headers)
    return new_call((CALL, whole(call_id), target, arguments, credit, mark, headers))


def load_function(digest: Any, packed: Packed) -> PickledFunction:
    """A function, or what names one.

    Raises:
        FrameError: this is no digest.
    """
    if type(digest) is not bytes:
        raise FrameError(f"a digest is bytes, and this is {type(digest).__name__}")
    return PickledFunction(digest, packed)


def _check_headers(value: Any) -> None:
    headers: dict[Any, Any] = value
    if type(value) is not dict or not all(type(k) is str and type(v) is bytes for k, v in headers.items()):
        raise FrameError("headers are bytes by name, and these are none")


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


def log_batch(rows: Any, dropped: Any) -> LogBatch:
    """The records of a LOG.

    Raises:
        FrameError: they are none.
    """
    kind = type(rows)  # pyright: ignore[reportUnknownVariableType]
    given: list[Any] = rows
    if kind is not list or not all(type(row) is bytes for row in given):
        raise FrameError("packed log records stand here, and these are none")
    return given, whole(dropped)


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
