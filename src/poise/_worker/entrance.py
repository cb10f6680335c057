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
import time
from typing import TYPE_CHECKING, Final

from poise._protocol.descriptors import keep_from_children
from poise._protocol.peer import CALLER, peer_uid
from poise._worker.connections import Connection, PlainConnection, TlsConnection

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("poise")

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds that a peer has to show who it is, from its connection on."""
HANDSHAKES: Final = 16
"""Peers that may be about it at once; for one more the one that has been about it longest has to go."""
OPEN_FOR: Final = 60.0
"""Seconds for which the caller is awaited; it comes at once or never."""


def open_unix(path: str, welcome: Callable[[Connection], None]) -> None:
    """Listen on a Unix socket for the one connection that is let in.

    Args:
        path: in a directory that only this user can enter. The caller made it and will remove it.
        welcome: called on a thread of its own with that connection.

    Raises:
        OSError: the directory is not there, or not to be entered: the caller is on another file system.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    keep_from_children(listener)
    try:
        listener.bind(path)
        listener.listen(HANDSHAKES)
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
    deadline = time.monotonic() + OPEN_FOR
    while (accepted := _accept(listener, deadline)) is not None:
        peer, _ = accepted
        uid = peer_uid(peer)
        if uid is None or uid == os.geteuid():
            return peer
        _log.warning("a process of user %d tried to connect to this worker and was turned away", uid)
        peer.close()
    return None


def _accept(listener: socket.socket, deadline: float) -> tuple[socket.socket, object] | None:
    """Wait for a peer; None if the listener is shut, or the deadline is over."""
    while (left := deadline - time.monotonic()) > 0:
        try:
            listener.settimeout(left)
            peer, address = listener.accept()
        except ConnectionError:  # that peer has gone again
            continue
        except OSError:
            return None
        keep_from_children(peer)
        peer.settimeout(None)
        return peer, address
    return None


def open_tls(host: str, context: ssl.SSLContext, link_timeout: float, welcome: Callable[[Connection], None]) -> int:
    """Listen for TLS on a free port of this address, and return the port.

    Args:
        host: the address to listen on.
        context: shows this worker's certificate and requires one of the same pool's.
        link_timeout: seconds after which a peer whose host is silent is given up.
        welcome: called on a thread of its own with the one connection that is let in.
    """
    listener = socket.create_server((host, 0), backlog=HANDSHAKES)
    keep_from_children(listener)
    port = int(listener.getsockname()[1])
    entrance = _TlsEntrance(listener, context, link_timeout, welcome)
    threading.Thread(target=entrance.listen, name="poise-entrance", daemon=True).start()
    return port


class _TlsEntrance:
    """Lets the caller in, beside strangers who come in any number and take any time."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        link_timeout: float,
        welcome: Callable[[Connection], None],
    ) -> None:
        self._listener = listener
        self._context = context
        self._link_timeout = link_timeout
        self._welcome = welcome
        self._deciding = threading.Lock()
        self._guests: dict[socket.socket, None] = {}
        """Peers that have not shown yet who they are, in the order of their coming."""
        self._has_entered = False

    def listen(self) -> None:
        """Let each peer show who it is on a thread of its own, until the caller has done so."""
        deadline = time.monotonic() + OPEN_FOR
        with self._listener:
            while (accepted := _accept(self._listener, deadline)) is not None:
                peer, address = accepted
                if not self._is_heard(peer):
                    peer.close()
                    return
                threading.Thread(target=self._admit, args=(peer, address), name="poise-express", daemon=True).start()

    def _is_heard(self, peer: socket.socket) -> bool:
        """Give the peer a place, if need be that of another, unless the caller is in."""
        with self._deciding:
            if self._has_entered:
                return False
            if len(self._guests) >= HANDSHAKES:
                longest = next(iter(self._guests))
                del self._guests[longest]
                _hang_up(longest)
            self._guests[peer] = None
            return True

    def _admit(self, peer: socket.socket, address: object) -> None:
        try:
            connection = TlsConnection(peer, self._context, HANDSHAKE_TIMEOUT)
            _check_name(connection.peer_names)
            connection.watch(self._link_timeout)
        except (OSError, ssl.SSLError) as error:
            _log.warning("a connection from %s to this worker was turned away: %s", address, error)
            with self._deciding:
                self._guests.pop(peer, None)
            peer.close()
            return
        if not self._is_first(peer):
            connection.close()
            return
        _hang_up(self._listener)  # wakes `accept`
        self._welcome(connection)

    def _is_first(self, peer: socket.socket) -> bool:
        """Whether this peer is let in: it has not been sent away meanwhile, and no other is in. The rest may go."""
        with self._deciding:
            if peer not in self._guests:
                return False
            del self._guests[peer]
            self._has_entered = True
            for other in self._guests:
                _hang_up(other)
            self._guests.clear()
            return True


def _check_name(names: list[str]) -> None:
    """Know the caller from another worker of the same pool, whose certificate is as good.

    Raises:
        PermissionError: the certificate is not the caller's.
    """
    if CALLER not in names:
        raise PermissionError(f"its certificate is that of {', '.join(names) or 'nobody'}, and {CALLER} is awaited")


def _hang_up(peer: socket.socket) -> None:
    """End a connection, or a listening, whose own thread waits in it and will close it."""
    with contextlib.suppress(OSError):
        peer.shutdown(socket.SHUT_RDWR)
