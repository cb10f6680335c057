"""Answers those who look at a pool, on threads of its own: nobody who connects can hold up the pool's loop.

Only processes of this user are answered, by the directory that the socket is in and on the kernel's word. Who sends
no line, or takes no answer, is cut.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from poise._protocol.descriptors import keep_from_children
from poise._protocol.peer import peer_uid

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("poise")

MOST: Final = 8
"""Connections at a time; one more is closed at once."""
LINE: Final = 4096
"""Bytes that a request may have."""
ASKS_IN: Final = 60.0
"""Seconds that a request may take to come."""
TAKES_IN: Final = 5.0
"""Seconds that an answer may take to be read."""

Request: TypeAlias = dict[str, Any]


class Server:
    """Listens at one socket."""

    def __init__(self, path: str, answer: Callable[[Request], object]) -> None:
        """Listen.

        Args:
            path: of the socket, in a directory that only this user can enter. A file that is there is replaced.
            answer: called on a thread of this server's; what it returns is sent as JSON, what it raises as text.

        Raises:
            OSError: there can be no such socket.
        """
        self._path = path
        self._answer = answer
        self._lock = threading.Lock()
        self._peers: set[socket.socket] = set()
        self._ended = threading.Event()
        self._process = os.getpid()
        self._listener = listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        keep_from_children(listener)
        # Where nobody listens a process has died, so it must not have its name before it is listened to.
        directory, name = os.path.split(path)
        unready = os.path.join(directory, f".{name[1:]}")
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unready)
            listener.bind(unready)
            listener.listen(MOST)
            os.rename(unready, path)
            threading.Thread(target=self._admit, name="poise-watch", daemon=True).start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let nobody look any more. From any thread; safe to call again."""
        if self._ended.is_set():
            return
        self._ended.set()
        if os.getpid() != self._process:  # a forked child, which has none of the threads either
            return
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        with self._lock:
            sockets = [self._listener, *self._peers]
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # which wakes its thread
        self._listener.close()

    def _admit(self) -> None:  # a thread
        while not self._ended.is_set():
            try:
                peer, _ = self._listener.accept()
            except ConnectionError:  # that one has gone again
                continue
            except OSError:  # closed; or there are too many open files, as there may not be for ever
                self._ended.wait(1.0)
                continue
            keep_from_children(peer)
            if not self._is_welcome(peer):
                peer.close()

    def _is_welcome(self, peer: socket.socket) -> bool:
        """Give it a thread, if it may have one."""
        uid = peer_uid(peer)
        if uid not in (None, os.geteuid()):
            _log.warning("a process of user %d tried to look at a pool and was turned away", uid)
            return False
        with self._lock:
            if self._ended.is_set() or len(self._peers) >= MOST:
                return False
            self._peers.add(peer)
        try:
            threading.Thread(target=self._serve, args=(peer,), name="poise-watch-peer", daemon=True).start()
        except RuntimeError:  # there can be no more threads
            with self._lock:
                self._peers.discard(peer)
            return False
        return True

    def _serve(self, peer: socket.socket) -> None:  # a thread
        try:
            with contextlib.suppress(OSError), peer:
                rest = bytearray()
                while (line := _read_line(peer, rest)) is not None:
                    answer = self._reply(line)
                    peer.settimeout(TAKES_IN)  # for all of it
                    peer.sendall(answer)
        finally:
            with self._lock:
                self._peers.discard(peer)

    def _reply(self, line: bytes) -> bytes:
        try:
            request: Any = json.loads(line)
            if not isinstance(request, dict):
                raise ValueError("a request is an object")  # noqa: TRY004, TRY301 - one answer to all that is none
            answer: dict[str, object] = {"done": self._answer(request)}  # pyright: ignore[reportUnknownArgumentType]
            return json.dumps(answer).encode() + b"\n"
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to whoever has asked
            return json.dumps({"error": str(error) or type(error).__name__}).encode() + b"\n"


def _read_line(peer: socket.socket, rest: bytearray) -> bytes | None:
    """Wait for a line; None if none comes, or it does not end. `rest` is what has come beyond it."""
    deadline = time.monotonic() + ASKS_IN
    while (end := rest.find(b"\n")) < 0:
        left = deadline - time.monotonic()
        if len(rest) > LINE or left <= 0:
            return None
        peer.settimeout(left)
        data = peer.recv(LINE)
        if not data:
            return None
        rest += data
    line = bytes(rest[:end])
    del rest[: end + 1]
    return line
