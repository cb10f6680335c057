"""A rolling reload: workers of a new generation start first, those of the old one are drained, calls are always served.

All or none: if a new one cannot start, those that are new already are replaced by old ones again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from poise._core.renewal import Order
from poise._core.states import WorkerState

if TYPE_CHECKING:
    from poise._core.effects import Effect
    from poise._core.fleet import Fleet
    from poise._core.renewal import Renewal
    from poise._core.renewals import Renewals
    from poise._core.workers import WorkerRecord


class Reload:
    """One reload, as whoever has asked for it sees it."""

    __slots__ = ("before", "cause", "failure", "generation", "is_over", "surge")

    def __init__(self, generation: int, before: int, surge: int) -> None:
        self.generation: int = generation
        """What the workers are to be of."""
        self.before: int = before
        """What they were of, and are to be again if a new one cannot start."""
        self.surge: int = surge
        """How many may start at a time beside those that work; if none, one after the other leaves first."""
        self.is_over: bool = False
        """Whether all are new, or a new one could not start."""
        self.failure: str | None = None
        """Why not."""
        self.cause: BaseException | None = None
        """The constructor's exception, if that is why."""

    @property
    def target(self) -> int:
        """What all workers are to be of now."""
        return self.generation if self.failure is None else self.before


class Reloading:
    """Has every worker replaced by one of the generation that is wanted, some at a time."""

    __slots__ = ("_fleet", "_last", "_reload", "_renewals", "_under_way")

    def __init__(self, fleet: Fleet, renewals: Renewals) -> None:
        self._fleet = fleet
        self._renewals = renewals
        self._last = 0
        """The newest generation that there ever was to be."""
        self._reload: Reload | None = None
        """What is under way; it stays, though it has failed, until all workers are old ones again."""
        self._under_way: list[Renewal] = []
        """Those that it has begun."""

    @property
    def is_under_way(self) -> bool:
        """Whether a reload has not succeeded yet, and has not failed."""
        return self._reload is not None and not self._reload.is_over

    def begin(self, surge: int, now: float) -> tuple[Reload, list[Effect]]:
        """Have all workers replaced by those of a new generation. Not while a reload is under way."""
        assert not self.is_under_way
        self._last += 1
        if not self._fleet.size:  # an elastic pool sleeps: one worker has to show whether a new one can start
            self._fleet.size = 1
            self._fleet.add(now)
        reload = self._reload = Reload(self._last, self._fleet.generation, surge)
        self._renewals.on_change = self._look
        self._look(now)
        return reload, self._renewals.decided(now)

    def _look(self, now: float) -> None:
        """A worker has become ready, was lost, or has no room: take the next steps."""
        reload = self._reload
        assert reload is not None, "looked at only while there is one"
        if reload.failure is None and self._has_failed(reload):
            self._turn_back(reload, now)
        members = self._fleet.members()
        if any(_is_new(worker, reload) for worker in members):
            self._fleet.generation = reload.target
        self._under_way = [renewal for renewal in self._under_way if not renewal.is_over]
        old = [w for w in members if w.state is WorkerState.READY and w.generation != reload.target]
        for worker in old:
            if len(self._under_way) < max(1, reload.surge) and worker.renewal is None and not worker.is_killed:
                self._under_way.append(self._replace(worker, reload, now))
        if not old:  # else those that have not started do so when it has shown that new ones can
            for worker in members:
                self._turn(worker, reload.target, now)
            self._end_if_done(reload)

    def _replace(self, worker: WorkerRecord, reload: Reload, now: float) -> Renewal:
        has_failed = reload.failure is not None
        reason = f"the pool goes back to generation {reload.before}" if has_failed else "the pool is reloaded"
        order = Order.NEW_FIRST if reload.surge else Order.OLD_FIRST
        return self._renewals.begin(
            worker, reason, now, order, generation=reload.target, persists=has_failed, yields=has_failed
        )

    def _turn(self, worker: WorkerRecord, target: int, now: float) -> None:
        """What has not started is to be of this generation too."""
        if worker.generation == target:
            return
        if worker.state is WorkerState.PENDING:
            worker.generation, worker.failures = target, 0
            if worker.start_at != math.inf:  # else it waits for the end of another
                self._fleet.hasten(worker, now)
        else:
            self._renewals.dismiss(worker, now)
            self._fleet.add(now, generation=target)

    def _has_failed(self, reload: Reload) -> bool:
        """Whether a new one could not start: one that was to replace another, or the first of all."""
        for renewal in self._under_way:
            if renewal.failure is not None:
                reload.failure, reload.cause = renewal.failure, renewal.cause
        members = self._fleet.members()
        is_proven = any(_is_new(worker, reload) for worker in members)
        for worker in members:
            counts = worker.renewal in self._under_way or not is_proven
            if counts and worker.generation == reload.generation and worker.failures and reload.failure is None:
                reload.failure, reload.cause = self._fleet.last_failure or "it died at once", self._fleet.last_cause
        return reload.failure is not None

    def _turn_back(self, reload: Reload, now: float) -> None:
        """Whoever has asked hears of it now; the old generation is brought back, however long that takes."""
        reload.is_over = True
        self._fleet.generation = reload.before
        for renewal in self._under_way:
            if renewal.old is not None and not renewal.is_over:
                self._renewals.give_up(renewal, "another one could not start", now)
        self._under_way.clear()

    def _end_if_done(self, reload: Reload) -> None:
        members = self._fleet.members()
        is_done = reload.failure is not None or any(_is_new(worker, reload) for worker in members)
        if is_done and all(worker.generation == reload.target for worker in members):
            reload.is_over = True
            self._reload = self._renewals.on_change = None
            self._under_way.clear()


def _is_new(worker: WorkerRecord, reload: Reload) -> bool:
    """Whether it shows that one of the wanted generation can start."""
    return worker.state is WorkerState.READY and worker.generation == reload.target
