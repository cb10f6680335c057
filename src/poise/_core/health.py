"""Which workers are sick: a policy, which costs nothing where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poise._core.calls import CHECK_IDS
from poise._core.checking import Checking
from poise._core.outliers import Outliers
from poise._core.quarantine import Quarantine
from poise._core.states import WorkerState
from poise._core.vitals import Vitals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from poise._answers import Answer
    from poise._core.alarms import Alarms
    from poise._core.counters import Counters
    from poise._core.effects import Outbox
    from poise._core.fleet import Fleet
    from poise._core.leaving import Leaving
    from poise._core.placement import Placement
    from poise._core.renewals import Renewals
    from poise._core.workers import WorkerRecord
    from poise.policies import Health


class Watch:
    """Watches over the workers: asks them, if it is told how, and looks at how their calls end, if it is told what."""

    __slots__ = ("_alarms", "_checking", "_fleet", "_outliers", "_quarantine")

    def __init__(
        self,
        policy: Health,
        fleet: Fleet,
        placement: Placement,
        alarms: Alarms,
        renewals: Renewals,
        leaving: Leaving,
        counters: Counters,
        outbox: Outbox,
        chance: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._alarms = alarms
        self._quarantine = quarantine = Quarantine(policy.most_out, fleet, renewals, placement)
        self._outliers = Outliers(policy, fleet, quarantine) if policy.faults else None
        self._checking: Checking | None = None
        if policy.check is not None:
            self._checking = Checking(policy, placement, alarms, leaving, quarantine, counters, outbox, chance)

    def enrol(self, worker: WorkerRecord, now: float) -> None:
        """A worker has become ready: it has passed its first check."""
        worker.vitals = Vitals(now)
        if self._checking is not None:
            self._checking.enrol(worker, worker.vitals, now)

    def heard(self, worker: WorkerRecord, answers: Sequence[Answer], now: float) -> Sequence[Answer]:
        """A worker has answered: take note of it, and return what is no check."""
        vitals = worker.vitals
        assert vitals is not None, "it holds nothing before it is ready"
        vitals.heard_at = now
        if self._checking is not None:
            answers = self._checking.heard(worker, vitals, answers, now)
        if self._outliers is not None and worker.state is WorkerState.READY:
            self._outliers.heard(worker, vitals, answers, now)
        return answers

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self._checking is not None:
            self._checking.tick(now)

    def close(self) -> None:
        """The pool will end soon: nobody is replaced for being sick any more."""
        self._quarantine.close()

    def check_invariants(self) -> None:
        """Check what is stated at the fields; for tests."""
        self._quarantine.check_invariants()
        for worker in self._fleet.workers.values():
            vitals = worker.vitals
            checks = [] if vitals is None or vitals.check is None else [vitals.check]
            assert [call for call in worker.running.values() if call.id >= CHECK_IDS] == checks, worker
            if self._checking is not None:
                assert (vitals is not None) == (worker in self._alarms.checks), worker
