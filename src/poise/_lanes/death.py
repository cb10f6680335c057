"""How the death of a worker's process is seen, and made sure of."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


_GET_INFO: Final = 0xC040FF0B
"""PIDFD_GET_INFO of Linux 6.13 and later, for a `struct pidfd_info` of 64 bytes (linux/pidfd.h)."""
_INFO_EXIT: Final = 1 << 3
"""PIDFD_INFO_EXIT, Linux 6.15: the mask says whether the exit code, at offset 60, is known."""
_EXIT_CODE_AT: Final = 60
_ENDING: Final = 0.005
"""Seconds. A process closes its sockets and ends; the loop may as well stand still for what is between."""


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
        self._pid = pid
        self._loop = loop
        self._on_exit = on_exit
        self.fate: str | None = None
        """How the process ended, once it is known to have done so, as far as the kernel tells."""
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

    def look(self) -> str | None:
        """How the process has ended, if it has and the kernel tells. One that is just ending is waited for."""
        if self.fate is None and self._fd is not None:
            _wait_for(self._fd)
            status = _status_of_the_gone(self._fd)
            if status is None:
                status = _status_of_a_zombie(self._pid)
            self.fate = None if status is None else _told(status)
        return self.fate

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
        self.look()
        self.close()
        self._on_exit()


def _wait_for(fd: int) -> None:
    ending = select.poll()
    ending.register(fd, select.POLLIN)
    ending.poll(_ENDING * 1000)


def _status_of_the_gone(fd: int) -> int | None:
    """The wait status of a process that has been waited for; None before that, and from older kernels."""
    info = bytearray(struct.pack("=Q56x", _INFO_EXIT))
    try:
        fcntl.ioctl(fd, _GET_INFO, info)
    except OSError:
        return None
    (mask,) = struct.unpack_from("=Q", info)
    (status,) = struct.unpack_from("=i", info, _EXIT_CODE_AT)
    return status if mask & _INFO_EXIT else None


def _status_of_a_zombie(pid: int) -> int | None:
    """The wait status of a process that has not been waited for: the last of the fields of `/proc/PID/stat`."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return (int(fields[-1]) or None) if fields[:1] == [b"Z"] else None  # 0 may also mean that we may not know


def _told(status: int) -> str:
    """A wait status in words."""
    if not os.WIFSIGNALED(status):
        return f"its process exited with code {os.waitstatus_to_exitcode(status)}"
    number = os.WTERMSIG(status)
    try:
        name = signal.Signals(number).name
    except ValueError:  # a real-time signal
        name = "a real-time signal"
    hint = "; if nobody sent it, memory ran out: see the kernel's log" if number == signal.SIGKILL else ""
    return f"its process was killed by signal {number} ({name}){hint}"
