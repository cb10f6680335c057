"""Keys that are pressed in a terminal, one at a time."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from typing import Self

_NAMES: Final = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1b": "escape",
    "\r": "enter",
    "\n": "enter",
    "\t": "tab",
    "\x7f": "backspace",
    "\x08": "backspace",
}


class Keys:
    """Reads the keys of standard input, which is a terminal; Ctrl-C stays what it is."""

    def __init__(self) -> None:
        self._terminal = sys.stdin.fileno()
        self._before: list[Any] = []
        self._rest = ""

    def __enter__(self) -> Self:
        """Have each key at once, and none of them printed."""
        self._before = termios.tcgetattr(self._terminal)
        tty.setcbreak(self._terminal)
        return self

    def __exit__(self, *_: object) -> None:
        termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._before)

    def read(self, within: float) -> str | None:
        """Wait so many seconds for a key, and return its name, or what it prints; None if none was pressed.

        Raises:
            EOFError: the terminal is gone.
        """
        if not self._rest:
            ready, _, _ = select.select([self._terminal], [], [], max(0.0, within))
            if not ready:
                return None
            self._rest = os.read(self._terminal, 64).decode(errors="ignore")
            if not self._rest:
                raise EOFError
        key = next((each for each in _NAMES if self._rest.startswith(each)), self._rest[0])
        self._rest = self._rest[len(key) :]
        return _NAMES.get(key, key)
