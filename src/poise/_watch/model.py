"""An observer that keeps what people look at: the last fifteen minutes of a pool, and the present.

It is told of each call, so it does little for each: percentiles and shares are computed when somebody looks.
"""

from __future__ import annotations

import os
import time
from collections import deque
from math import log2
from typing import TYPE_CHECKING, Final, Protocol

from poise._watch.bars import Bars
from poise._watch.history import OFFSET, SECONDS, STEPS, TINY, History, Second, quantiles, share_of
from poise._watch.processes import Usages, is_here, this_node
from poise._watch.rows import Rows
from poise.events import Observer

if TYPE_CHECKING:
    from poise._watch.bars import Bar
    from poise._watch.picture import DeathPicture, Picture, WorkerPicture
    from poise._watch.processes import Usage
    from poise._watch.rows import Held
    from poise.events import (
        CallBegun,
        CallEnded,
        CallPutBack,
        CallRefused,
        CallReleased,
        PoolOpening,
        WorkerDied,
        WorkerRetired,
    )
    from poise.stats import Stats, WorkerStats

MOST_DEATHS: Final = 20
"""Deaths that are told of in detail."""
_TOTALS: Final = (
    *("submitted", "completed", "failed", "cancelled", "expired", "rejected", "lost"),
    *("retried", "deaths", "recycled", "sick"),
)


class Source(Protocol):
    """The pool, as far as a model asks it."""

    def time(self) -> float:
        """The present moment by the clock of the pool."""
        ...

    def phase(self) -> str:
        """Where the pool is in its life."""
        ...

    def stats(self) -> Stats | None:
        """A snapshot; None if it is not open yet, or gone."""
        ...


class _Desk:
    """One worker: its rows, and for how long its slots were in use."""

    __slots__ = ("busy", "counted", "last", "rows")

    def __init__(self, at: float) -> None:
        self.rows = Rows()
        self.last: dict[int, Bar] = {}
        """The last bar of each row."""
        self.busy = 0.0
        """Seconds of slots in the present second, up to `counted`."""
        self.counted = at


