"""The caller's end of an express connection."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, cast

from poise._protocol.buffers import unchanging
from poise._protocol.descriptors import keep_from_children
from poise._protocol.frames import Frame, FrameError, FrameReader, Unloaded, pack_frames
from poise._protocol.peer import LinkWatch, Standing, keep_alive

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_log = logging.getLogger("poise")

SLICE: Final = 256 * 1024
"""Bytes that are given to a transport at once."""


class LinkOwner(Protocol):
    """Whose connection it is."""

    def hear(self, frames: list[Frame]) -> None:
        """Take in what the worker said.

        Raises:
            FrameError: it cannot be understood.
        """

    def flush(self) -> None:
        """The worker reads again."""

    def unlink(self, link: CallerLink, error: Exception | None) -> None:
        """The connection has ended, and everything that came over it has been heard."""


class CallerLink(asyncio.BufferedProtocol):
    """One connection with a worker."""

    peer: ClassVar[str] = "a worker"
    """What the log calls whoever is at its other end."""

    def __init__(self, owner: LinkOwner) -> None:
        """Speak for this owner."""
        self._owner = owner
        self._reader = FrameReader()
        self.transport: asyncio.Transport
        self.is_paused = False
        self._unwritten: deque[memoryview] = deque()
        """What the connection has not taken yet. Invariant: it is empty unless writing is paused."""
        self.is_read_out = False
        """Whether everything that the worker has written was read, and no more can come."""
        self._tap: socket.socket | None = None
        self._watch: LinkWatch | None = None
        self._look: asyncio.TimerHandle | None = None
        """The next look of the watch. Invariant: there is one for as long as something may be unacknowledged."""
        self._failure: Exception | None = None
        """Why we have ended it."""

    @property
    def endpoint(self) -> Any:
        """The socket, to ask it things."""
        return self.transport.get_extra_info("socket")

    def fileno(self) -> int:
        """The socket's descriptor, or -1 once it is closed."""
        return int(self.endpoint.fileno())

    def write(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Write these pieces, one after the other, as they are now."""
        for piece in pieces:
            if type(piece) is bytes and len(piece) <= SLICE and not self.is_paused:
                self.transport.write(piece)
            else:
                self._write_slices(memoryview(piece))
        if self._watch is not None and self._look is None:
            self._look_later(self._watch)

    def _write_slices(self, view: memoryview) -> None:
        """Write as much as the connection takes, and keep the rest.

        A transport copies all that is left to be written into one place, and again as that grows and shrinks.
        """
        while view and not self.is_paused:
            self.transport.write(unchanging(view[:SLICE]))
            view = view[SLICE:]
        if view:
            self._unwritten.append(unchanging(view))

    def say(self, messages: Sequence[Unloaded], whom: str) -> None:
        """Write these messages; if that cannot be done, end the connection, which settles what becomes of them."""
        try:
            self.write(pack_frames(messages))
        except Exception as error:  # noqa: BLE001 - no memory, say
            _log.exception("%s cannot be written to, and is given up", whom)
            self.give_up(error)

    def give_up(self, reason: Exception) -> None:
        """End the connection at once."""
        self._failure = self._failure or reason
        self.transport.abort()

    # -----------------------------------------------------------------------------------------------------------------
    # What becomes of the peer

    def watch(self, timeout: float) -> None:
        """End the connection when the peer's host has been silent for about so many seconds.

        Raises:
            OSError: the connection is lost.
        """
        keep_alive(self.endpoint, timeout)
        self._watch = LinkWatch(self.endpoint, timeout)

    def _look_later(self, watch: LinkWatch) -> None:
        self._look = asyncio.get_running_loop().call_later(watch.interval, self._look_at_peer, watch)

    def _look_at_peer(self, watch: LinkWatch) -> None:
        self._look = None
        try:
            standing = watch.look()
        except (OSError, ValueError):  # closed: `connection_lost` is on its way
            return
        if standing is Standing.GONE:
            self.give_up(TimeoutError(errno.ETIMEDOUT, "the worker's host is silent"))
        elif standing is Standing.OPEN or self.transport.get_write_buffer_size():
            self._look_later(watch)

    def read_out(self) -> None:
        """The worker's process has ended: read what it wrote, as far as it goes, and end the connection.

        The end of the stream is not waited for: whoever has the worker's end from it, a process that its code has
        forked, keeps it open. With TCP the rest may still be on its way, and the end is waited for.
        """
        if self._tap is not None:
            self._read(self._tap)
            self.is_read_out = self._failure is None
            self.transport.abort()

    def read(self) -> None:
        """Read what has come by now over a socket of this node, without waiting for the loop to notice it."""
        if self._tap is not None:
            self._read(self._tap)

    def _read(self, tap: socket.socket) -> bool:
        """Read until the end, and return True, or until there is no more."""
        with contextlib.suppress(OSError):
            while self._failure is None:
                count = tap.recv_into(self._reader.buffer())
                if not count:
                    return True
                self.buffer_updated(count)
        return False

    # -----------------------------------------------------------------------------------------------------------------
    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        keep_from_children(self)
        if self.endpoint.family == socket.AF_UNIX:
            self._tap = socket.socket(fileno=os.dup(self.endpoint.fileno()))
            keep_from_children(self._tap)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 (asyncio's shape)
        return self._reader.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Hear what has come. Whatever cannot be heard, for whatever reason, ends this connection and nothing else."""
        try:
            frames = self._reader.received(nbytes)
            if frames:
                self._owner.hear(frames)
        except FrameError as error:
            _log.error("%s sent what cannot be understood, and is given up: %s", self.peer, error)
            self.give_up(error)
        except Exception as error:  # noqa: BLE001 - a fault of poise's own, no memory: the answers are lost all the same
            _log.exception("what %s sent could not be heard, and it is given up", self.peer)
            self.give_up(error)

    def eof_received(self) -> None:
        self.is_read_out = True

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        unwritten, self._unwritten = self._unwritten, deque()
        for view in unwritten:
            self._write_slices(view)
        if not self.is_paused:
            self._owner.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwritten.clear()
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if self._tap is not None:
            with self._tap as tap:
                if exc is not None and self._read(tap):  # asyncio gives reading up when a write has failed
                    self.is_read_out = True
        self._owner.unlink(self, self._failure or exc)
