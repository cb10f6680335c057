"""Holds on Rays that poise starts on this machine: one of a process's own, or the one that the user's processes share.

Which is shared is found through a Unix socket in a directory that only this user can enter. A lock beside it, which the
kernel lets go of however its holder ends, makes two processes that start at once find the same.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from poise._places import own_directory
from poise._protocol.peer import peer_uid
from poise._ray.forks import forks
from poise._ray.init import options_to_start
from poise._ray.keeper import BOOT, Order, locked
from poise.errors import ConfigError, PoiseError

if TYPE_CHECKING:
    from collections.abc import Mapping


class RayHold:
    """Holds a Ray that a keeper has started: it lives at least until this is closed, or this process ends."""

    def __init__(self, connection: socket.socket, keeper: subprocess.Popen[bytes] | None) -> None:
        """Hold a Ray that is about to start.

        Args:
            connection: to the keeper.
            keeper: the keeper's process if it ends with this hold; None if others may hold it too.
        """
        self._connection = connection
        self._keeper = keeper
        forks.closers.add(connection.close)

    def wait(self) -> tuple[str, str | None]:
        """Wait until Ray has started; return its address and the RAY_AUTH_MODE that it was started with.

        Raises:
            PoiseError: it could not be started; says why.
        """
        with self._connection.makefile("rb") as said:
            line = said.readline()
        greeting: dict[str, Any] = json.loads(line) if line else {"error": "the process that starts it has ended"}
        if "error" in greeting:
            raise PoiseError(
                f"cannot start Ray here: {greeting['error']}\nTo choose how it starts, give the pool ray_init={{...}}, "
                "or call ray.init(...) before it is opened"
            )
        return greeting["address"], greeting["auth_mode"]

    def abort(self) -> None:  # while another thread waits
        """Have `wait` fail now. What was started for this process alone is killed."""
        if self._keeper is not None:
            self._keeper.kill()
        with contextlib.suppress(OSError):  # it is closed already
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go; return when Ray has ended, if nobody else can hold it."""
        forks.closers.discard(self._connection.close)
        self._connection.close()
        if self._keeper is not None:
            self._keeper.wait()


def start_ray(options: Mapping[str, Any]) -> RayHold:
    """Start a Ray of this process's own.

    Raises:
        PoiseError: it could not be started.
    """
    ours, keepers = socket.socketpair()
    with keepers:
        keeper = _start_keeper(keepers, None, options)
    return RayHold(ours, keeper)


def share_ray(options: Mapping[str, Any]) -> RayHold:
    """Hold the Ray that this user's processes share on this machine; start it, with these options, if there is none.

    Raises:
        PoiseError: it could not be started, or its directory is not this user's alone.
    """
    path = _path()
    with locked(path):
        connection = _connect(path)
        if connection is None:
            with socket.socket(socket.AF_UNIX) as listener:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)  # its keeper was killed
                listener.bind(path)
                listener.listen(128)
                connection = _connect(path)  # first, so that the keeper never finds itself without a holder
                assert connection is not None
                # It parts from the process that was started, which ends at once.
                _start_keeper(listener, path, options).wait()
    _check_peer(connection, path)
    return RayHold(connection, None)


def find_ray() -> RayHold | None:
    """Hold the Ray that this user's processes share on this machine; None if there is none.

    Raises:
        PoiseError: its directory is not this user's alone.
    """
    path = _path()
    with locked(path):
        connection = _connect(path)
    if connection is None:
        return None
    _check_peer(connection, path)
    return RayHold(connection, None)


def _path() -> str:
    return os.path.join(own_directory(), f"ray-{version('ray')}-py{sys.version_info.major}.{sys.version_info.minor}")


def _check_peer(connection: socket.socket, path: str) -> None:
    uid = peer_uid(connection)
    if uid is not None and uid != os.geteuid():
        connection.close()
        raise PoiseError(f"{path} belongs to user {uid}, and this is user {os.geteuid()}")


def _connect(path: str) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError as error:
        connection.close()
        raise PoiseError(f"cannot look for the shared Ray at {path}: {error}") from error
    return connection


def _start_keeper(end: socket.socket, path: str | None, options: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    try:
        packed = pickle.dumps(options_to_start(options))
    except Exception as error:
        raise ConfigError("ray_init", dict(options), f"what starts Ray must be picklable: {error}") from error
    keeper = subprocess.Popen(
        [sys.executable, "-c", BOOT],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # a shared one would keep the terminal, or a pipe, of whoever was first
        pass_fds=[end.fileno()],
        start_new_session=True,  # Ctrl-C is for the program
    )
    assert keeper.stdin is not None
    with contextlib.suppress(BrokenPipeError), keeper.stdin as orders:  # it has ended, as the connection will tell
        orders.write(pickle.dumps((sys.path, Order(end.fileno(), path, packed))))
    return keeper


class _Here:
    """This process's own hold on the shared Ray."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.hold: RayHold | None = None
        self._address = ""

    def take(self) -> str:
        with self._lock:
            if self.hold is None:
                hold = share_ray({})
                try:
                    self._address, _ = hold.wait()
                except BaseException:
                    hold.close()
                    raise
                self.hold = hold
                forks.closers.add(self._forget)
                atexit.register(self._let_go)
            return self._address

    def _forget(self) -> None:  # in a forked child, which takes its own
        self._lock = threading.Lock()
        self.hold = None
        atexit.unregister(self._let_go)

    def _let_go(self) -> None:
        if self.hold is not None:
            self.hold.close()


here: Final = _Here()


def ray_here() -> str:
    """Hold the one Ray that this user's programs share on this machine, and start it if there is none.

    From now on every pool of this process uses it, unless its `ray_init` names another address or Ray is initialised.
    Programs that call this at the same time get the same Ray, if they run the same versions of Ray and of Python. None
    of them owns it: this process holds it until it ends, in whatever way, and the last to hold it ends it.

    It blocks while Ray starts, which takes seconds: call it where a program begins, or in a thread. Without blocking,
    `Pool(..., ray_init={"address": "here"})`, or the variable `POISE_RAY=here`, has a pool hold the same Ray for as
    long as it is open.

    Returns:
        The address, as `ray.init` takes it.

    Raises:
        PoiseError: Ray cannot be started, or the directory through which it is found is not this user's alone.
    """
    return here.take()
