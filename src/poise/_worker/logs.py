"""What is logged in a worker, on its way to the caller's logging: `Pool(logs="forward")`.

A record is written to the express lane by the thread that logs, if the connection takes it at once: then it arrives
even if the process dies in the next moment. Else it waits for a thread of its own, and without a connection for a Ray
call of the caller's. What waits is bounded, and what finds no room is counted.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from poise._protocol.records import pack_record
from poise._worker.context import trace_said
from poise._worker.current import current_call

if TYPE_CHECKING:
    from collections.abc import Callable

    from poise._protocol.functions import Target
    from poise._protocol.records import Levels, LogBatch
    from poise._worker.link import Link

MOST_RECORDS: Final = 10_000
"""That wait."""
MOST_BYTES: Final = 8 << 20
"""Of all that wait."""
BATCH: Final = 32 * 1024
"""Bytes after which a batch takes no more records; with what the journal holds the buffer of a socket has room."""
TOLD_EVERY: Final = 1.0
"""Seconds after which it is said again how many were dropped, while others still wait."""
SETTLED_WITHIN: Final = 1.0
"""Seconds that `flush` waits for a caller who does not read."""


class Forwarder(logging.Handler):
    """The handler of the root logger."""

    def __init__(self, levels: Levels) -> None:
        """Begin to take in what is logged, at the caller's levels."""
        super().__init__()
        self.name_of: Callable[[Target], str] = str
        """What to call the function of a call."""
        self._pid = os.getpid()
        self._packing = threading.local()
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        # Invariant: the bytes of what waits.
        self._dropped = 0
        self._told_at = 0.0
        self._link: Link | None = None
        self._is_writing = False
        """Whether the thread has taken records that it has not written."""
        self._is_over = False
        """Whether Ray is to bring nothing but what waits."""
        self._levels: dict[str, int] = {}
        """Those of the caller, as they were told last."""
        self.set_levels(levels)
        logging.getLogger().addHandler(self)

    def set_levels(self, levels: Levels) -> None:
        """Log at these levels; what the worker has set by itself stays where the caller's are as before."""
        disabled, named = levels
        logging.disable(disabled)
        for name in self._levels.keys() - named.keys():
            logging.getLogger(name).setLevel(logging.NOTSET)
        for name, level in named.items():
            if self._levels.get(name) != level:
                logging.getLogger(name).setLevel(level)
        self._levels = named

    # Any thread

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or let it wait."""
        if os.getpid() != self._pid:  # in a child of the user's code, which has no connection
            if logging.lastResort is not None and record.levelno >= logging.lastResort.level:
                logging.lastResort.handle(record)
            return
        if getattr(self._packing, "is_under_way", False):  # the user's own `__str__` or `__reduce__` logs
            return
        if record.name.partition(".")[0] == "ray":  # Ray prints it
            return
        self._packing.is_under_way = True
        try:
            call = current_call()
            if call is None:
                row = pack_record(record, "")
            else:
                row = pack_record(record, self.name_of(call.target), trace_said(call))
        except Exception:  # noqa: BLE001 - no memory, say: as any handler of logging's
            self.handleError(record)
            return
        finally:
            self._packing.is_under_way = False
        with self._changed:
            if len(self._waiting) >= MOST_RECORDS or self._bytes + len(row) > MOST_BYTES:
                self._dropped += 1
                return
            self._waiting.append(row)
            self._bytes += len(row)
            if not self._has_written():
                self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all was written, for a second at most."""
        until = time.monotonic() + SETTLED_WITHIN
        with self._changed:
            while self._link is not None and self._link.is_open and (self._waiting or self._is_writing):
                left = until - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return

    def _has_written(self) -> bool:
        """Write what waits, if that is little and makes nobody wait."""
        link = self._link
        if link is None or self._is_writing or self._dropped or self._bytes > BATCH:
            return False
        if not link.log_at_once(list(self._waiting)):
            return False
        self._waiting.clear()
        self._bytes = 0
        return True

    def _take(self) -> LogBatch:
        rows: list[bytes] = []
        size = 0
        while self._waiting and size < BATCH:
            rows.append(row := self._waiting.popleft())
            size += len(row)
        self._bytes -= size
        dropped, now = 0, time.monotonic()
        if self._dropped and (not self._waiting or now - self._told_at >= TOLD_EVERY):
            dropped, self._dropped, self._told_at = self._dropped, 0, now
        return rows, dropped

    # By Ray

    def pull(self) -> LogBatch | None:
        """Wait for what the connection does not carry; None if nothing more will come so."""
        with self._changed:
            while not (self._waiting or self._is_over):
                self._changed.wait()
            return self._take() if self._waiting and self._link is None else None

    def end(self) -> None:
        """Nothing more will be logged that is to arrive: let `pull` give the rest and then None."""
        self.flush()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    # By the connection

    def use(self, link: Link) -> None:
        """Write to this connection from now on."""
        with self._changed:
            self._link = link
            self._is_over = True
            self._changed.notify_all()
        threading.Thread(target=self._write, args=(link,), name="poise-logs", daemon=True).start()

    def _write(self, link: Link) -> None:  # a thread of its own
        while link.is_open:
            with self._changed:
                while not self._waiting and link.is_open:
                    self._changed.wait()
                batch = self._take()
                self._is_writing = True
            try:
                link.log(*batch)
            finally:
                with self._changed:
                    self._is_writing = False
                    self._changed.notify_all()
