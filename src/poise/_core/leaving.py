"""How workers leave: lost, retired or killed; and what becomes of what they held and of what waited for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poise._core.calls import CHECK_IDS
from poise._core.effects import Kill, Lost
from poise._core.states import WorkerEvent, WorkerState
from poise.errors import WorkerLost

if TYPE_CHECKING:
    from poise._core.alarms import Alarms
    from poise._core.effects import Outbox
    from poise._core.endings import Endings
    from poise._core.fleet import Fleet
    from poise._core.granting import Granting
    from poise._core.outcomes import Outcomes
    from poise._core.placement import Placement
    from poise._core.queues import Queues
    from poise._core.recalls import Recalls
    from poise._core.workers import WorkerRecord


class Leaving:
    """Takes workers out of the pool, so that nothing of theirs is forgotten."""

    __slots__ = (
        "_alarms",
        "_endings",
        "_fleet",
        "_granting",
        "_outbox",
        "_outcomes",
        "_placement",
        "_queues",
        "_recalls",
    )

    def __init__(
        self,
        fleet: Fleet,
        queues: Queues,
        placement: Placement,
        alarms: Alarms,
        outcomes: Outcomes,
        endings: Endings,
        recalls: Recalls,
        granting: Granting,
        outbox: Outbox,
    ) -> None:
        self._fleet = fleet
        self._queues = queues
        self._placement = placement
        self._alarms = alarms
        self._outcomes = outcomes
        self._endings = endings
        self._recalls = recalls
        self._granting = granting
        self._outbox = outbox

    # ---------------------------------------------------------------- at once

    def lose(self, worker: WorkerRecord, reason: str, now: float, cause: BaseException | None = None) -> None:
        """It has died or could not start: its heir, if it has one, takes over what waits for it alone."""
        has_started = worker.state is not WorkerState.STARTING
        heir = self._fleet.lose(worker, reason, now, cause)
        self._outcomes.counters.deaths += 1
        replaced_in = None if heir is None else heir.start_at - now
        calls = worker.begun_functions()
        self._outbox.add(Lost(worker.id, reason, has_started, calls, replaced_in, was_killed=worker.is_killed))
        held = worker.take_calls()
        self._end_holds(worker)
        for call in held:
            self._endings.lost(call, worker, reason, now)
        if heir is not None:
            self._queues.inherit(worker, heir)
        self._forget(worker, reason)

    def stop(self, worker: WorkerRecord, now: float) -> None:
        """It is given up, with all that it holds, because the pool is closed."""
        reason = "the pool was closed"
        if worker.state is not WorkerState.PENDING:
            is_idle = worker.is_serving and all(call_id >= CHECK_IDS for call_id in worker.running)
            self._outbox.add(Kill(worker.id, reason, gently=is_idle))
        self._fleet.step(worker, WorkerEvent.STOP, now)
        for call in worker.take_calls():
            self._endings.given_up(call, worker, reason)
        self._end_holds(worker)
        self._forget(worker, reason)

    # ---------------------------------------------------------------- when it is done

    def retire(self, worker: WorkerRecord, now: float, *, keeps: bool = False) -> None:
        """Take it out of the pool: at once if it has not started, else when it has finished what it holds.

        Args:
            worker: which.
            now: when.
            keeps: whether it is to do what it was sent ahead, too, unless somebody waits beside an idle worker for it.
        """
        if worker.state is WorkerState.STARTING:
            self._outbox.add(Kill(worker.id, "retired"))
        self._fleet.step(worker, WorkerEvent.RETIRE, now)
        if worker.state is WorkerState.GONE:
            self._forget(worker, "retired before it had started")
            return
        self._queues.drop_claim(worker)
        if not keeps:
            self._recalls.ask(worker, now)
        self._granting.advance(worker, now)
        self.let_go(worker, now)

    def let_go(self, worker: WorkerRecord, now: float) -> None:
        """End it if it retires and has nothing more to do; the death of a killed one will be told."""
        is_done = worker.is_empty and worker.lease is None and not worker.is_killed
        if worker.state is WorkerState.RETIRING and is_done:
            self._fleet.step(worker, WorkerEvent.LOST, now)
            self._outbox.add(Kill(worker.id, "retired", gently=True))
            self._forget(worker, "retired")

    # ---------------------------------------------------------------- by force

    def kill_overdue(self, now: float) -> None:
        """Kill the workers that run an abandoned call for too long: they are stuck, or its caller wants it gone."""
        for call in self._alarms.overruns.pop_due(now):
            if self._outcomes.overran(call, now) and (worker := call.worker) is not None:
                self.kill(worker, self._outcomes.overrun(call))

    def kill_useless(self, now: float) -> None:
        """Kill the silent workers that hold nothing and whose time is over."""
        for worker in self._alarms.intolerable_workers(now):
            self.kill(worker, "killed: it ran nothing, did not answer, and calls that it could have run expired")

    def kill(self, worker: WorkerRecord, reason: str) -> None:
        """Have it ended; what it holds is settled when its death is told."""
        worker.is_killed = True
        self._placement.update(worker)
        self._outbox.add(Kill(worker.id, reason))

    # ---------------------------------------------------------------- afterwards

    def _end_holds(self, worker: WorkerRecord) -> None:
        """Nobody has it for himself any more, or will."""
        self._queues.drop_claim(worker)
        if (lease := worker.lease) is not None and lease.is_lease:
            self._outcomes.counters.lost += 1
            lease.deaths += 1
            lease.ends("lost")
            self._outcomes.end_lease(worker, lease, "lost")
        worker.lease = None

    def _forget(self, worker: WorkerRecord, reason: str) -> None:
        """It holds nothing: refuse what still waits for it alone, and keep nothing of it."""
        for call in self._queues.bound_for(worker):
            self._outcomes.refuse(call, WorkerLost(worker.id, reason, started=False))
        worker.end_recall()
        worker.renewal = None
        self._placement.update(worker)
