"""Which calls of a client may have begun, and which it has given up, in memory that it shares with the owner.

So the client knows what had begun if the owner dies; and a call that it gives up before the owner has given it to a
worker does not begin, however long its words are on their way. Each call has two bytes. The owner sets the first and
then looks at the second, the client the other way round: see `poise._protocol.marks`.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from typing import TYPE_CHECKING, Final

from poise._protocol.marks import Fence

if TYPE_CHECKING:
    from collections.abc import Iterable


MARKS: Final = 1 << 16
"""Calls of one client that have marks at once; any more are in doubt if the owner dies."""


class ClientMarks:
    """The client's book of its marks."""

    def __init__(self, memory: memoryview) -> None:
        """Use this memory, of twice `MARKS` bytes."""
        self._begun = memory[:MARKS]
        self._given_up = memory[MARKS:]
        self._fence = Fence()
        self._held: dict[int, int] = {}
        self._free: deque[int] = deque()
        self._unused = 0

    def mark(self, call_id: int) -> int | None:
        """Give a call a mark, None if all are held."""
        if self._free:
            mark = self._free.popleft()
            self._begun[mark] = self._given_up[mark] = 0
        elif self._unused < MARKS:
            mark = self._unused
            self._unused += 1
        else:
            return None
        self._held[call_id] = mark
        return mark

    def take_back(self, call_ids: Iterable[int]) -> list[int]:
        """Those of these calls that have not begun are not to begin any more; say which they are."""
        held = {call_id: self._held[call_id] for call_id in call_ids if call_id in self._held}
        for mark in held.values():
            self._given_up[mark] = 1
        self._fence()
        return [call_id for call_id, mark in held.items() if not self._begun[mark]]

    def let_go(self, call_id: int) -> None:
        """The call has ended there."""
        if (mark := self._held.pop(call_id, None)) is not None:
            self._free.append(mark)

    def attempts(self, call_ids: Iterable[int]) -> dict[int, int]:
        """How many times these calls may have begun, those of them that have marks."""
        return {call_id: self._begun[self._held[call_id]] for call_id in call_ids if call_id in self._held}


class OwnerMarks:
    """The owner's view of them."""

    def __init__(self, memory: memoryview) -> None:
        """Use this memory."""
        self._begun = memory[:MARKS]
        self._given_up = memory[MARKS:]
        self._fence = Fence()

    def begin(self, mark: int, attempt: int) -> bool:
        """A call is about to be given to a worker for the so-manieth time; False if it was given up."""
        self._begun[mark] = min(attempt, 255)
        self._fence()
        return not self._given_up[mark]


def make_marks(path: str) -> memoryview:
    """Make the memory, at a path in a directory that only this user can enter.

    Raises:
        OSError: there is no room for it.
    """
    with open(path, "x+b", opener=_private) as file:
        file.write(bytes(2 * MARKS))  # not a hole: where the disk is full this fails, and not a later access
        file.flush()
        return memoryview(mmap.mmap(file.fileno(), 2 * MARKS))


def join_marks(path: str) -> memoryview:
    """Share what the client has made.

    Raises:
        OSError: it is not there.
    """
    with open(path, "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 2 * MARKS))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
