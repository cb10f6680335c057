"""The process in which poise starts a Ray, and which ends it when nobody holds it any more.

Ray's start keeps the interpreter's lock for seconds, and what it starts is killed by the kernel when the *thread* that
started it ends (PR_SET_PDEATHSIG). In a process of its own the first hurts nobody, and the second leaves nothing behind
if this process is killed. Whoever uses the Ray holds a connection to this process, which the kernel closes however
the holder ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import inspect
import json
import os
import pickle
import selectors
import socket
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Generator

BOOT: Final = """
import os, pickle, sys
sys.path[:], order = pickle.load(sys.stdin.buffer)
from poise._ray.keeper import main
main(order)
"""
"""What the interpreter of the keeper is told to run."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a keeper is told."""

    fd: int
    """Of the one connection, or of the listening socket if the Ray is to be shared."""
    path: str | None
    """Of the socket of a shared Ray; None for a Ray that one process alone holds."""
    options: bytes = field(repr=False)
    """Of `ray.init`, pickled."""


def main(order: Order) -> None:
    """Start Ray and keep it."""
    if order.path is not None and os.fork() != 0:  # it outlives the process that has started it
        os._exit(0)
    end = socket.socket(fileno=order.fd)
    greeting = _start(order.options)
    try:
        if order.path is None:
            _greet(end, greeting)
            _wait_for_end(end)
        else:
            _Reception(end, order.path, greeting).serve()
    finally:
        _shut_down()


def _start(options: bytes) -> dict[str, Any]:
    """Start Ray; return what holders are to know."""
    try:
        ray: Any = importlib.import_module("ray")
        context = ray.init(**pickle.loads(options))  # from the process that has started this one
        return {"address": context.address_info["gcs_address"], "auth_mode": os.environ.get("RAY_AUTH_MODE")}
    except BaseException as error:  # noqa: BLE001 - the holders raise it
        return {"error": f"{type(error).__name__}: {error}".strip()}


def _shut_down() -> None:
    ray: Any = sys.modules.get("ray")
    if ray is not None:
        waits = "wait_for_processes" in inspect.signature(ray.shutdown).parameters  # Ray 2.60 and later
        ray.shutdown(**({"wait_for_processes": True} if waits else {}))


def _greet(holder: socket.socket, greeting: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # it is gone already
        holder.sendall(json.dumps(greeting).encode() + b"\n")


def _wait_for_end(holder: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while holder.recv(1024):
            pass


class _Reception:
    """Takes in the holders of a shared Ray, until there are none."""

    def __init__(self, listener: socket.socket, path: str, greeting: dict[str, Any]) -> None:
        self._listener = listener
        self._path = path
        self._greeting = greeting
        self._holders: set[socket.socket] = set()
        self._selector = selectors.DefaultSelector()
        listener.settimeout(0)
        self._selector.register(listener, selectors.EVENT_READ)

    def serve(self) -> None:
        """Return when the last holder has gone, or at once if Ray could not be started; nobody can come in by then."""
        self._take_in()
        while not self._is_over():
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._take_in()
                elif isinstance(key.fileobj, socket.socket):
                    self._hear(key.fileobj)

    def _take_in(self) -> None:
        """Let in everybody who waits."""
        with contextlib.suppress(BlockingIOError):
            while True:
                holder, _ = self._listener.accept()
                _greet(holder, self._greeting)
                if "error" in self._greeting:
                    holder.close()
                else:
                    self._holders.add(holder)
                    self._selector.register(holder, selectors.EVENT_READ)

    def _hear(self, holder: socket.socket) -> None:
        """Holders say nothing; what is heard is that one has gone."""
        try:
            is_gone = not holder.recv(1024)
        except OSError:
            is_gone = True
        if is_gone:
            self._selector.unregister(holder)
            self._holders.discard(holder)
            holder.close()

    def _is_over(self) -> bool:
        if self._holders:
            return False
        with locked(self._path):  # whoever looks for the socket meanwhile waits, and does not find it
            self._take_in()
            if self._holders:
                return False
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            self._listener.close()
        return True


@contextlib.contextmanager
def locked(path: str) -> Generator[None]:
    """Keep every other process of this user from looking for, making or removing the socket."""
    with open(f"{path}.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it with the file, however this process ends
        yield
