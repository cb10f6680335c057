"""The sockets at which pools are looked at: where they are, and how one is asked.

A request is a line of JSON with what to `do`, and so is the answer: what was asked for as `done`, or an `error` for
people.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from poise._places import own_directories, own_directory
from poise._protocol.peer import peer_uid

if TYPE_CHECKING:
    from typing import Self

ANSWERS_IN: Final = 2.5
"""Seconds that a pool has to answer a look, which it gives up itself a little sooner."""
SILENT: Final = "the program does not answer: it is stopped, or C code keeps its interpreter"
_PREFIX: Final = "watch-"
_numbers = itertools.count(1)


def new_path() -> str:
    """Where another pool of this process is to be found.

    Raises:
        PoiseError: there is no place that nobody else can enter.
    """
    return os.path.join(own_directory(), f"{_PREFIX}{os.getpid()}-{next(_numbers)}")


class Refused(Exception):
    """The pool does not do what it was asked for, or cannot be asked; the text says why."""


class Line:
    """A connection with one pool."""

    def __init__(self, path: str, within: float = ANSWERS_IN) -> None:
        """Connect with it.

        Args:
            path: of its socket.
            within: seconds that each answer may take.

        Raises:
            Refused: somebody is there and does not answer.
            OSError: nobody is there, or it is not of this user.
        """
        self.path = path
        self._socket = connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(within)
            connection.connect(path)
            self._file = connection.makefile("rb")
        except (TimeoutError, BlockingIOError):  # as many wait already as may
            connection.close()
            raise Refused(SILENT) from None
        except BaseException:
            connection.close()
            raise
        if (uid := peer_uid(connection)) not in (None, os.geteuid()):
            self.close()
            raise PermissionError(f"the pool at {path} is of user {uid}")

    def ask(self, **request: Any) -> Any:
        """Ask for something, and wait for the answer.

        Raises:
            Refused: it was not done, or the pool does not answer.
        """
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            answer: dict[str, Any] = json.loads(self._file.readline() or b"{}")
        except TimeoutError:
            raise Refused(SILENT) from None
        except (OSError, ValueError) as error:
            raise Refused(f"the connection to it has ended: {error}") from None
        if "error" in answer:
            raise Refused(str(answer["error"]))
        if "done" not in answer:
            raise Refused("it has ended the connection: the pool is closed, or too many look at it")
        return answer["done"]

    def close(self) -> None:
        """End it."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Self:
        """Close it in the end."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Found(NamedTuple):
    """A pool that can be looked at."""

    path: str
    name: str
    """What its workers hold."""
    program: int
    """The process that it belongs to."""
    command: str
    """What that runs."""
    state: str


def find() -> list[Found]:
    """The watched pools of this user on this machine, the oldest first; what dead processes have left is removed."""
    found: list[Found] = []
    for path in sorted(_paths(), key=_since):
        try:
            with Line(path, within=1.0) as line:
                told: dict[str, Any] = line.ask(do="hello")
                found.append(Found(path, told["name"], told["program"], told["command"], told["state"]))
        except ConnectionRefusedError:  # nobody listens, and nobody will: it is listened to before it has its name
            with contextlib.suppress(OSError):
                os.unlink(path)
        except Refused as error:
            found.append(Found(path, "?", _program(path), str(error), "silent"))
        except OSError:  # it has just ended, or has too many who look
            continue
    return found


def _paths() -> list[str]:
    paths: list[str] = []
    for directory in own_directories():
        with contextlib.suppress(OSError):
            paths += (os.path.join(directory, name) for name in os.listdir(directory) if name.startswith(_PREFIX))
    return paths


def _since(path: str) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0


def _program(path: str) -> int:
    number = os.path.basename(path).removeprefix(_PREFIX).partition("-")[0]
    return int(number) if number.isdecimal() else 0
