"""What is asked back from workers that do not get on, and taken from those that do not answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from poise._core.alarms import ANSWER_SECONDS
from poise._core.effects import Withdraw
from poise._core.states import AHEAD

if TYPE_CHECKING:
    from poise._core.alarms import Alarms
    from poise._core.calls import CallRecord
    from poise._core.effects import Outbox
    from poise._core.placement import Placement
    from poise._core.queues import Queues
    from poise._core.workers import WorkerRecord

LATE_SECONDS: Final = 0.005
"""If an answer is missed so much later than it was due, that was not for the worker alone."""


class Recalls:
    """Sees to it that nobody waits beside an idle worker (G4): one recall at a time per worker."""

    __slots__ = ("_alarms", "_outbox", "_placement", "_queues")

    def __init__(self, queues: Queues, placement: Placement, alarms: Alarms, outbox: Outbox) -> None:
        self._queues = queues
        self._placement = placement
        self._alarms = alarms
        self._outbox = outbox

    def ask(self, worker: WorkerRecord, now: float, *, half: bool = False) -> None:
        """Ask for what has not begun as far as is known, or the older half of it."""
        if worker.recalled:
            return
        wanted = [call.id for call in worker.ahead.values() if _may_come_back(call)]
        if half:
            wanted = wanted[: (len(wanted) + 1) // 2]
        if wanted:
            worker.ask_back(wanted, now)
            self._outbox.recall(worker.id, wanted)
        else:
            worker.keeps_all = True
        self._placement.update(worker)

    def ask_for_idle(self, now: float) -> None:
        """Nothing waits: a worker with a free slot takes the older half of what another was sent ahead (G4)."""
        if not self._alarms.lines:  # nothing was sent ahead
            return
        overdue, patient, asked = self._alarms.overdue, self._alarms.patient, self._alarms.asked
        while self._placement.free_workers > len(asked.watched):
            worker = overdue.first() or patient.first()
            if worker is None:
                return
            self.ask(worker, now, half=True)

    def ask_overdue(self, now: float) -> None:
        """Ask back what was sent ahead to a worker that does not get on, for the others to do.

        If we ourselves come late, because the caller's code has held up its loop, the answer may be there unread, and
        the worker has as much time once more.
        """
        while (worker := self._alarms.overdue_worker(now)) is not None:
            patience = (self._alarms.patient if worker.sent_long else self._alarms.overdue).patience
            if now < worker.progress_at + patience + LATE_SECONDS or worker.excused_at == worker.progress_at:
                self.ask(worker, now)
            else:
                worker.excused_at = worker.progress_at = now
                self._placement.update(worker)

    def withdraw_unanswered(self, now: float) -> None:
        """Give a worker that does not answer nothing more until it does, and take from it what has not begun (G4).

        If we ourselves come late it has as much time once more, likewise.
        """
        while (worker := self._alarms.asked.due(now)) is not None:
            if now < worker.recalled_at + ANSWER_SECONDS + LATE_SECONDS or worker.has_grace:
                worker.is_silent = True
                self._queues.drop_claim(worker)
                self._outbox.add(Withdraw(worker.id, [call.id for call in worker.held]))
            else:
                worker.has_grace = True
                worker.recalled_at = now
            self._placement.update(worker)


def _may_come_back(call: CallRecord) -> bool:
    """Whether a call that was sent ahead has not begun as far as is known, and somebody waits for it."""
    return call.state is AHEAD and call.attempt is not None and not call.attempt.is_kept
