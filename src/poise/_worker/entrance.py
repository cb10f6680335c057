"""The way into a worker: it listens until the pool's own caller has come, and lets nobody else in.

Nothing that a peer sends is looked at before it is known who it is: on one node by the credentials that the kernel
vouches for, between nodes by its certificate.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any, Final, Protocol

from poise._wire.peer import keep_alive, peer_uid

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("poise")

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds that a peer has to show who it is."""
HANDSHAKES: Final = 16
"""Peers that may be about it at once; more are turned away."""
OPEN_FOR: Final = 60.0
"""Seconds for which the caller is awaited; it comes at once or never."""
_READ: Final = 256 * 1024


class Connection(Protocol):
    """A stream of bytes to an authenticated peer. One thread reads; any may write."""

    def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes and return how many came; 0 at the end."""
        ...

    def send(self, pieces: list[memoryview]) -> None:
        """Send all of it, waiting for as long as the peer does not read. Not for two threads at once.

        Raises:
            OSError: the connection is lost.
        """

    def close(self) -> None:
        """End it, also for a thread that waits in it."""


def open_unix(path: str, welcome: Callable[[Connection], None]) -> None:
    """Listen on a Unix socket for the one connection that is let in.

    Args:
        path: in a directory that only this user can enter. The caller made it and will remove it.
        welcome: called on a thread of its own with that connection.

    Raises:
        OSError: the directory is not there, or not to be entered: the caller is on another file system.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(HANDSHAKES)
        listener.settimeout(OPEN_FOR)
    except BaseException:
        listener.close()
        raise

    def admit() -> None:
        with listener:
            peer = _first_of_this_user(listener)
        if peer is not None:
            welcome(PlainConnection(peer))

    threading.Thread(target=admit, name="poise-express", daemon=True).start()


def _first_of_this_user(listener: socket.socket) -> socket.socket | None:
    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            return None
        peer.settimeout(None)
        uid = peer_uid(peer)
        if uid is None or uid == os.geteuid():
            return peer
        _log.warning("a process of user %d tried to connect to this worker and was turned away", uid)
        peer.close()


def open_tls(host: str, context: ssl.SSLContext, user_timeout: float, welcome: Callable[[Connection], None]) -> int:
    """Listen for TLS on a free port of this address, and return the port.

    Args:
        host: the address to listen on.
        context: shows this worker's certificate and requires one of the same pool's.
        user_timeout: seconds after which a silent peer is given up.
        welcome: called on a thread of its own with the one connection that is let in.
    """
    listener = socket.create_server((host, 0), backlog=HANDSHAKES)
    listener.settimeout(OPEN_FOR)
    entered = threading.Event()
    handshakes = threading.BoundedSemaphore(HANDSHAKES)

    def admit(peer: socket.socket, address: object) -> None:
        try:
            connection = _shake_hands(peer, context, user_timeout)
        except (OSError, ssl.SSLError) as error:
            _log.warning("a connection from %s to this worker was turned away: %s", address, error)
            peer.close()
            return
        finally:
            handshakes.release()
        if entered.is_set():
            connection.close()
            return
        entered.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        welcome(connection)

    def listen() -> None:
        with listener:
            while not entered.is_set():
                try:
                    peer, address = listener.accept()
                except OSError:
                    return
                if handshakes.acquire(blocking=False):
                    threading.Thread(target=admit, args=(peer, address), name="poise-express", daemon=True).start()
                else:
                    peer.close()

    port = int(listener.getsockname()[1])
    threading.Thread(target=listen, name="poise-entrance", daemon=True).start()
    return port


def _shake_hands(peer: socket.socket, context: ssl.SSLContext, user_timeout: float) -> TlsConnection:
    peer.settimeout(HANDSHAKE_TIMEOUT)
    connection = TlsConnection(peer, context)
    peer.settimeout(None)
    keep_alive(peer, user_timeout)
    return connection


class PlainConnection:
    """A Unix socket."""

    def __init__(self, peer: socket.socket) -> None:
        """Use this socket."""
        self._socket = peer

    def receive_into(self, buffer: memoryview) -> int:
        """See `Connection`."""
        return self._socket.recv_into(buffer)

    def send(self, pieces: list[memoryview]) -> None:
        """See `Connection`."""
        if len(pieces) == 1:
            self._socket.sendall(pieces[0])
            return
        while pieces:
            sent = self._socket.sendmsg(pieces[:64])
            while pieces and sent >= pieces[0].nbytes:
                sent -= pieces.pop(0).nbytes
            if sent:
                pieces[0] = pieces[0][sent:]

    def close(self) -> None:
        """See `Connection`."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class TlsConnection:
    """TLS over a TCP socket, on the server's side, for a thread that reads and others that write at the same time.

    `ssl.SSLSocket` allows no two threads in it, so this drives the protocol through memory, one step at a time under a
    lock, and waits for the network outside of it.
    """

    def __init__(self, peer: socket.socket, context: ssl.SSLContext) -> None:
        """Shake hands.

        Raises:
            OSError: the peer is gone, too slow, or not of this pool.
        """
        self._socket = peer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._protocol = threading.Lock()
        self._order = threading.Lock()
        """Held while encrypted bytes go to the network, so that they go in the order of their making."""
        self._shake_hands()

    def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                data = self._socket.recv(_READ)
                if not data:
                    raise ConnectionResetError("the peer went away during the handshake") from None
                self._incoming.write(data)
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._flush()  # tells the peer why
                raise
            else:
                self._flush()
                return

    def receive_into(self, buffer: memoryview) -> int:
        """See `Connection`."""
        while True:
            with self._protocol:
                try:
                    count: Any = self._tls.read(len(buffer), buffer)  # a number, whatever typeshed says
                    return int(count)
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLZeroReturnError:
                    return 0
            data = self._socket.recv(_READ)
            if not data:
                return 0
            with self._protocol:
                self._incoming.write(data)

    def send(self, pieces: list[memoryview]) -> None:
        """See `Connection`."""
        for piece in pieces:
            for start in range(0, len(piece), _READ):
                with self._protocol:
                    self._tls.write(piece[start : start + _READ])
                self._flush()

    def _flush(self) -> None:
        with self._order:
            with self._protocol:
                data = self._outgoing.read()
            if data:
                self._socket.sendall(data)

    def close(self) -> None:
        """See `Connection`."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
