"""Framing: messages and big buffers as bytes on a stream, and back. No I/O.

```
frame   = magic "P1" | buffers u16 | body length u32 | a u64 length for each buffer | body | buffers
body    = msgpack of a list of messages
```

The highest bit of a length says that the buffer is `bytes`, and arrives as such; any other arrives as a `bytearray`.
Small frames are cut out of one window; a part of a frame that is larger than `DIRECT` is received straight into
memory of its own, so that a big array is copied once. Numbers are big-endian.
"""

from __future__ import annotations

import contextlib
import io
import struct
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgpack  # type: ignore[import-untyped] # pyright: ignore[reportMissingTypeStubs]

from poise._protocol.buffers import raw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

MAGIC: Final = b"P1"
MOST_BUFFERS: Final = 4096
"""So that the head of a frame always fits into the window."""
MOST_MESSAGES: Final = 512
"""In one frame as it is written: with `DIRECT` for each, its body is far from `MOST_BYTES`."""
MOST_BYTES: Final = 64 << 20
"""The largest body or buffer: a peer that claims more is refused before anything is allocated."""
WINDOW: Final = 256 * 1024
DIRECT: Final = 64 * 1024

HEAD: Final = struct.Struct("!2sHI")
_LENGTH: Final = struct.Struct("!Q")
_IS_BYTES: Final = 1 << 63


Unloaded: TypeAlias = tuple["Sequence[Any]", "Sequence[Buffer]"]
"""A message, and the buffers that it refers to."""

Frame: TypeAlias = tuple[list[Any], list[bytes | bytearray]]
"""Messages, and the buffers that they refer to."""


_msgpack: Any = msgpack  # which says nothing of its types


class FrameError(Exception):
    """The peer sent what is no frame. The connection cannot be used any more."""


def pack_frames(unloaded: Sequence[Unloaded]) -> list[bytes | memoryview]:
    """Make as few frames as will do, as pieces to be written one after the other; the buffers are not copied.

    Args:
        unloaded: messages of at most `DIRECT` bytes or so, each with at most `MOST_BUFFERS` contiguous buffers.
    """
    pieces: list[bytes | memoryview] = []
    messages: list[Sequence[Any]] = []
    buffers: list[Buffer] = []
    for message, own in unloaded:
        if len(messages) >= MOST_MESSAGES or len(buffers) + len(own) > MOST_BUFFERS:
            pieces += pack_frame(messages, buffers)
            messages, buffers = [], []
        messages.append(message)
        if own:
            buffers.extend(own)
    if messages:
        pieces += pack_frame(messages, buffers)
    return pieces


def pack_frame(messages: Sequence[Any], buffers: Sequence[Buffer] = ()) -> list[bytes | memoryview]:
    """Make one frame, as pieces to be written one after the other.

    Raises:
        FrameError: it has too many buffers.
    """
    body: bytes = _msgpack.packb(messages)
    if not buffers:
        return [b"%b%b" % (HEAD.pack(MAGIC, 0, len(body)), body)]
    views = [raw(buffer) for buffer in buffers]
    if len(views) > MOST_BUFFERS:
        raise FrameError(f"a frame of {len(views)} buffers is too large; {MOST_BUFFERS} are allowed")
    head = HEAD.pack(MAGIC, len(views), len(body)) + b"".join(map(_length_of, views))
    return [head + body, *views]


def _length_of(view: memoryview) -> bytes:
    return _LENGTH.pack(view.nbytes | _IS_BYTES if type(view.obj) is bytes else view.nbytes)


class _Large:
    """A large part of a frame, while it is received.

    `bytes` are received into the inside of a `BytesIO`, which then gives it away: a copy would be as much fresh memory
    once more, and for 15 MB the kernel may take 30 ms to find the pages.
    """

    __slots__ = ("_given", "_io", "_view", "_whole", "filled")

    def __init__(self, length: int, *, is_bytes: bool) -> None:
        self._io = io.BytesIO(bytes(length)) if is_bytes else None
        self._whole = bytearray(0 if is_bytes else length)
        self._view = memoryview(self._whole) if self._io is None else self._io.getbuffer()
        self.filled = 0

    @property
    def is_complete(self) -> bool:
        return self.filled == len(self._view)

    def buffer(self) -> memoryview:
        """Where the rest belongs."""
        self._given = self._view[self.filled :]
        return self._given

    def take(self) -> bytes | bytearray:
        """All of it."""
        if self._io is None:
            return self._whole
        with contextlib.suppress(BufferError):  # uvloop has not let go of it yet: then this is a copy
            self._given.release()
        self._view.release()
        return self._io.getvalue()


