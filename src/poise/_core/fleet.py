"""The workers: how many are wanted, when each is started, and whether any can still be hoped for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from poise._core.states import WorkerEvent, WorkerState
from poise._core.workers import WorkerRecord
from poise.errors import PoolBroken

if TYPE_CHECKING:
    from collections.abc import Callable

    from poise._core.alarms import Alarms
    from poise._core.workers import WorkerId

BACKOFF_FIRST: Final = 0.1
BACKOFF_MOST: Final = 30.0
HEALTHY_AFTER: Final = 10.0
"""Seconds for which a worker must have been ready for its death to count as the first in a row."""


class Fleet:
    """Adds, starts, replaces and removes the records of workers; which calls they hold is not its concern."""

    __slots__ = (
        "_alarms",
        "_chance",
        "_next_id",
        "broken",
        "failed_starts",
        "generation",
        "heals",
        "last_cause",
        "last_failure",
        "ready",
        "size",
        "slots",
        "workers",
    )

    def __init__(self, slots: int, alarms: Alarms, *, heals: bool, chance: Callable[[], float]) -> None:
        self.size: int = 0
        """How many workers are wanted. Invariant: as many are members, while healing."""
        self.workers: dict[WorkerId, WorkerRecord] = {}
        """Every worker that is not GONE."""
        self.ready: dict[WorkerId, WorkerRecord] = {}
        """Invariant: those of `workers` that are READY."""
        self.heals: bool = heals
        """Whether lost workers are replaced."""
        self.failed_starts: int = 0
        """In a row, since a worker was last ready: one that dies may leave the room that the others lacked."""
        self.last_failure: str | None = None
        """Why the last of them failed."""
        self.last_cause: BaseException | None = None
        """The constructor's exception, if that is why."""
        self.generation: int = 0
        """Of which workers are that start for any other reason than a reload, or the loss of one."""
        self.broken: PoolBroken | None = None
        """Why no worker can start. Ends when one does."""
        self.slots: int = slots
        self._alarms = alarms
        self._chance = chance
        self._next_id: WorkerId = 0

    def members(self) -> list[WorkerRecord]:
        """The workers that count towards the size: all but those that retire, and spares."""
        return [w for w in self.workers.values() if w.state is not WorkerState.RETIRING and not w.is_spare]

    def is_starting(self, worker_id: WorkerId) -> bool:
        """Whether this worker is wanted and has not started yet."""
        worker = self.workers.get(worker_id)
        return worker is not None and worker.state is WorkerState.STARTING

    def surplus(self) -> list[WorkerRecord]:
        """The members over the size: those not started, killed or sick, then the idlest, leased ones last.

        While a reload is under way those of an old generation go before new ones.
        """
        members = self.members()
        members.sort(
            key=lambda w: (
                *(w.state, not w.is_killed, not w.is_quarantined),
                *(w.lease is not None, w.generation, len(w.running), -w.id),
            )
        )
        return members[: max(0, len(members) - self.size)]

    def add(self, now: float, *, failures: int = 0, waits: bool = False, generation: int | None = None) -> WorkerRecord:
        """Record a worker that is wanted, to be started when the backoff after so many failures has passed.

        If it `waits`, that is not before `hasten` says so. It is of this generation, or of the pool's.
        """
        delay = 0.0
        if failures:
            delay = min(BACKOFF_MOST, BACKOFF_FIRST * 2.0 ** min(20, failures - 1))
            delay *= 0.5 + 0.5 * self._chance()  # spreads the restarts of many workers
        worker = WorkerRecord(self._next_id, self.slots, math.inf if waits else now + delay, failures)
        worker.generation = self.generation if generation is None else generation
        self._next_id += 1
        self.workers[worker.id] = worker
        self._alarms.starts.add(worker, worker.start_at)
        return worker

    def hasten(self, worker: WorkerRecord, now: float) -> None:
        """Let a worker that is PENDING start now."""
        worker.start_at = now
        self._alarms.starts.add(worker, now)

    def step(self, worker: WorkerRecord, event: WorkerEvent, now: float) -> None:
        """Move a worker to its next state.

        Raises:
            IllegalTransitionError: its state does not allow the event. Nothing was changed.
        """
        worker.step(event, now)
        if worker.state is WorkerState.READY:
            self.ready[worker.id] = worker
            self.failed_starts = 0
            self.broken = None
        else:
            self.ready.pop(worker.id, None)
            self._alarms.ages.forget(worker)
        if event is not WorkerEvent.START:
            self._alarms.starts.forget(worker)
        if worker.state is WorkerState.GONE:
            self._alarms.checks.forget(worker)
            del self.workers[worker.id]

    def start_due(self, now: float) -> list[WorkerRecord]:
        """The workers whose start is due, which have moved to STARTING."""
        due = list(self._alarms.starts.pop_due(now))
        for worker in due:
            self.step(worker, WorkerEvent.START, now)
        return due

    def lose(
        self, worker: WorkerRecord, reason: str, now: float, cause: BaseException | None = None
    ) -> WorkerRecord | None:
        """A worker has died or could not start: record its heir, if it is to have one.

        Raises:
            IllegalTransitionError: the worker was never asked to start.
        """
        state, age = worker.state, now - worker.since
        self.step(worker, WorkerEvent.LOST, now)
        if state is WorkerState.STARTING:
            self.failed_starts += 1
            self.last_failure, self.last_cause = reason, cause
        elif state is WorkerState.READY:
            self.failed_starts = 0
        if not self.heals or state is WorkerState.RETIRING:
            return None
        if (renewal := worker.renewal) is not None and renewal.old is worker:
            renewal.part()
            return renewal.heir
        if renewal is not None and renewal.gives_up(reason, cause):
            return None
        was_healthy = state is WorkerState.READY and age >= HEALTHY_AFTER
        before = 0 if was_healthy else worker.failures
        failures = before + (not worker.is_killed)  # an end that was asked for is no failure
        heir = self.add(now, failures=failures, generation=worker.generation)
        if renewal is not None:
            renewal.pass_on(heir)
        return heir

    def judge(self, reason: str, cause: BaseException | None) -> bool:
        """Decide whether any worker can still be hoped for (G8); if not, say so and why in `broken`."""
        if self.ready:
            return False
        gave_up = self.heals and self.failed_starts >= max(3, self.size)
        died_out = not self.heals and not self.members()
        if gave_up or died_out:
            self.broken = PoolBroken(reason, self.failed_starts)
            self.broken.__cause__ = cause
        return self.broken is not None

    def broken_error(self) -> PoolBroken:
        """A new error for each caller, so that none shares a traceback."""
        assert self.broken is not None
        error = PoolBroken(self.broken.reason, self.broken.failures)
        error.__cause__ = self.broken.__cause__
        return error

    def check_invariants(self) -> None:
        """Check what is stated at the fields; for tests."""
        assert list(self.ready) == [w.id for w in self.ready.values() if w.state is WorkerState.READY]
        assert self.ready.keys() == {w.id for w in self.workers.values() if w.state is WorkerState.READY}
        pending = {w.id for w in self.workers.values() if w.state is WorkerState.PENDING}
        assert pending == self._alarms.starts.watched.keys()
        assert self.broken is None or not self.ready
        assert not self.heals or len(self.members()) == self.size
