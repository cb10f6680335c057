"""How the death of a worker's process is seen, and made sure of."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class ProcessWatch:
    """Watches a process of this machine through the kernel, which cannot mistake another process for it.

    A pidfd names the process itself and not its number, so a number that is used again does no harm.
    """

    def __init__(self, pid: int, loop: asyncio.AbstractEventLoop, on_exit: Callable[[], None]) -> None:
        """Watch, and call `on_exit` on the loop once the process has ended.

        Raises:
            OSError: there is no such process, or the system has no pidfd.
            NotImplementedError: the loop cannot watch it.
        """
        if not hasattr(os, "pidfd_open"):
            raise OSError("this system has no pidfd")
        self._loop = loop
        self._on_exit = on_exit
        self._fd: int | None = os.pidfd_open(pid)
        try:
            loop.add_reader(self._fd, self._exited)
        except BaseException:
            self.close(watched=False)
            raise

    def kill(self) -> None:
        """Send the process SIGKILL, if it still lives."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)

    def close(self, *, watched: bool = True) -> None:
        """Stop watching."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            if watched:
                self._loop.remove_reader(fd)
            os.close(fd)

    def __del__(self) -> None:
        """Leave no descriptor: a pool was never closed, and its loop, which held this, has ended."""
        if getattr(self, "_fd", None) is not None:
            self.close(watched=False)

    def _exited(self) -> None:
        self.close()
        self._on_exit()
