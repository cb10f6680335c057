"""A recording of a pool: which worker ran what, and when, as a file that Perfetto opens (https://ui.perfetto.dev).

It is in the array form of Chrome's trace events, of which each line is written at once and whole, and whose end may be
missing: what a process that was killed has written is a recording too.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from typing import IO, TYPE_CHECKING, Any, Final

from poise._watch.rows import Rows
from poise.events import Observer

if TYPE_CHECKING:
    from collections.abc import Callable

    from poise._watch.rows import Held
    from poise.events import (
        CallBegun,
        CallEnded,
        CallPutBack,
        CallReleased,
        PoolBroke,
        PoolEnded,
        PoolOpening,
        PoolWhole,
        WorkerDied,
        WorkerReady,
        WorkerReplacing,
        WorkerRetired,
        WorkerStarting,
    )

_logger = logging.getLogger("poise")

MOST_EVENTS: Final = 500_000
"""Bars and marks in one recording, which takes some 100 MB then; what follows is left out."""
_POOL: Final = 0
"""Where the pool itself is drawn; a worker is drawn at its number and one more, since Perfetto has a use for 0 only."""


class Recording(Observer):
    """Writes down what happens in one pool."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open nothing before something happens. What the file has held is replaced."""
        self._path = path
        self._process = os.getpid()
        self._file: IO[str] | None = None
        self._is_over = False
        self._written = 0
        self._began = 0.0
        self._starts: dict[int, float] = {}
        """Workers that are starting, and since when."""
        self._rows: dict[int, Rows] = {}
        """Those of each worker."""
        self._ends: dict[int, tuple[float, dict[str, Any]]] = {}
        """Calls that have ended for their caller alone: when, and how."""
        self.trace_of: Callable[[int], dict[str, str]] = lambda _: {}
        """What is to be said of the trace of a call, until it has ended."""

    # ---------------------------------------------------------------- calls

    def call_begun(self, event: CallBegun, /) -> None:
        """It takes a row."""
        self._rows_of(event.worker).begin(event.call, event.at, event.function)

    def call_put_back(self, event: CallPutBack, /) -> None:
        """Its bar ends, if it has run; what was only taken back had none, and may get one elsewhere."""
        rows = self._rows_of(event.worker)
        if not event.is_retry:
            rows.drop(event.call)
        elif (held := rows.end(event.call, event.at)) is not None:
            self._draw_call(event, held, {"outcome": "to be tried again", **self.trace_of(event.call)})

    def call_ended(self, event: CallEnded, /) -> None:
        """Its bar ends, unless its worker goes on with it."""
        if event.is_abandoned:
            self._ends[event.call] = event.at, self._described(event)
            return
        if event.worker is None:
            return
        rows = self._rows_of(event.worker)
        held = rows.end(event.call, event.at)
        if held is None and event.outcome in ("returned", "raised"):
            # It was over before the pool knew that it had begun. Any other that has no bar waited for another attempt.
            held = rows.passed(event.at, event.running, event.function)
        if held is not None:
            self._draw_call(event, held, self._described(event))

    def call_released(self, event: CallReleased, /) -> None:
        """Its worker is done with it at last."""
        end = self._ends.pop(event.call, None)
        if (held := self._rows_of(event.worker).end(event.call, event.at)) is not None:
            details = {} if end is None else {**end[1], "overran_ms": _ms(event.at - end[0])}
            self._draw_call(event, held, details)

    def _draw_call(self, event: CallEnded | CallPutBack | CallReleased, held: Held, details: dict[str, Any]) -> None:
        assert event.worker is not None
        details = {"call": event.call, "attempt": event.attempt, **details}
        seconds = event.at - held.since
        self._draw(held.since, "X", event.function, event.worker + 1, held.row, dur=_us(seconds), args=details)

    def _described(self, event: CallEnded) -> dict[str, Any]:
        described: dict[str, Any] = {"outcome": event.outcome, "waiting_ms": _ms(event.waiting)}
        described |= {"travelling_ms": _ms(event.travelling), "running_ms": _ms(event.running)}
        if event.error is not None:
            described["error"] = event.error.__name__
        return described | self.trace_of(event.call)

    def _rows_of(self, worker: int) -> Rows:
        return self._rows.get(worker) or self._rows.setdefault(worker, Rows())

    # ---------------------------------------------------------------- workers

    def worker_starting(self, event: WorkerStarting, /) -> None:
        """Draw nothing before it has started."""
        self._starts[event.worker] = event.at

    def worker_ready(self, event: WorkerReady, /) -> None:
        """Name it, and draw its start."""
        pid = "" if event.pid is None else f" (pid {event.pid})"
        self._name(event.worker + 1, f"worker {event.worker}{pid}")
        since = self._starts.pop(event.worker, event.at)
        self._draw(since, "X", "start", event.worker + 1, dur=_us(event.at - since), args={"node": event.node})

    def worker_died(self, event: WorkerDied, /) -> None:
        """Draw its end, and the start that has failed."""
        since = self._starts.pop(event.worker, None)
        if since is not None:
            self._name(event.worker + 1, f"worker {event.worker}")
            self._draw(since, "X", "start", event.worker + 1, dur=_us(event.at - since), args={"outcome": "failed"})
        self._mark(event.at, f"lost: {event.reason}", event.worker + 1)
        self._forget(event.worker)

    def worker_replacing(self, event: WorkerReplacing, /) -> None:
        """Mark it."""
        self._mark(event.at, f"to be replaced by worker {event.heir}: {event.reason}", event.worker + 1)

    def worker_retired(self, event: WorkerRetired, /) -> None:
        """Mark its end."""
        self._mark(event.at, "ended", event.worker + 1)
        self._forget(event.worker)

    def _forget(self, worker: int) -> None:
        self._starts.pop(worker, None)
        self._rows.pop(worker, None)

    # ---------------------------------------------------------------- the pool

    def pool_opening(self, event: PoolOpening, /) -> None:
        """Begin the file."""
        self._began = event.at
        self._name(_POOL, f"pool of {event.pool}")
        self._mark(event.at, "opening", _POOL)

    def pool_whole(self, event: PoolWhole, /) -> None:
        """Mark it."""
        self._mark(event.at, f"whole: {event.size} workers are ready", _POOL)

    def pool_broke(self, event: PoolBroke, /) -> None:
        """Mark it."""
        self._mark(event.at, f"broken: {event.reason}", _POOL)

    def pool_ended(self, event: PoolEnded, /) -> None:
        """End the file."""
        self._mark(event.at, "closed", _POOL)
        self._close()

    # ---------------------------------------------------------------- the file

    def _name(self, where: int, name: str) -> None:
        self._write({"ph": "M", "name": "process_name", "pid": where, "tid": 0, "args": {"name": name}})
        self._write({"ph": "M", "name": "process_sort_index", "pid": where, "tid": 0, "args": {"sort_index": where}})

    def _mark(self, at: float, text: str, where: int) -> None:
        self._draw(at, "i", text, where, s="p")

    def _draw(self, at: float, phase: str, name: str, where: int, row: int = 0, **more: Any) -> None:
        self._write({"ph": phase, "name": name, "ts": _us(at - self._began), "pid": where, "tid": row, **more})

    def _write(self, event: dict[str, Any]) -> None:
        if self._is_over:
            return
        if self._written == MOST_EVENTS:
            _logger.warning("the recording %s is full after %d events, and was ended", self._path, MOST_EVENTS)
            self._close()
            return
        try:
            if self._file is None:
                # A line is written as soon as it is complete, with the comma that belongs before it.
                self._file = open(self._path, "w", buffering=1, encoding="utf-8")  # noqa: SIM115 (open as long as the pool)
            self._file.write(("[\n" if self._written == 0 else ",\n") + json.dumps(event, separators=(",", ":")))
        except OSError:
            self._is_over = True
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._file.close()
            raise
        self._written += 1

    def _close(self) -> None:
        if not self._is_over and self._file is not None:
            self._is_over = True
            with self._file as file:
                file.write("\n]\n")

    def __del__(self) -> None:
        """Leave no file open, if the pool was never closed. In a forked child it is the parent's."""
        if os.getpid() == self._process:
            self._close()


def _us(seconds: float) -> float:
    return round(seconds * 1e6, 1)


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
