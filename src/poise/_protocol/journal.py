"""What one side has said and not written yet, in memory that the other can read.

A worker writes the replies of short calls together. While one call keeps the interpreter to itself, or the process is
stopped, those before it are not written; from shared memory the caller takes them all the same. Messages have numbers
in the order in which they were said, so that one that was read here is known when it comes over the connection.

```
memory = number of the first message u64 | length of the messages u64 | a frame: head, array header, messages
```
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import msgpack  # type: ignore[import-untyped] # pyright: ignore[reportMissingTypeStubs]

from poise._protocol.frames import HEAD, MAGIC
from poise._protocol.marks import Fence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

JOURNAL_SIZE: Final = 64 * 1024
"""Bytes of memory: some hundred replies of short calls."""

_FIRST: Final = 0
_LENGTH: Final = 1
_FRAME: Final = 16
_ARRAY: Final = struct.Struct("!BI")
_ARRAY_32: Final = 0xDD
"""Msgpack's sign for an array with a length of 32 bits."""
_MESSAGES: Final = _FRAME + HEAD.size + _ARRAY.size

_msgpack: Any = msgpack  # which says nothing of its types


class Journal:
    """The writer's side; not for two threads at once."""

    __slots__ = ("_count", "_end", "_fence", "_memory", "_pack", "_words")

    def __init__(self, memory: memoryview) -> None:
        """Use this memory, which nobody has used."""
        self._memory = memory
        self._words = memory[:_FRAME].cast("Q")
        self._fence = Fence()
        self._pack = _msgpack.Packer().pack
        self._end = _MESSAGES
        self._count = 0

    def __len__(self) -> int:
        """How many messages it holds."""
        return self._count

    def append(self, message: Sequence[Any]) -> bool:
        """Add a message without buffers; False if it has no room for it."""
        packed: bytes = self._pack(message)
        end = self._end + len(packed)
        if end > len(self._memory):
            return False
        self._memory[self._end : end] = packed
        self._end = end
        self._count += 1
        self._fence()  # who sees the length sees what it counts
        self._words[_LENGTH] = end - _MESSAGES
        return True

    def frame(self) -> memoryview:
        """All of it, as a frame to be written."""
        body = self._end - _MESSAGES + _ARRAY.size
        HEAD.pack_into(self._memory, _FRAME, MAGIC, 0, body)
        _ARRAY.pack_into(self._memory, _FRAME + HEAD.size, _ARRAY_32, self._count)
        return self._memory[_FRAME : self._end]

    def written(self, others: int = 0) -> None:
        """Be empty: all of it was written, and so were `others` that were said after it and never stood here."""
        said = self._count + others
        self._end = _MESSAGES
        self._count = 0
        self._words[_LENGTH] = 0
        self._fence()
        self._words[_FIRST] += said
        self._fence()  # who sees what comes next in the place of what was here sees this first


class JournalReader:
    """The other side."""

    __slots__ = ("_fence", "_memory", "_words")

    def __init__(self, memory: memoryview, fence: Callable[[], object] | None = None) -> None:
        """Read this memory, passing a fence of one's own between two looks at it."""
        self._memory = memory
        self._words = memory[:_FRAME].cast("Q")
        self._fence = fence or Fence()

    def read(self) -> tuple[int, list[Any]] | None:
        """The number of the first message and the messages, or None if they are being written at this moment."""
        first = self._words[_FIRST]
        self._fence()
        length = self._words[_LENGTH]
        self._fence()
        packed = bytes(self._memory[_MESSAGES : _MESSAGES + length])
        self._fence()
        if self._words[_FIRST] != first:
            return None
        unpacker = _msgpack.Unpacker(strict_map_key=False)
        unpacker.feed(packed)
        return first, list(unpacker)
