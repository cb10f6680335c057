"""Workers that are sick: given nothing more, and replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poise._core.fleet import Fleet
    from poise._core.placement import Placement
    from poise._core.renewal import Renewal
    from poise._core.renewals import Renewals
    from poise._core.workers import WorkerId, WorkerRecord


class Quarantine:
    """Has sick workers replaced, a part of the pool at a time, and keeps calls from them meanwhile.

    One that works is always left, however sick, and whose replacement cannot start comes out again.
    """

    __slots__ = ("_fleet", "_is_closed", "_most", "_out", "_placement", "_renewals")

    def __init__(self, most: float, fleet: Fleet, renewals: Renewals, placement: Placement) -> None:
        """Let this part of the pool be on its way to be replaced at a time, and at least one worker."""
        self._most = most
        self._fleet = fleet
        self._renewals = renewals
        self._placement = placement
        self._out: dict[WorkerId, Renewal] = {}
        """Those on their way, from the decision until another is ready."""
        self._is_closed = False
        renewals.on_start = self.review

    def admit(self, worker: WorkerRecord, reason: str, now: float) -> bool:
        """Have a sick worker replaced; False if its turn has not come, or it is on its way already."""
        self.review(now)
        if self._is_closed or worker.id in self._out or worker.id not in self._fleet.ready or worker.is_killed:
            return False
        if len(self._out) >= max(1, int(self._most * len(self._fleet.members()))):
            return False
        renewal = self._renewals.begin(worker, reason, now, self._renewals.order, is_sick=True)
        self._out[worker.id] = renewal
        if renewal.old is worker:
            self._shut(worker, is_shut=True)
        self._renewals.start_due(now)
        return True

    def pardon(self, worker: WorkerRecord, now: float) -> None:
        """It was not the fault of this worker, which is in quarantine: it stays."""
        renewal = self._out.pop(worker.id)
        self._shut(worker, is_shut=False)
        if renewal.is_sick:  # else it is replaced for another reason too
            self._renewals.give_up(renewal, "it is not sick", now)

    def review(self, now: float) -> None:  # noqa: ARG002 (whoever starts workers says when)
        """Workers may have come or gone: let those out who stay, and all if nobody else works."""
        for worker_id, renewal in list(self._out.items()):
            worker = self._fleet.ready.get(worker_id)
            if worker is not None and worker.renewal is not renewal:  # the other could not start
                self._shut(worker, is_shut=False)
                assert worker.vitals is not None, "it was enrolled when it was ready"
                worker.vitals.forget()
                del self._out[worker_id]
            elif renewal.is_over:
                del self._out[worker_id]
        if self._out and all(worker.is_quarantined for worker in self._fleet.ready.values()):
            for worker in self._fleet.ready.values():
                self._shut(worker, is_shut=False)

    def close(self) -> None:
        """The pool will end soon: nobody is replaced any more."""
        self._is_closed = True

    def _shut(self, worker: WorkerRecord, *, is_shut: bool) -> None:
        """Take a worker in or let it out; not the last one that works."""
        others = (w for w in self._fleet.ready.values() if w is not worker)
        worker.is_quarantined = is_shut and not all(other.is_quarantined for other in others)
        self._placement.update(worker)

    def check_invariants(self) -> None:
        """Check what is stated at the fields; for tests."""
        ready = self._fleet.ready.values()
        assert not ready or not all(worker.is_quarantined for worker in ready)
        for worker in ready:
            assert not worker.is_quarantined or worker.renewal is self._out[worker.id], worker
