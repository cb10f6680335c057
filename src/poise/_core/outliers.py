"""Which workers fail where their fellows do not.

Outlier detection as in Envoy: failures in a row, and the success rate against the fleet's. The rate is held against
that of the others by a binomial test: the standard deviation over hosts, which Envoy takes, says nothing of a few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from poise._answers import NOT_BEGUN, RETURNED
from poise._core.states import CallState
from poise.errors import PayloadError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from poise._answers import Answer
    from poise._core.batches import Batch
    from poise._core.calls import CallRecord
    from poise._core.fleet import Fleet
    from poise._core.quarantine import Quarantine
    from poise._core.vitals import Vitals
    from poise._core.workers import WorkerId, WorkerRecord
    from poise.policies import Health

DEVIATIONS: Final = 4
"""By how many standard deviations more failures than expected stand out."""
LEAST_PART: Final = 0.05
"""By how much the part of calls that fail must be greater, beside that."""
MOST_ROWS: Final = 2
"""So many times the failures in a row that make a worker sick are remembered."""
JUDGED_EVERY: Final = 0.1
"""Seconds between two looks at the same worker's fellows: it fails fast, and they may be many."""


class Outliers:
    """Counts how the calls of each worker end, and tells which worker is sick."""

    __slots__ = ("_fleet", "_policy", "_quarantine")

    def __init__(self, policy: Health, fleet: Fleet, quarantine: Quarantine) -> None:
        self._policy = policy
        self._fleet = fleet
        self._quarantine = quarantine

    def heard(self, worker: WorkerRecord, vitals: Vitals, answers: Iterable[Answer], now: float) -> None:
        """A worker has answered: calls that it still holds. A batch counts once."""
        batches: set[Batch] = set()
        has_failed = False
        for answer in answers:
            batch = worker.batches.get(answer.call_id) if worker.batches else None
            if answer.ending == NOT_BEGUN or batch in batches:
                continue
            call = worker.running.get(answer.call_id) or worker.ahead.get(answer.call_id)
            if batch is not None:
                batches.add(batch)
                call = batch.calls[answer.call_id]
            if call is None or call.state is CallState.ABANDONED:  # that may have failed because it was to stop
                continue
            if answer.ending == RETURNED or not self._is_fault(answer.value):
                vitals.streak.clear()
                vitals.note(now, answers=1, failures=0)
            elif others := call.avoids - {worker.id}:
                self._acquit(others, call, now)
            else:
                vitals.streak[call.id] = None
                if len(vitals.streak) > MOST_ROWS * self._policy.failures:  # nobody is replaced while most fail
                    del vitals.streak[next(iter(vitals.streak))]
                vitals.note(now, answers=1, failures=1)
                has_failed = True
        if has_failed and now >= vitals.judged_at + JUDGED_EVERY:
            self._judge(worker, vitals, now)

    def _is_fault(self, error: object) -> bool:
        try:
            return isinstance(error, self._policy.faults) and not isinstance(error, PayloadError)
        except Exception:  # noqa: BLE001 - `__instancecheck__` is the user's own code, and calls are to be answered
            return False

    def _acquit(self, worker_ids: Iterable[WorkerId], call: CallRecord, now: float) -> None:
        """This call fails wherever it runs: it counts against nobody."""
        for worker_id in worker_ids:
            worker = self._fleet.ready.get(worker_id)  # one that leaves does so however it has worked
            if worker is None or (vitals := worker.vitals) is None or call.id not in vitals.streak:
                continue
            del vitals.streak[call.id]
            vitals.note(now, answers=-1, failures=-1)
            if worker.is_quarantined and not vitals.strikes and self._fault_of(worker, vitals, now) is None:
                self._quarantine.pardon(worker, now)

    def _judge(self, worker: WorkerRecord, vitals: Vitals, now: float) -> None:
        if (reason := self._fault_of(worker, vitals, now)) is not None:
            self._quarantine.admit(worker, reason, now)

    def _fault_of(self, worker: WorkerRecord, vitals: Vitals, now: float) -> str | None:
        """What makes it stand out against its fellows; None if nothing does, or most of them fail too."""
        least, in_a_row = self._policy.failures, len(vitals.streak)
        answers, failures = vitals.recent(now)
        if in_a_row < least and failures < least:
            return None
        vitals.judged_at = now
        fellows = [
            other.vitals
            for other in self._fleet.ready.values()
            if other is not worker and other.vitals is not None and not other.is_quarantined
        ]
        rates = [other.recent(now) for other in fellows]
        of_others, failures_of_others = sum(rate[0] for rate in rates), sum(rate[1] for rate in rates)
        most_fail = 2 * sum(bool(other.streak) for other in fellows) > len(fellows)
        if in_a_row >= least and not most_fail and 2 * failures_of_others <= of_others:
            return f"it has failed {in_a_row} calls in a row"
        if failures < least or not fellows:
            return None
        part = (failures_of_others + 1) / (of_others + 2)  # Laplace's: nothing is known of those that have done nothing
        deviation = (answers * part * (1 - part) * (1 + answers / (of_others + 2))) ** 0.5
        if failures <= answers * part + DEVIATIONS * deviation or failures <= answers * (part + LEAST_PART):
            return None
        return f"it has failed {failures} of {answers} calls, and the others {failures_of_others} of {of_others}"
