"""Every call that waits, whatever it waits for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from poise._core.alarms import Deadlines
from poise._core.backlog import Backlog
from poise._core.states import CallEvent, CallState
from poise._core.wary import Wary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from poise._core.calls import CallId, CallRecord
    from poise._core.workers import WorkerRecord


class Waiting:
    """Admission, and where each waiting call stands.

    A call waits in the backlog for any worker, parked for room in the backlog, in a worker's own queue for that worker
    alone, or with a claim on a worker until that is empty. One that has failed and is tried again is paused until it is
    time for that, and then wary: it waits for a worker on which it has not failed.
    """

    __slots__ = ("aside", "backlog", "claims", "limit", "parked", "paused", "wary")

    def __init__(self, limit: int | None) -> None:
        self.limit = math.inf if limit is None else limit
        self.backlog = Backlog()
        """Invariant: its calls are WAITING and bound for no worker. More than `limit` only by those that came back."""
        self.parked = Backlog()
        """Invariant: its calls are PARKED; empty unless the backlog, and what is aside, are full."""
        self.paused = Deadlines()
        """Invariant: its calls are PAUSED."""
        self.wary = Wary()
        """Invariant: its calls are WAITING and bound for no worker."""
        self.aside: dict[CallId, CallRecord] = {}
        """Invariant: those that are paused and those that are wary. They count as if they were in the backlog (G7)."""
        self.claims: dict[CallId, WorkerRecord] = {}
        """The worker of each claim, the oldest claim first."""

    def admit(self, call: CallRecord, *, may_park: bool) -> bool:
        """Let a new call wait, if there is room for it or it may wait for that too."""
        if call.bound_for is not None:
            queue = call.bound_for.pinned_queue if call.lease is None else call.bound_for.leased_queue
            if len(queue) >= self.limit and not may_park:
                return False
            queue.add(call)
        elif self.depth < self.limit:
            self.backlog.add(call)
        elif may_park:
            call.step(CallEvent.PARK)
            self.parked.add(call)
        else:
            return False
        return True

    @property
    def depth(self) -> int:
        """Calls that wait for any worker, or for the time of their next attempt."""
        return len(self.backlog) + len(self.aside)

    def put_back(self, call: CallRecord) -> None:
        """Put a call that waits again at its place in the order, whether there is room or not."""
        if call.bound_for is None:
            if call.avoids:
                self.aside[call.id] = call
                self.wary.add(call)
            else:
                self.backlog.add(call)
        elif call.lease is None:
            call.bound_for.pinned_queue.add(call)
        else:
            call.bound_for.leased_queue.add(call)

    def pause(self, call: CallRecord, until: float) -> None:
        """Let a call wait for the time of its next attempt."""
        self.aside[call.id] = call
        self.paused.add(call, until)

    def resume(self, call: CallRecord, now: float) -> None:
        """The time of this call's next attempt has come."""
        del self.aside[call.id]
        call.step(CallEvent.RESUME)
        call.since = now
        self.put_back(call)

    def calm(self, now: float) -> None:
        """Let each call that has been wary for long enough have any worker."""
        for call in self.wary.pop_tired(now):
            del self.aside[call.id]
            assert call.retry is not None
            call.retry.avoids = frozenset()
            self.backlog.add(call)

    def paused_under(self, lease: CallRecord) -> list[CallRecord]:
        """The calls of this lease that are paused."""
        return [call for call in self.aside.values() if call.lease is lease]

    def take_out(self, call: CallRecord) -> None:
        """Take a call out of wherever it waits, and admit who was waiting for its room."""
        if call.state is CallState.PARKED:
            self.parked.discard(call)
            call.step(CallEvent.ADMIT)
        elif self.aside and call.id in self.aside:
            self._take_from_aside(call)
        elif call.bound_for is not None:
            (call.bound_for.pinned_queue if call.lease is None else call.bound_for.leased_queue).discard(call)
        elif self.claims and call.id in self.claims:
            self.claims.pop(call.id).claim = None
        else:
            self.backlog.discard(call)
            self._admit_parked()

    def _take_from_aside(self, call: CallRecord) -> None:
        del self.aside[call.id]
        if call.state is CallState.PAUSED:
            self.paused.forget(call)
            call.step(CallEvent.RESUME)
        else:
            self.wary.discard(call)
        self._admit_parked()

    def _admit_parked(self) -> None:
        while self.parked and self.depth < self.limit:
            call = self.parked.first()
            assert call is not None
            self.parked.discard(call)
            call.step(CallEvent.ADMIT)
            self.backlog.add(call)

    def claim(self, call: CallRecord, worker: WorkerRecord) -> None:
        """Let a call wait for this worker to be empty."""
        self.take_out(call)
        worker.claim = call
        self.claims[call.id] = worker

    def drop_claim(self, worker: WorkerRecord) -> None:
        """Let the call that claimed this worker, if there is one, wait for any worker again."""
        if worker.claim is not None:
            self.backlog.add(worker.claim)
            del self.claims[worker.claim.id]
            worker.claim = None

    def calls(self, workers: Iterable[WorkerRecord]) -> list[CallRecord]:
        """Every call that waits for any worker, or for one of these."""
        waiting = [*self.backlog, *self.parked, *self.aside.values()]
        for worker in workers:
            waiting += [*worker.pinned_queue, *worker.leased_queue]
            if worker.claim is not None:
                waiting.append(worker.claim)
        return waiting

    def check_invariants(self) -> None:
        """Check what is stated at the fields; for tests."""
        self.backlog.check_invariants()
        self.parked.check_invariants()
        self.wary.check_invariants()
        assert not self.parked or self.depth >= self.limit
        paused = [call for call in self.aside.values() if call.state is CallState.PAUSED]
        assert len(paused) == len(self.paused), paused
        assert all(call in self.paused and call.worker is None for call in paused), paused
        assert len(self.aside) == len(paused) + len(self.wary.calls)
        assert all(call.state is CallState.PARKED for call in self.parked)
        claims = [worker.claim for worker in self.claims.values() if worker.claim is not None]
        assert [call.id for call in claims] == list(self.claims)
        for call in (*self.backlog, *claims, *self.wary.calls.values()):
            assert call.state is CallState.WAITING, call
            assert call.worker is None, call
            assert call.bound_for is None, call
