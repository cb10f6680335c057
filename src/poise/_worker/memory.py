"""What memory this process has, and an inbox that looks at it between two calls."""

from __future__ import annotations

import os
import resource
import sys
from typing import TYPE_CHECKING, Final

from poise._worker.inbox import Arrival, Inbox

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PAGE: Final = resource.getpagesize()


class GaugedInbox(Inbox):
    """Tells, once, that the process has more memory than it is to have.

    A look takes 2 us. It comes before the next call is waited for, when the last one has let go of what it had.
    """

    def __init__(
        self, announce: Callable[[Sequence[int]], bool], most: int, tell: Callable[[int, bool], object]
    ) -> None:
        """Be empty.

        Args:
            announce: as for any inbox.
            most: how many bytes the process is to have.
            tell: called, on a runner thread, with those that it has and whether it has run nothing yet.
        """
        super().__init__(announce)
        self._gauge = Gauge()
        self._most = most
        self._tell = tell
        self._is_fresh = True
        self._is_told = False

    def take(self, wait: Callable[[], object] | None = None) -> Arrival | None:
        """See `Inbox`."""
        if not self._is_told:
            self._look()
        return super().take(wait)

    def _look(self) -> None:
        is_fresh, self._is_fresh = self._is_fresh, False
        if self._gauge.resident() > self._most and (own := self._gauge.own()) > self._most:
            self._is_told = True
            self._tell(own, is_fresh)


class Gauge:
    """Reads the resident set of this process."""

    def __init__(self) -> None:
        """Open what the kernel shows, where it does; it is closed with the process."""
        try:
            self._statm: int | None = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._statm = None

    def resident(self) -> int:
        """The resident set in bytes; without /proc the largest that it has been."""
        if self._statm is None:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return int(os.pread(self._statm, 128, 0).split()[1]) * _PAGE

    def own(self) -> int:
        """The same without memory that is shared by name, such as what it has read in Ray's object store."""
        return self.resident() - (0 if self._statm is None else _shared_memory())


def _shared_memory() -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("RssShmem:"):
                return int(line.split()[1]) * 1024
    return 0  # a kernel before 4.5 does not tell