class FrameReader:
    """Turns received bytes into frames, whatever the pieces in which they come.

    `buffer` says where to put the next bytes and `received` how many were put there; then it is used no more.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        """Expect the beginning of a frame; refuse those with a part of more than `most_bytes`."""
        self._most_bytes = most_bytes
        self._window = bytearray(WINDOW)
        self._view = memoryview(self._window)
        self._start = 0
        self._end = 0
        # Invariant: the window holds, from `_start` to `_end`, what was received and not yet taken.
        self._direct: _Large | None = None
        """The large part that is being received, past the window. Invariant: the window is empty meanwhile."""
        self._lengths: list[int] | None = None
        """Of the parts of the current frame, the body first, then each buffer, as they travel. None before its head."""
        self._parts: list[bytes | bytearray] = []
        """What was received of the current frame."""

    def buffer(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        if self._direct is not None:
            return self._direct.buffer()
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start > WINDOW - DIRECT:
            rest = self._window[self._start : self._end]
            self._window[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        return self._view[self._end :]

    def received(self, count: int) -> list[Frame]:
        """Take note of `count` more bytes.

        Returns:
            The frames that are complete now, each as its messages and its buffers.

        Raises:
            FrameError: this is no frame.
        """
        if (direct := self._direct) is not None:
            direct.filled += count
            if not direct.is_complete:
                return []
            self._parts.append(direct.take())
            self._direct = None
        else:
            self._end += count
        frames: list[Frame] = []
        while self._start < self._end or self._lengths is not None:
            if (small := self._take_small()) is not None:
                frames.append((_unpack_body(small), []))
            elif self._take_parts():
                body, *buffers = self._parts
                self._parts = []
                self._lengths = None
                frames.append((_unpack_body(body), buffers))
            else:
                break
        return frames

    @property
    def is_between_frames(self) -> bool:
        """Whether nothing of a frame is left over: the end of the stream may come here and nowhere else."""
        return self._start == self._end and self._lengths is None

    def _take_small(self) -> memoryview | None:
        """Take the body of the next frame if the window holds all of it and it has no buffers: nearly always.

        Saves 2 us a frame over `_take_parts`, which needs no help from it.
        """
        start = self._start
        held = self._end - start
        if held < HEAD.size or self._lengths is not None:
            return None
        magic, buffers, length = HEAD.unpack_from(self._window, start)
        if magic != MAGIC or buffers or length > held - HEAD.size:
            return None
        self._start = start + HEAD.size + length
        return self._view[start + HEAD.size : self._start]

    def _take_parts(self) -> bool:
        """Take what the window holds of the current frame; True if the frame is complete."""
        if self._lengths is None and not self._take_head():
            return False
        lengths = self._lengths
        assert lengths is not None
        while len(self._parts) < len(lengths):
            length = lengths[len(self._parts)]
            kind = bytes if length & _IS_BYTES else bytearray
            length &= ~_IS_BYTES
            held = self._end - self._start
            if held >= length:
                self._parts.append(kind(self._view[self._start : self._start + length]))
                self._start += length
            elif length <= DIRECT:
                return False
            else:
                self._direct = direct = _Large(length, is_bytes=kind is bytes)
                direct.buffer()[:held] = self._view[self._start : self._end]
                direct.filled = held
                self._start = self._end = 0
                return False
        return True

    def _take_head(self) -> bool:
        held = self._end - self._start
        if held < HEAD.size:
            return False
        magic, buffers, body = HEAD.unpack_from(self._window, self._start)
        if magic != MAGIC:
            raise FrameError(f"a frame begins with {MAGIC!r}, and this peer sent {magic!r}")
        head = HEAD.size + buffers * _LENGTH.size
        if buffers > MOST_BUFFERS:
            raise FrameError(f"a frame of {buffers} buffers is too large; {MOST_BUFFERS} are allowed")
        if held < head:
            return False
        sizes = struct.unpack_from(f"!{buffers}Q", self._window, self._start + HEAD.size)
        largest = max(body, *(size & ~_IS_BYTES for size in sizes)) if sizes else body
        if largest > self._most_bytes:
            raise FrameError(f"a part of {largest} bytes is too large; {self._most_bytes} are allowed")
        self._start += head
        self._lengths = [body, *sizes]
        return True


def _unpack_body(body: bytes | bytearray | memoryview) -> list[Any]:
    try:
        messages: Any = _msgpack.unpackb(body, strict_map_key=False)
    except Exception as error:  # whatever its C code may raise
        raise FrameError(f"the body of a frame is not msgpack: {type(error).__name__}: {error}") from error
    kind = type(messages)  # pyright: ignore[reportUnknownVariableType]
    if kind is not list:
        raise FrameError(f"the body of a frame is a list of messages, and this is {kind.__name__}")
    found: list[Any] = messages
    return found
