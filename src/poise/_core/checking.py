"""Asks each worker of a pool, from time to time, whether it is well."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from poise._answers import RETURNED
from poise._core.attempts import Attempt
from poise._core.calls import CHECK_IDS, CallRecord
from poise._core.effects import Cancel, Check, Struck
from poise._core.states import CallEvent, WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from poise._answers import Answer
    from poise._core.alarms import Alarms
    from poise._core.counters import Counters
    from poise._core.effects import Outbox
    from poise._core.leaving import Leaving
    from poise._core.placement import Placement
    from poise._core.quarantine import Quarantine
    from poise._core.vitals import Vitals
    from poise._core.workers import WorkerRecord
    from poise.policies import Health

GRACE: Final = 1.0
"""Seconds that a worker has, after the last check that it has not answered, to say anything: that a coroutine was
cancelled, say. One that says nothing hangs."""


class Checking:
    """Has workers replaced whose checks fail, and those killed that do not answer any more."""

    __slots__ = ("_alarms", "_chance", "_counters", "_leaving", "_outbox", "_placement", "_policy", "_quarantine")

    def __init__(
        self,
        policy: Health,
        placement: Placement,
        alarms: Alarms,
        leaving: Leaving,
        quarantine: Quarantine,
        counters: Counters,
        outbox: Outbox,
        chance: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._placement = placement
        self._alarms = alarms
        self._leaving = leaving
        self._quarantine = quarantine
        self._counters = counters
        self._outbox = outbox
        self._chance = chance
        alarms.add(alarms.checks)

    def enrol(self, worker: WorkerRecord, vitals: Vitals, now: float) -> None:
        """A worker has become ready. Those that have done so together are not asked together."""
        vitals.due = now + self._policy.every * self._chance()
        self._alarms.checks.add(worker, vitals.due)

    def heard(self, worker: WorkerRecord, vitals: Vitals, answers: Sequence[Answer], now: float) -> Sequence[Answer]:
        """A worker has answered: take in what it says of its check, and return the rest."""
        if (check := vitals.check) is None:
            return answers
        for answer in answers:
            if answer.call_id == check.id:
                self._answered(worker, vitals, check, answer, now)
        return [answer for answer in answers if answer.call_id != check.id]

    def tick(self, now: float) -> None:
        """Time has passed."""
        for worker in list(self._alarms.checks.pop_due(now)):
            vitals = worker.vitals
            assert vitals is not None
            if vitals.due <= now:
                vitals.due = now + self._policy.every
                self._look(worker, vitals, now)
            self._alarms.checks.add(worker, vitals.due)

    def _look(self, worker: WorkerRecord, vitals: Vitals, now: float) -> None:
        """It is time to ask a worker, or it should have answered by now."""
        if worker.is_killed or (vitals.check is None and worker.state is WorkerState.RETIRING):
            vitals.due = math.inf  # it leaves
        elif vitals.check is not None:
            self._unanswered(worker, vitals, vitals.check, now)
        elif worker.renewal is not None and vitals.strikes >= self._policy.strikes:
            pass  # it is replaced already
        elif _has_room(worker):
            self._ask(worker, vitals, now)
        elif _is_busy(worker, now):
            pass  # what it runs has time left
        elif vitals.heard_at >= vitals.asked_at:
            vitals.asked_at = now  # as if: from now on it is to say anything at all
        else:
            self._strike(worker, vitals, None)
            if vitals.strikes >= self._policy.strikes:
                self._end(worker, vitals)

    def _ask(self, worker: WorkerRecord, vitals: Vitals, now: float) -> None:
        """Have the check run, which holds a slot until it is answered, as a call does whose caller is gone."""
        check = CallRecord(CHECK_IDS + worker.id, "check", name=self._policy.check_name)
        check.attempt = Attempt(worker, now)
        check.attempt.may_have_begun = True
        check.step(CallEvent.GRANT)
        check.step(CallEvent.ABANDON)
        worker.running[check.id] = check
        self._placement.update(worker)
        self._outbox.add(Check(worker.id, check.id))
        vitals.check, vitals.asked_at = check, now
        vitals.is_late = vitals.has_grace = False
        vitals.due = now + self._policy.timeout

    def _answered(self, worker: WorkerRecord, vitals: Vitals, check: CallRecord, answer: Answer, now: float) -> None:
        del worker.running[check.id]
        check.end_attempt(has_begun=True)
        check.step(CallEvent.END)
        vitals.check = None
        if not vitals.is_late:
            if answer.ending == RETURNED and answer.value is not False:
                vitals.strikes = 0
            else:
                self._strike(worker, vitals, answer)
        vitals.due = now + self._policy.every
        self._alarms.checks.add(worker, vitals.due)
        if vitals.strikes >= self._policy.strikes:
            self._replace(worker, vitals, now)

    def _unanswered(self, worker: WorkerRecord, vitals: Vitals, check: CallRecord, now: float) -> None:
        """It runs its check for longer than it may."""
        if worker.state is WorkerState.RETIRING:
            if not vitals.is_late:
                self._give_up(worker, vitals, check)
                vitals.due = now + GRACE
            elif len(worker.running) == 1 and worker.lease is None:
                self._leaving.kill(worker, f"killed: it was to end, and {check.name} still ran")
        elif vitals.has_grace and vitals.heard_at < vitals.asked_at:
            self._end(worker, vitals)
        elif vitals.has_grace:
            self._replace(worker, vitals, now)
        elif not vitals.is_late and _is_busy(worker, now, vitals.asked_at):
            vitals.due = now + self._policy.timeout  # a call may keep the interpreter from it, and has time left
        else:
            if not vitals.is_late:
                self._give_up(worker, vitals, check)
            self._strike(worker, vitals, None)
            if vitals.strikes >= self._policy.strikes:
                vitals.has_grace = True
                vitals.due = now + GRACE

    def _give_up(self, worker: WorkerRecord, vitals: Vitals, check: CallRecord) -> None:
        """What the check says does not count any more; if it is a coroutine it is stopped."""
        vitals.is_late = True
        self._outbox.add(Cancel(worker.id, check.id))

    def _strike(self, worker: WorkerRecord, vitals: Vitals, answer: Answer | None) -> None:
        """A check has failed, or was not answered."""
        vitals.strikes += 1
        failure = None if answer is None or answer.ending == RETURNED else answer.value
        strikes = vitals.strikes, self._policy.strikes
        self._outbox.add(Struck(worker.id, self._policy.check_name, *strikes, answer is not None, failure))

    def _replace(self, worker: WorkerRecord, vitals: Vitals, now: float) -> None:
        """Its checks have failed too often, and it can say so: another takes its place."""
        reason = f"{self._policy.check_name} has failed {vitals.strikes} times in a row"
        self._quarantine.admit(worker, reason, now)

    def _end(self, worker: WorkerRecord, vitals: Vitals) -> None:
        """It does not say anything any more."""
        self._counters.sick += 1
        reason = f"{self._policy.check_name} was not answered, and {vitals.strikes} in a row have failed"
        self._leaving.kill(worker, f"killed: {reason}")


def _has_room(worker: WorkerRecord) -> bool:
    """Whether a check may begin at once: on a worker that nobody has for himself, nor waits for."""
    is_free = worker.lease is None and worker.claim is None and worker.free_slots > 0
    return is_free and worker.state is WorkerState.READY and not worker.is_silent


def _is_busy(worker: WorkerRecord, now: float, since: float = math.inf) -> bool:
    """Whether it is leased, or runs a call that is within its time and that it was given before then."""
    if worker.lease is not None and worker.lease.is_lease:
        return True
    calls = [*worker.running.values(), *(batch.calls[call_id] for call_id, batch in worker.batches.items())]
    attempts = [call.attempt for call in calls if call.id < CHECK_IDS and call.deadline > now]
    return any(attempt is not None and attempt.granted_at < since for attempt in attempts)
