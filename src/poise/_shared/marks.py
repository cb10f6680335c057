"""Which calls of a client have begun, in memory that it shares with the owner, so that it knows if the owner dies."""

from __future__ import annotations

import mmap
import os
from collections import deque
from typing import TYPE_CHECKING

from poise._shared.terms import MARKS

if TYPE_CHECKING:
    from collections.abc import Iterable


class Begun:
    """The client's book of its marks: for each call a byte, how many times it may have begun."""

    def __init__(self, memory: memoryview) -> None:
        """Use this memory, of `MARKS` bytes."""
        self._memory = memory
        self._held: dict[int, int] = {}
        self._free: deque[int] = deque()
        self._unused = 0

    def mark(self, call_id: int) -> int | None:
        """Give a call a mark, None if all are held."""
        if self._free:
            mark = self._free.popleft()
            self._memory[mark] = 0
        elif self._unused < MARKS:
            mark = self._unused
            self._unused += 1
        else:
            return None
        self._held[call_id] = mark
        return mark

    def let_go(self, call_id: int) -> None:
        """The call has ended there."""
        if (mark := self._held.pop(call_id, None)) is not None:
            self._free.append(mark)

    def attempts(self, call_ids: Iterable[int]) -> dict[int, int]:
        """How many times these calls may have begun, those of them that have marks."""
        return {call_id: self._memory[self._held[call_id]] for call_id in call_ids if call_id in self._held}


def make_marks(path: str) -> memoryview:
    """Make the memory, at a path in a directory that only this user can enter.

    Raises:
        OSError: there is no room for it.
    """
    with open(path, "x+b", opener=_private) as file:
        file.write(bytes(MARKS))  # not a hole: where the disk is full this fails, and not the access to memory later
        file.flush()
        return memoryview(mmap.mmap(file.fileno(), MARKS))


def join_marks(path: str) -> memoryview:
    """Share what the client has made.

    Raises:
        OSError: it is not there.
    """
    with open(path, "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), MARKS))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
