"""When healthy workers are replaced because they are old: a policy, which costs nothing where there is none."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from poise._core.effects import Oversized
from poise._core.renewal import Order
from poise._core.states import WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable

    from poise._core.alarms import Alarms
    from poise._core.effects import Effect, Outbox
    from poise._core.fleet import Fleet
    from poise._core.queues import Queues
    from poise._core.renewal import Renewal
    from poise._core.renewals import Renewals
    from poise._core.workers import WorkerId, WorkerRecord
    from poise.policies import Recycle

PART: Final = 10
"""One in so many workers may be on its way to be replaced, and at least one."""


class Recycling:
    """Knows who is old, and has one after the other replaced."""

    __slots__ = (
        "_alarms",
        "_chance",
        "_due",
        "_fleet",
        "_is_closed",
        "_outbox",
        "_policy",
        "_queues",
        "_renewals",
        "_under_way",
    )

    def __init__(
        self,
        policy: Recycle,
        fleet: Fleet,
        queues: Queues,
        alarms: Alarms,
        renewals: Renewals,
        outbox: Outbox,
        chance: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._fleet = fleet
        self._queues = queues
        self._alarms = alarms
        self._renewals = renewals
        self._outbox = outbox
        self._chance = chance
        self._due: dict[WorkerId, str] = {}
        """Why workers are to be replaced whose turn has not come, the first ones first."""
        self._under_way: list[tuple[Renewal, int]] = []
        """Those whose turn has come, and how many workers were ready then."""
        self._is_closed = False
        if policy.age is not None:
            alarms.add(alarms.ages)

    def look(self, worker: WorkerRecord, now: float) -> bool:
        """A worker has become ready, has answered, or is held no more; what it is given next is decided after this.

        Returns:
            Whether anybody is old, so that others may have to start.
        """
        is_old = False
        if worker.state is WorkerState.READY and not worker.is_killed:
            most = self._enrol(worker, now) if worker.most_calls is None else worker.most_calls
            if self._policy.exact:  # what is sent ahead is never one too many
                worker.most_ahead = max(0, min(worker.most_ahead, int(most) - worker.finished - worker.slots))
            checks = worker.vitals is not None and worker.vitals.check is not None
            held = min(worker.slots, len(worker.running) + len(worker.ahead) - checks)
            is_old = worker.finished + held >= most
            if is_old:
                self._note(worker, held, now)
        if self._due:
            self._replace_next(now)
            return True
        return is_old

    def grown(self, worker_id: WorkerId, resident: int, now: float, *, is_fresh: bool) -> list[Effect]:
        """A worker has told that its memory is beyond the limit; if it has run nothing, another would be no better."""
        worker, limit = self._fleet.workers.get(worker_id), self._policy.most_bytes
        if worker is None or limit is None:
            return []
        if is_fresh:
            self._outbox.add(Oversized(worker.id, resident, limit))
        else:
            self._due.setdefault(worker.id, f"its resident set is {in_mib(resident)}, more than {in_mib(limit)}")
            self._replace_next(now)
        return self._renewals.decided(now)

    def tick(self, now: float) -> None:
        """Time has passed."""
        for worker in self._alarms.ages.pop_due(now):
            self._due.setdefault(worker.id, f"it has worked for {now - worker.since:.0f} s")
        if self._due:
            self._replace_next(now)

    def close(self) -> None:
        """The pool will end soon: nobody is replaced any more, unless calls wait that a worker must not be given."""
        self._is_closed = True
        self._due.clear()

    def _enrol(self, worker: WorkerRecord, now: float) -> float:
        """A worker is ready: decide when it will be old."""
        policy, part = self._policy, 1.0 - self._policy.jitter * self._chance()
        most = worker.most_calls = math.inf if policy.calls is None else max(1, round(policy.calls * part))
        if policy.age is not None:
            self._alarms.ages.add(worker, now + policy.age * part)
        return most

    def _note(self, worker: WorkerRecord, held: int, now: float) -> None:
        """It has answered enough, or holds what makes it enough."""
        reason = f"it has answered {worker.finished} calls" + (f" and holds {held} more" if held else "")
        if not self._policy.exact:
            if worker.renewal is None:
                self._due.setdefault(worker.id, reason)
        elif not self._is_closed or self._may_more_come():
            self._renewals.at_once(worker, reason, now, is_recycling=True)

    def _may_more_come(self) -> bool:
        """Whether a pool that is closed has calls left that have not begun, or may have to begin once more."""
        workers = self._fleet.workers.values()
        may_return = any(
            w.ahead or w.recalled or w.batches or any(call.retry for call in w.running.values()) for w in workers
        )
        return may_return or self._queues.count > 0 or self._queues.parked_count > 0

    def _replace_next(self, now: float) -> None:
        """Have those replaced whose turn has come: as many at once as may be, and none that somebody holds."""
        if self._is_closed:
            self._due.clear()
        self._under_way = [(renewal, ready) for renewal, ready in self._under_way if not self._is_done(renewal, ready)]
        most = max(1, len(self._fleet.members()) // PART)
        for worker_id in list(self._due):
            if len(self._under_way) >= most:
                return
            worker = self._fleet.workers.get(worker_id)
            if worker is not None and worker.lease is not None and worker.state is WorkerState.READY:
                continue
            reason = self._due.pop(worker_id)
            if worker is not None and worker.id in self._fleet.ready and not worker.is_killed and not worker.renewal:
                order = Order.NEW_FIRST if self._policy.surge else Order.OLD_FIRST
                ready = len(self._fleet.ready)
                self._under_way.append((self._renewals.begin(worker, reason, now, order, is_recycling=True), ready))

    def _is_done(self, renewal: Renewal, ready: int) -> bool:
        """Whether as many work as before. Another may have taken the room of one that went first."""
        return renewal.is_over or (renewal.old is None and len(self._fleet.ready) >= ready)


def in_mib(amount: int) -> str:
    """An amount of memory, for people."""
    return f"{amount / 2**20:.0f} MiB"
