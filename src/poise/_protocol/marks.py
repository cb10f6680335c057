"""Which calls that were sent ahead have begun, in memory that the caller and the worker share.

Each such call has two bytes. The worker sets the first before it begins the call, and then looks at the second; the
caller sets the second to withdraw the call, and then looks at the first (Dekker's algorithm). So at least one of them
sees the other, however late the worker reads its messages: a call of which the caller saw that it had not begun when
it withdrew it will never begin. If both see each other the call does not begin, and the worker says so.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

MARKS: Final = 1024
"""Calls that one worker can hold with a mark: what is sent ahead at most, and as many again that have moved up."""
MARKS_SIZE: Final = 2 * MARKS
"""Bytes of memory."""
UNMARKED: Final = -1
"""For a call that was sent ahead and has no mark, so that it cannot be withdrawn."""


class Fence:
    """Keeps what a thread reads or writes after it from happening before what it has written before it.

    To let go of a lock and to take it afterwards is a full barrier, for other processes as well: nothing moves down
    past the release, nothing moves up past the acquisition, and these two stay in order (on x86 each is a locked
    instruction; on ARM a store-release and a load-acquire). Either alone would not do. It takes 0.3 us.
    """

    __slots__ = ("_own",)

    def __init__(self) -> None:
        self._own = threading.local()

    def __call__(self) -> None:
        """Be passed."""
        try:
            gate: threading.Lock = self._own.gate
        except AttributeError:  # a lock for each thread, which always holds it
            gate = self._own.gate = threading.Lock()
            gate.acquire()
        gate.release()
        gate.acquire()


class Marks:
    """One side's view of them."""

    __slots__ = ("_begun", "_fence", "_withdrawn")

    def __init__(self, memory: memoryview) -> None:
        """Use this memory, of `MARKS_SIZE` bytes."""
        self._begun = memory[:MARKS]
        self._withdrawn = memory[MARKS:MARKS_SIZE]
        self._fence = Fence()

    def begin(self, mark: int) -> bool:
        """The worker is about to begin a call; False if it was withdrawn and must not begin."""
        self._begun[mark] = 1
        self._fence()
        return not self._withdrawn[mark]

    def clear(self, mark: int) -> None:
        """The caller gives the mark to a new call, which it has not sent yet."""
        self._begun[mark] = 0
        self._withdrawn[mark] = 0

    def withdraw(self, marks: Sequence[int]) -> list[bool]:
        """The caller wants these calls back: for each of them, whether it has not begun and cannot begin any more."""
        for mark in marks:
            self._withdrawn[mark] = 1
        self._fence()
        return [not self._begun[mark] for mark in marks]
