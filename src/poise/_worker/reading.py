"""Who reads the connection: the thread that runs the calls, while it has none, and another while a call runs.

A call that arrives at an idle worker is then read and run by one thread, which has slept once; were there always
another that reads, both would have to be woken, and would fight for the interpreter. After Leader/Followers, by D.
Schmidt, C. O'Ryan, M. Kircher, I. Pyarali and F. Buschmann (PLoP 2000).
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Final

from poise._protocol.descriptors import keep_from_children
from poise._protocol.frames import FrameReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from poise._protocol.frames import Frame
    from poise._worker.connections import PlainConnection
    from poise._worker.inbox import Inbox

SHORT: Final = 100e-6
"""Seconds: while no call runs for longer, nobody but the thread that runs them reads."""
BUSY_FOR: Final = 1e-3
"""Seconds after which the other thread looks again, while one short call follows the other."""

CAN_TAKE_TURNS: Final = hasattr(select, "epoll")


class Turns:
    """Two threads that take turns at reading.

    The one that runs the calls leads: it reads whenever it has none to run, and meanwhile the other hears of nothing.
    While it runs calls, what arrives wakes the other, which follows: it reads once a call has run for some time.
    """

    def __init__(self, connection: PlainConnection, inbox: Inbox, hear: Callable[[list[Frame]], None]) -> None:
        """Read nothing yet.

        Args:
            connection: what is read.
            inbox: where the calls that come are put, by `hear` and others.
            hear: takes in what was read.
        """
        self._connection = connection
        self._inbox = inbox
        self._hear = hear
        self._reader = FrameReader()
        self._reading = threading.Lock()
        """Held by whoever reads, and by the leader while it waits."""
        self._left_at = 0.0
        """When the leader was last about to begin a call."""
        self._failure: BaseException | None = None
        self._is_over = False
        self._bell, self._rope = socket.socketpair()
        for end in (self._bell, self._rope):
            end.settimeout(0)
            keep_from_children(end)
        self._descriptor = connection.fileno()
        self._news = select.poll()
        self._news.register(self._descriptor, select.POLLIN)
        self._news.register(self._bell.fileno(), select.POLLIN)
        self._arrivals = select.epoll()
        self._arrivals.register(self._descriptor, select.EPOLLIN | select.EPOLLONESHOT)

    # The thread that runs the calls

    def lead(self) -> None:
        """Read until there is a call in the inbox, or it is closed, or the connection is over."""
        if self._inbox.is_quiet and not self._is_over:
            with self._reading:
                self._expect(0)
                self._lead()
            self._left_at = time.monotonic()
            # Only now: if there is something to read already, the follower must find that nobody reads.
            self._expect(select.EPOLLIN | select.EPOLLONESHOT)
        else:
            self._left_at = time.monotonic()

    def _lead(self) -> None:
        inbox, descriptor = self._inbox, self._descriptor
        while True:
            inbox.on_news = self._ring  # and then look: whoever puts a call rings afterwards
            if not inbox.is_quiet or self._is_over:
                inbox.on_news = None
                return
            events = self._news.poll()
            inbox.on_news = None  # what is read here needs no bell
            for source, _ in events:
                if source == descriptor:
                    self._read()
                else:
                    self._bell.recv(4096)

    def _ring(self) -> None:  # runs on any thread
        with contextlib.suppress(OSError):  # it has been rung often enough, or all is over
            self._rope.send(b"!")

    # The other thread

    def follow(self) -> None:
        """Read while calls run, until the connection is over.

        Raises:
            OSError, FrameError: why it is over, if the caller has not just gone; whichever thread has met it.
        """
        try:
            while not self._is_over:
                self._arrivals.poll()
                self._step_in()
        finally:
            self._is_over = True
            self._ring()
            with self._reading:  # the leader has left
                self._arrivals.close()
                self._bell.close()
                self._rope.close()
        if self._failure is not None:
            raise self._failure

    def _step_in(self) -> None:
        """Something has come, while the leader was not there: read it, unless the leader will be back soon."""
        pause = SHORT
        while not self._is_over:
            if time.monotonic() - self._left_at < SHORT:
                time.sleep(pause)
                pause = BUSY_FOR
            elif self._reading.acquire(blocking=False):
                try:
                    self._read()
                    self._expect(select.EPOLLIN | select.EPOLLONESHOT)
                finally:
                    self._reading.release()
                return
            else:
                return  # the leader is back

    # Either, while it holds the lock

    def _read(self) -> None:
        """Take in what there is."""
        try:
            count = self._connection.receive_now(self._reader.buffer())
            if count:
                self._hear(self._reader.received(count))
            elif count == 0:
                self._end()
        except BaseException as error:  # noqa: BLE001 - handed to `follow`, which ends the connection
            self._failure = error
            self._end()

    def _end(self) -> None:
        self._is_over = True
        with contextlib.suppress(OSError, ValueError):  # it knows, or has left
            self._arrivals.register(self._bell.fileno(), select.EPOLLIN)
        self._ring()

    def _expect(self, events: int) -> None:
        """Let the follower hear of what comes next, once, or of nothing."""
        try:
            self._arrivals.modify(self._descriptor, events)
        except (OSError, ValueError):  # the connection was closed
            self._end()
