"""A terminal of the test's own, with a program in it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import Self

_MARKS: Final = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>])")
"""What moves and colours."""


class Terminal:
    """Runs a command of poise's, reads what it draws, and types."""

    def __init__(self, *arguments: str, columns: int = 140, lines: int = 40) -> None:
        self._end, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))
        self._inside = inside
        self.before = termios.tcgetattr(inside)
        self._drawn = ""
        sized = ("COLUMNS", "LINES")  # of whatever runs the tests, and not of this terminal
        environment = {name: value for name, value in os.environ.items() if name not in sized}
        self.program = subprocess.Popen(
            [sys.executable, "-m", "poise.cli", *arguments],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            env={**environment, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.set_blocking(self._end, False)

    @property
    def now(self) -> list[object]:
        """How the terminal is set."""
        return list(termios.tcgetattr(self._inside))

    async def until(self, text: str, within: float = 20.0) -> str:
        """Wait until this is drawn anew, and return all that was since the last one that was waited for."""
        try:
            async with asyncio.timeout(within):
                while text not in (drawn := self._plain()):
                    self._read()
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"{text!r} was not drawn: {self._plain()[-3000:]}") from None
        self._drawn = ""
        return drawn

    def _plain(self) -> str:
        return re.sub(r" +", " ", _MARKS.sub("", self._drawn))

    def _read(self) -> None:
        try:
            self._drawn += os.read(self._end, 1 << 16).decode(errors="replace")
        except BlockingIOError:
            pass
        except OSError as error:
            raise AssertionError(f"the program has ended: {self._plain()[-3000:]}") from error

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._end, keys.encode())

    async def ended(self) -> int:
        """Wait for its end, and return its exit status."""
        async with asyncio.timeout(20):
            while self.program.poll() is None:
                self._read()
                await asyncio.sleep(0.01)
        self._read()
        return self.program.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.program.poll() is None:
            self.program.kill()
        self.program.wait()
        os.close(self._inside)
        os.close(self._end)
