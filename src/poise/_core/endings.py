"""How attempts end, and what becomes of their calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poise._answers import NOT_BEGUN, RETRYABLE, RETURNED
from poise._core.batches import Batching
from poise._core.budget import RetryBudget
from poise._core.states import ABANDONED, DONE, PAUSE, RETURN
from poise.errors import LeaseExpired, PoisonCall, PoolClosed, WorkerLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from poise._answers import Answer
    from poise._core.batches import Batch
    from poise._core.calls import CallId, CallRecord
    from poise._core.fleet import Fleet
    from poise._core.outcomes import Outcomes
    from poise._core.pace import Pace
    from poise._core.queues import Queues
    from poise._core.retry import Retry
    from poise._core.workers import WorkerRecord


class Endings:
    """After each attempt its call has its outcome, waits again at its place in the order, or pauses before that."""

    __slots__ = ("_budget", "_chance", "_fleet", "_outcomes", "_pace", "_poison_after", "_queues", "refuses")

    def __init__(
        self,
        queues: Queues,
        pace: Pace,
        fleet: Fleet,
        outcomes: Outcomes,
        poison_after: int,
        chance: Callable[[], float],
        retry_budget: float | None,
    ) -> None:
        self.refuses: bool = False
        """What has not begun is refused instead of waiting, and nothing is tried again."""
        self._queues = queues
        self._pace = pace
        self._fleet = fleet
        self._outcomes = outcomes
        self._poison_after = poison_after
        self._chance = chance
        self._budget = None if retry_budget is None else RetryBudget(retry_budget)

    def announced(self, worker: WorkerRecord, call_ids: Iterable[CallId], *, is_kept: bool = False) -> None:
        """Calls that were sent ahead may have begun, and have if the worker keeps them although they were recalled."""
        for call_id in call_ids:
            if (call := worker.ahead.get(call_id)) is not None and call.attempt is not None:
                call.attempt.may_have_begun = True
                call.attempt.is_kept |= is_kept

    def answered(self, call: CallRecord, worker: WorkerRecord, answer: Answer, now: float) -> None:
        """An attempt has ended by the worker's own word."""
        if worker.lease is call:
            worker.lease = None  # a suspect that ran alone
        has_begun = answer.ending != NOT_BEGUN
        self._settle(call, answer.service_time)
        call.answered(answer)
        if has_begun:
            worker.finished += 1
            worker.busy += answer.service_time
            self._pace.record(call.function, answer.service_time)
            self._note_call(call, now)
        if call.state is ABANDONED:
            self._outcomes.end_abandoned(call)
            return
        if not has_begun:
            self._put_back(call, worker, now)
            return
        worker.has_failed = answer.ending != RETURNED
        if answer.ending == RETRYABLE and (retry := self._retry_of(call, now)) is not None:
            if call.bound_for is None:
                retry.avoid(worker.id)
            self._try_again(call, retry, worker, now)
        else:
            self._outcomes.resolve(call, answer)

    def lost(self, call: CallRecord, worker: WorkerRecord, reason: str, now: float) -> None:
        """An attempt has ended with its worker."""
        has_begun = call.attempt is not None and call.attempt.may_have_begun
        if not has_begun:
            self._settle(call, 0.0)
        call.end_attempt(has_begun=has_begun)
        batch = worker.batches.get(call.id)
        if batch is not None and len(batch.calls) == 1:
            batch = None
        if call.state is ABANDONED:
            self._outcomes.end_abandoned(call)
            return
        if not has_begun:  # so it was sent ahead, and is bound for no worker
            self._put_back(call, worker, now)
            return
        self._note_call(call, now)
        call.deaths += 1
        is_poison = batch is None and call.deaths >= self._poison_after  # in company another may be to blame
        if call.bound_for is None and not is_poison and (retry := self._retry_of(call, now)) is not None:
            if type(call.function) is Batching:
                call.retry = retry = retry.in_part(1 if batch is None else batch.part(retry.left))
            self._try_again(call, retry, worker, now, batch)
        elif is_poison:
            self._outcomes.fail(call, PoisonCall(worker.id, reason, call.deaths, call.name))
        else:
            self._outcomes.fail(call, WorkerLost(worker.id, reason))

    def given_up(self, call: CallRecord, worker: WorkerRecord, reason: str) -> None:
        """Nobody asks the worker any more, so that the attempt may have begun."""
        call.end_attempt(has_begun=True)
        if call.state is ABANDONED:
            self._outcomes.end_abandoned(call)
        else:
            self._outcomes.fail(call, WorkerLost(worker.id, reason))

    def refuse_waiting(self, workers: Iterable[WorkerRecord]) -> None:
        """End everything that waits, now and from now on."""
        self.refuses = True
        for call in self._queues.calls(workers):
            self._outcomes.refuse(call, _closed_error(call))

    def _settle(self, call: CallRecord, service_time: float) -> None:
        """What was charged for the attempt was a guess."""
        if call.attempt is not None and call.attempt.charged:
            self._queues.shares.settle(call, call.attempt.charged, service_time)

    def _note_call(self, call: CallRecord, now: float) -> None:
        if self._budget is not None and call.attempts == 1:
            self._budget.note_call(now)

    def _retry_of(self, call: CallRecord, now: float) -> Retry | None:
        """By what leave a call that may have begun is given another attempt, None if it is not (G2)."""
        retry = call.retry
        if retry is None or retry.left <= 0 or self.refuses or self._fleet.broken is not None:
            return None
        if call.lease is not None and call.lease.state is DONE:
            return None
        if self._budget is not None and not self._budget.take(now):
            self._outcomes.counters.over_budget += 1
            return None
        return retry

    def _try_again(
        self, call: CallRecord, retry: Retry, worker: WorkerRecord, now: float, batch: Batch | None = None
    ) -> None:
        """Let a call that may have begun wait for another attempt, after a pause.

        One of a broadcast does not pause: it is part of what its worker's replacement takes over.
        """
        self._outcomes.counters.retried += 1
        pause = retry.pause(self._chance if batch is None else lambda: batch.chance(self._chance))
        if pause > 0 and (call.bound_for is None or call.lease is not None):
            call.step(PAUSE)
            self._queues.pause(call, now + pause)
        else:
            self._put_back(call, worker, now)

    def _put_back(self, call: CallRecord, worker: WorkerRecord, now: float) -> None:
        """Let a call that this worker held wait again, at its place in the order, if there still is one for it."""
        call.step(RETURN)
        call.waits_since = now
        if self.refuses:
            self._outcomes.fail(call, _closed_error(call))
        elif call.lease is not None and call.lease.state is DONE:
            self._outcomes.fail(call, LeaseExpired(worker.id, "released"))
        elif self._fleet.broken is not None:
            self._outcomes.fail(call, self._fleet.broken_error())
        else:
            self._queues.put_back(call)


def _closed_error(call: CallRecord) -> PoolClosed:
    if not call.attempts:
        return PoolClosed("the pool was closed before the call could start; it has not run")
    times = "1 time" if call.attempts == 1 else f"{call.attempts} times"
    return PoolClosed(f"the pool was closed before the call could be tried again; it has run {times}")
