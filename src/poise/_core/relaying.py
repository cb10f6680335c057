"""A fleet of one worker that has workers of its own: to a process that shares a pool, the owner of that.

It takes any number of calls and lets them wait there. So that it holds a call says nothing of whether that has begun,
and its death is not a call's doing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from poise._core.placement import Placement
from poise._core.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from poise._core.alarms import Alarms
    from poise._core.calls import CallId
    from poise._core.effects import Effect
    from poise._core.workers import WorkerId, WorkerRecord

SLOTS: Final = 1 << 30
"""Calls that it takes at once."""


class LonePlacement(Placement):
    """There is one worker, and it has a free slot."""

    def __init__(self, slots: int, alarms: Alarms) -> None:  # noqa: ARG002 (as of any)
        super().__init__(1, alarms)  # which keeps a queue for each number of slots in use

    def update(self, worker: WorkerRecord) -> None:
        """Have the worker stand where it belongs: it is open, or it is not."""
        if worker.is_open:
            self._by_rank[0][worker.id] = worker
            self._rank[worker.id] = self._least = 0
        elif self._rank.pop(worker.id, None) is not None:
            del self._by_rank[0][worker.id]

    def check_invariants(self, workers: Iterable[WorkerRecord]) -> None:
        """Check that this is what the worker says; for tests."""
        assert self._rank == {worker.id: 0 for worker in workers if worker.is_open}
        assert list(self._by_rank[0]) == list(self._rank)


class RelayScheduler(Scheduler):
    """Hands every call to the one worker, and has those wait for which there is none."""

    _placements = LonePlacement

    def __init__(self, *, backlog: int | None, chance: Callable[[], float], retry_budget: float | None = None) -> None:
        super().__init__(slots=SLOTS, backlog=backlog, retry_budget=retry_budget, chance=chance)

    def take_note(self, worker_id: WorkerId, attempts: Mapping[CallId, int]) -> None:
        """The worker is about to be lost: these calls may have begun so many times there, any other once."""
        worker = self._workers.get(worker_id)
        for call in () if worker is None else worker.running.values():
            begun = attempts.get(call.id, 1)
            assert call.attempt is not None, "a worker holds it"
            call.attempt.may_have_begun = begun > 0
            if call.retry is not None and begun > 1:
                call.retry.left = max(0, call.retry.left - (begun - 1))

    def worker_lost(
        self,
        worker_id: WorkerId,
        reason: str,
        now: float,
        *,
        cause: BaseException | None = None,
        all_in_doubt: bool = False,
    ) -> list[Effect]:
        """The worker has died; whether calls have begun there has been noted, and is in no more doubt than that."""
        worker = self._workers.get(worker_id)
        held = [] if worker is None else list(worker.running.values())
        effects = super().worker_lost(worker_id, reason, now, cause=cause, all_in_doubt=all_in_doubt)
        for call in held:
            call.deaths = 0
        return effects