class Model(Observer):
    """What there is to see of one pool. On the pool's loop alone."""

    def __init__(self, pool: str, source: Source) -> None:
        """Know nothing of it yet.

        Args:
            pool: its name.
            source: what else there is to know of it.
        """
        self._pool = pool
        self._source = source
        self._mark = 1
        """Counts bars that are new or grow, and seconds that are over. The time will not do: events are told late."""
        self._history: History | None = None
        self._second = Second(0, 0, 0)  # the history's present one
        self._turns_at = 0.0
        """When the present second is over."""
        self._slots = 1
        """Of each worker."""
        self._desks: dict[int, _Desk] = {}
        self._left = 0.0
        """The busy seconds of workers that have gone in the present second."""
        self._abandoned: dict[int, str] = {}
        """How calls have ended that their workers still hold."""
        self._bars = Bars()
        self._deaths: deque[DeathPicture] = deque(maxlen=MOST_DEATHS)
        self._usages = Usages()

    # ---------------------------------------------------------------- calls

    def call_ended(self, event: CallEnded, /) -> None:
        """Count it, note its times, and draw its bar unless its worker goes on with it."""
        at, outcome, running = event.at, event.outcome, event.running
        second = self._second if at < self._turns_at else self._turn(at)
        second.ended[outcome] += 1
        second.waits[int(log2(event.waiting + TINY) * STEPS + OFFSET)] += 1
        if (worker := event.worker) is None:
            return
        if event.attempt:
            second.runs[int(log2(running + TINY) * STEPS + OFFSET)] += 1
        if event.is_abandoned:
            self._abandoned[event.call] = outcome
            return
        desk = self._desks.get(worker)
        if desk is not None and event.call in desk.rows.taken:
            self._count(desk, at)
            held = desk.rows.end(event.call, at)
            assert held is not None
        elif outcome in {"returned", "raised"}:
            desk = desk or self._seat(worker, at)
            before, count = desk.counted, self._count(desk, at)
            if count < self._slots:
                desk.busy += max(0.0, min(running, at - before))
            held = desk.rows.passed(at, running, event.function)
        else:  # it waited for another attempt, or its worker is gone
            return
        self._draw(worker, desk, held, at, outcome)

    def call_begun(self, event: CallBegun, /) -> None:
        """It takes a row of its worker."""
        at, worker = event.at, event.worker
        if at >= self._turns_at:
            self._turn(at)
        desk = self._desks.get(worker) or self._seat(worker, at)
        self._count(desk, at)
        desk.rows.begin(event.call, at, event.function)

    def call_put_back(self, event: CallPutBack, /) -> None:
        """Its bar ends, if it has run."""
        if (desk := self._desks.get(event.worker)) is None or event.call not in desk.rows.taken:
            return
        self._count(desk, event.at)
        if not event.is_retry:
            desk.rows.drop(event.call)
        elif (held := desk.rows.end(event.call, event.at)) is not None:
            self._draw(event.worker, desk, held, event.at, "retry")

    def call_released(self, event: CallReleased, /) -> None:
        """Its worker is done with it at last."""
        outcome = self._abandoned.pop(event.call, "cancelled")
        if (desk := self._desks.get(event.worker)) is None:
            return
        self._count(desk, event.at)
        if (held := desk.rows.end(event.call, event.at)) is not None:
            self._draw(event.worker, desk, held, event.at, outcome)

    def call_refused(self, event: CallRefused, /) -> None:
        """Count it."""
        self._at(event.at).refused += 1

    def _draw(self, worker: int, desk: _Desk, held: Held, end: float, outcome: str) -> None:
        self._mark += 1
        self._bars.draw(self._mark, self._second, desk.last, worker, held, end, outcome)

    # ---------------------------------------------------------------- workers

    def worker_died(self, event: WorkerDied, /) -> None:
        """Note it."""
        self._at(event.at).deaths += 1
        self._deaths.append(
            {
                "at": event.at,
                "worker": event.worker,
                "pid": event.pid,
                "cause": event.cause,
                "reason": event.reason,
                "functions": list(event.functions),
                "replaced_in": event.replaced_in,
            }
        )
        self._unseat(event.worker, event.at)

    def worker_retired(self, event: WorkerRetired, /) -> None:
        """It has nothing to do any more."""
        self._unseat(event.worker, event.at)

    def _seat(self, worker: int, at: float) -> _Desk:
        desk = self._desks[worker] = _Desk(at)
        return desk

    def _unseat(self, worker: int, at: float) -> None:
        if (desk := self._desks.pop(worker, None)) is not None:
            self._count(desk, at)
            self._left += desk.busy
            for call in desk.rows.taken:
                self._abandoned.pop(call, None)

    def _count(self, desk: _Desk, at: float) -> int:
        """Count what its slots were in use up to now; returns how many are."""
        taken = len(desk.rows.taken)
        if at > desk.counted:
            desk.busy += (taken if taken < self._slots else self._slots) * (at - desk.counted)
            desk.counted = at
        return taken

    # ---------------------------------------------------------------- time

    def pool_opening(self, event: PoolOpening, /) -> None:
        """Begin."""
        self._at(event.at)

    def tick(self) -> None:
        """Look at the pool, once a second: what nobody tells of is sampled then."""
        if (stats := self._source.stats()) is not None:
            self._see(stats)

    def _see(self, stats: Stats) -> None:
        # Of the second that is over it is what it ended with; the next one begins with it.
        self._second.backlog = stats.waiting + stats.parked
        self._at(self._source.time())
        self._slots = max((worker.slots for worker in stats.workers), default=1)
        self._second.slots = _slots(stats)
        self._second.backlog = stats.waiting + stats.parked

    def _at(self, at: float) -> Second:
        return self._second if at < self._turns_at else self._turn(at)

    def _turn(self, at: float) -> Second:
        """Close the seconds that are over, and return the present one."""
        history = self._history
        if history is None or at - self._turns_at > SECONDS:  # the first, or all that was is past
            self._history = history = History(at)
            self._second = history.present
        while at >= (end := self._second.at + 1.0):
            for desk in self._desks.values():
                self._count(desk, end)
                self._left += desk.busy
                desk.busy = 0.0
            self._mark += 1
            self._second.end(self._mark, self._left)
            self._left = 0.0
            self._second = history.next()
        self._turns_at = self._second.at + 1.0
        return self._second

    # ---------------------------------------------------------------- looking

    def picture(self) -> Picture | None:
        """All that there is to see; None of a pool that is not open yet, or gone. See `_watch.picture`."""
        return self.changes(0)

    def changes(self, since: int, *, bars: bool = True) -> Picture | None:
        """The present, and of the past what is new since another picture.

        Args:
            since: the `mark` of that.
            bars: whether to draw what ran.
        """
        if (stats := self._source.stats()) is None:
            return None
        self._see(stats)
        history, now = self._history, self._source.time()
        assert history is not None, "it has just been looked at"
        lately = history.lately()
        ended = sum(sum(second.ended.values()) for second in lately)
        return {
            "pool": self._pool,
            "program": os.getpid(),
            "state": self._source.phase(),
            "mark": self._mark,
            "now": now,
            "wall": time.time(),
            "size": stats.size,
            "least": stats.least,
            "most": stats.most,
            "generation": stats.generation,
            "ready": stats.ready,
            "starting": stats.starting,
            "waiting": stats.waiting,
            "parked": stats.parked,
            "running": stats.running,
            "ahead": stats.ahead,
            "abandoned": stats.abandoned,
            "free_slots": stats.free_slots,
            "slots": _slots(stats),
            "totals": {name: getattr(stats, name) for name in _TOTALS},
            "rate": round(ended / len(lately), 1) if lately else 0.0,
            "waits": quantiles(second.waits for second in lately),
            "runs": quantiles(second.runs for second in lately),
            "busy": share_of(lately),
            "workers": self._workers(stats),
            "deaths": list(self._deaths),
            "seconds": history.since(since),
            "bars": self._bars.since(since) if bars else [],
            "hidden": self._bars.hidden,
        }

    def _workers(self, stats: Stats) -> list[WorkerPicture]:
        node = this_node()
        pids = [worker.pid for worker in stats.workers if worker.pid is not None and is_here(worker, node)]
        usages = self._usages.look(pids, time.monotonic())
        return [self._worker(worker, node, usages) for worker in stats.workers]

    def _worker(self, worker: WorkerStats, node: str | None, usages: dict[int, Usage | None]) -> WorkerPicture:
        desk, here = self._desks.get(worker.id), is_here(worker, node)
        usage = usages.get(worker.pid) if here and worker.pid is not None else None
        taken = {} if desk is None else desk.rows.taken
        return {
            "id": worker.id,
            "state": worker.state,
            "leased": worker.leased,
            "quarantined": worker.quarantined,
            "pid": worker.pid,
            "node": worker.node,
            "is_here": here,
            "lane": worker.lane,
            "generation": worker.generation,
            "slots": worker.slots,
            "running": worker.running,
            "ahead": worker.ahead,
            "finished": worker.finished,
            "age": worker.age,
            "calls": [
                {"call": call, "function": held.function, "row": held.row, "since": held.since}
                for call, held in sorted(taken.items(), key=lambda item: item[1].since)
            ],
            "resident": None if usage is None else usage.resident,
            "cpu": None if usage is None else usage.cpu,
            "read": None if usage is None else usage.at,
        }


def _slots(stats: Stats) -> int:
    return sum(worker.slots for worker in stats.workers if worker.state == "ready")
