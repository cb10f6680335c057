"""How workers that live are replaced: another starts, and the old one leaves as any that retires."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poise._core.effects import Crowded, Replacing, Start
from poise._core.renewal import Order, Renewal
from poise._core.states import WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable

    from poise._core.counters import Counters
    from poise._core.effects import Effect, Outbox
    from poise._core.fleet import Fleet
    from poise._core.granting import Granting
    from poise._core.leaving import Leaving
    from poise._core.queues import Queues
    from poise._core.workers import WorkerId, WorkerRecord


class Renewals:
    """Replaces workers, one by one, for whoever asks."""

    __slots__ = (
        "_awaited",
        "_counters",
        "_fleet",
        "_granting",
        "_leaving",
        "_outbox",
        "_queues",
        "on_change",
        "on_start",
        "order",
    )

    def __init__(
        self,
        fleet: Fleet,
        queues: Queues,
        leaving: Leaving,
        granting: Granting,
        counters: Counters,
        outbox: Outbox,
    ) -> None:
        self.order: Order = Order.NEW_FIRST
        """Who goes first where nothing else is said."""
        self.on_change: Callable[[float], object] | None = None
        """Called, while a reload is under way, when a worker has become ready, was lost, or has no room."""
        self.on_start: Callable[[float], object] | None = None
        """Called, if there is a policy that asks, when workers may have come or gone."""
        self._awaited: dict[WorkerId, WorkerRecord] = {}
        """Heirs that wait for the end of the worker of this number."""
        self._fleet = fleet
        self._queues = queues
        self._leaving = leaving
        self._granting = granting
        self._counters = counters
        self._outbox = outbox

    # ---------------------------------------------------------------- steps of their own

    def retire(self, worker_id: WorkerId, reason: str, now: float) -> list[Effect]:
        """A worker asks to be replaced: it finishes what it holds, and another starts in its place at once."""
        if (worker := self._fleet.ready.get(worker_id)) is None or worker.is_killed:
            return []
        self.at_once(worker, reason, now)
        return self.decided(now)

    def replace(self, worker_id: WorkerId, now: float) -> tuple[Renewal | None, list[Effect]]:
        """Have a worker replaced, by another that is ready before; no renewal if it is not READY, or dies already."""
        if (worker := self._fleet.ready.get(worker_id)) is None or worker.is_killed:
            return None, []
        renewal = self.begin(worker, "that was asked for", now, self.order)
        return renewal, self.decided(now)

    def no_room(self, worker_id: WorkerId, shortage: str, now: float) -> list[Effect]:
        """A spare waits for room that there is not: the one that it is to replace leaves first."""
        worker = self._fleet.workers.get(worker_id)
        if worker is None or not worker.is_spare:
            return []
        assert worker.renewal is not None
        if worker.renewal.yields:
            assert worker.renewal.old is not None
            self._outbox.add(Crowded(worker.renewal.old.id, worker.id, shortage))
            self._part(worker.renewal, now)
        else:
            self.give_up(worker.renewal, f"there is no room for it: {shortage}", now)
        self.changed(now)
        return self.decided(now)

    def decided(self, now: float) -> list[Effect]:
        """Workers are being replaced: bring what follows from that up to date."""
        self.start_due(now)
        self._granting.place(now)
        return self._outbox.flush()

    # ---------------------------------------------------------------- parts of others

    def start_due(self, now: float) -> None:
        """Start the workers whose time has come."""
        if self.on_start is not None:
            self.on_start(now)
        for worker in self._fleet.start_due(now):
            self._outbox.add(Start(worker.id, worker.is_spare, worker.generation))

    def begin(
        self,
        old: WorkerRecord,
        reason: str,
        now: float,
        order: Order = Order.NEW_FIRST,
        *,
        is_recycling: bool = False,
        is_sick: bool = False,
        persists: bool = False,
        yields: bool = True,
        generation: int | None = None,
    ) -> Renewal:
        """Have a READY worker replaced, by one of the pool's generation or of this one.

        If it is being replaced, nothing is decided anew.
        """
        if old.renewal is not None:
            return old.renewal
        heir = self._fleet.add(now, waits=order is Order.OLD_FIRST, generation=generation)
        persists = persists or is_recycling
        renewal = Renewal(old, heir, is_recycling=is_recycling, is_sick=is_sick, persists=persists, yields=yields)
        self._outbox.add(Replacing(old.id, heir.id, reason, is_gentle=order is Order.NEW_FIRST, is_sick=is_sick))
        if order is Order.OLD_FIRST:
            self._awaited[old.id] = heir
        if order is not Order.NEW_FIRST:
            self._part(renewal, now, keeps=order is Order.AT_ONCE and is_recycling)
        return renewal

    def at_once(self, old: WorkerRecord, reason: str, now: float, *, is_recycling: bool = False) -> None:
        """Give a READY worker nothing more; whoever starts in its place counts from now on.

        If the policy asks for it, what the worker holds is counted already, and it keeps that.
        """
        if (renewal := old.renewal) is not None:
            self._part(renewal, now, keeps=is_recycling)
        elif self._fleet.heals:
            self.begin(old, reason, now, Order.AT_ONCE, is_recycling=is_recycling)
        else:
            self._leaving.retire(old, now, keeps=is_recycling)

    def is_ready(self, heir: WorkerRecord, now: float) -> None:
        """A worker has started: the one that it replaces, if there is one, is given nothing more."""
        if (renewal := heir.renewal) is not None:
            heir.renewal = None
            if renewal.old is not None:
                self._part(renewal, now)
        self.changed(now)

    def gone(self, worker_id: WorkerId, now: float) -> None:
        """This worker has ended, and has left its room: start whoever waits for that."""
        heir = self._awaited.pop(worker_id, None)
        if heir is not None and heir.state is WorkerState.PENDING:
            self._fleet.hasten(heir, now)
        self.changed(now)

    def changed(self, now: float) -> None:
        """Workers have come or gone: let a reload that is under way go on."""
        if self.on_change is not None:
            self.on_change(now)

    def drop(self, worker: WorkerRecord, now: float) -> None:
        """This worker is not wanted any more, so nobody need replace it."""
        if (renewal := worker.renewal) is None:
            return
        renewal.heir.renewal = None
        if renewal.old is not None:
            renewal.part()
            self._leaving.retire(renewal.heir, now)

    def dismiss(self, worker: WorkerRecord, now: float) -> None:
        """Have this worker leave, and nobody in its place."""
        self.drop(worker, now)
        self._leaving.retire(worker, now)

    def give_up(self, renewal: Renewal, reason: str, now: float) -> None:
        """Have no heir for one that works: it stays."""
        renewal.failure = reason
        renewal.part()
        renewal.heir.renewal = None
        self._leaving.retire(renewal.heir, now)

    def _part(self, renewal: Renewal, now: float, *, keeps: bool = False) -> None:
        """The old one leaves. What waited for it alone, as a broadcast does, is for the one that stays."""
        old = renewal.part()
        self._counters.recycled += renewal.is_recycling
        self._counters.sick += renewal.is_sick
        self._queues.inherit(old, renewal.heir)
        self._leaving.retire(old, now, keeps=keeps)

    def check_invariants(self) -> None:
        """Check what is stated at the fields; for tests."""
        for worker in self._fleet.workers.values():
            if (renewal := worker.renewal) is not None:
                assert worker in (renewal.old, renewal.heir), worker
                assert renewal.heir.renewal is renewal, worker
                assert renewal.heir.state < WorkerState.READY, renewal.heir
                assert renewal.old is None or renewal.old.state is WorkerState.READY, renewal.old
                assert renewal.old is None or renewal.old.renewal is renewal, renewal.old
