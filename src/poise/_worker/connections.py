"""Connections with the caller, from the worker's end: a Unix socket, or TLS over TCP."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import sys
import threading
import time
from queue import SimpleQueue
from typing import Any, Final, Protocol

from poise._protocol.peer import LinkWatch, Standing, keep_alive

_log = logging.getLogger("poise")

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

    def takes_now(self) -> bool:
        """Whether `send` of some ten kilobytes would not wait; False if that is not known."""
        ...

    def close(self) -> None:
        """End it, also for a thread that waits in it."""


class PlainConnection:
    """A Unix socket."""

    def __init__(self, peer: socket.socket) -> None:
        """Use this socket."""
        self._socket = peer

    def receive_into(self, buffer: memoryview) -> int:
        """See `Connection`."""
        return self._socket.recv_into(buffer)

    def receive_now(self, buffer: memoryview) -> int | None:
        """The same without waiting; None if nothing has come."""
        try:
            return self._socket.recv_into(buffer, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def fileno(self) -> int:
        """What tells that bytes have come."""
        return self._socket.fileno()

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

    def takes_now(self) -> bool:
        """See `Connection`. Linux says that there is room if three quarters of the buffer are free: 150 KB."""
        if sys.platform != "linux":
            return False
        look = select.poll()
        look.register(self._socket, select.POLLOUT)
        return bool(look.poll(0))

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

    def __init__(self, peer: socket.socket, context: ssl.SSLContext, within: float) -> None:
        """Shake hands, within so many seconds.

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
        self._ended = threading.Event()
        self._wake: SimpleQueue[None] = SimpleQueue()
        """Tells the watch that there is something to look at, or that it is over."""
        # Invariant: when something may be unacknowledged, this is set, or becomes so at once, until a look at it.
        self._is_watched = True  # by nobody, before `watch`
        self._shake_hands(time.monotonic() + within)

    def _shake_hands(self, deadline: float) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._wait_until(deadline)
                self._flush()
                self._wait_until(deadline)
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
                self._socket.settimeout(None)
                return

    def _wait_until(self, deadline: float) -> None:
        """Let the next step with the network end by this moment, however many there were before."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the peer was too slow in its handshake")
        self._socket.settimeout(left)

    @property
    def peer_names(self) -> list[str]:
        """The names in the peer's certificate."""
        certificate: Any = self._tls.getpeercert() or {}
        return [name for _, name in certificate.get("subjectAltName", ())]

    def watch(self, timeout: float) -> None:
        """From now on end the connection when the peer's host has been silent for about so many seconds.

        Raises:
            OSError: the connection is lost.
        """
        keep_alive(self._socket, timeout)
        self._is_watched = False
        watch = LinkWatch(self._socket, timeout)
        threading.Thread(target=self._look_after, args=(watch,), name="poise-express-watch", daemon=True).start()

    def _look_after(self, watch: LinkWatch) -> None:  # a thread of its own
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile
            while not self._ended.is_set():
                self._wake.get()
                while not self._ended.wait(watch.interval):
                    self._is_watched = False  # before the look: whoever writes from now on wakes this again
                    standing = watch.look()
                    if standing is Standing.SETTLED:
                        break
                    self._is_watched = True
                    if standing is Standing.GONE:
                        _log.warning("the host of this worker's caller is silent, and the connection to it is given up")
                        self.close()

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

    def takes_now(self) -> bool:
        """See `Connection`."""
        return False

    def _flush(self) -> None:
        with self._order:
            with self._protocol:
                data = self._outgoing.read()
            if data:
                if not self._is_watched:
                    self._is_watched = True
                    self._wake.put(None)
                self._socket.sendall(data)

    def close(self) -> None:
        """See `Connection`."""
        self._ended.set()
        self._wake.put(None)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
