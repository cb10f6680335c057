"""Every call that waits, whatever it waits for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

from poise._core.affinity import Homing
from poise._core.backlog import Backlog
from poise._core.batches import Batching, Gathering
from poise._core.states import ADMIT, PARK, PARKED, PAUSED, RESUME, WAITING
from poise._core.wary import Wary
from poise.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from poise._core.affinity import KeyedCallRecord
    from poise._core.alarms import Alarms
    from poise._core.calls import CallId, CallRecord
    from poise._core.placement import Placement
    from poise._core.shares import Shares, Tenant
    from poise._core.workers import WorkerRecord

_Owner: TypeAlias = "CallRecord | WorkerRecord"


class Queues:
    """Admission, and where each waiting call stands.

    A call waits in the backlog for any worker, parked for room in the backlog, in a queue of its own for one worker or
    for the worker of its lease, or with a claim on a worker until that is empty. One that has failed and is tried again
    is paused until it is time for that, and then wary: it waits for a worker on which it has not failed. One that is to
    be in a batch may wait for company before that, and one with a key for the worker that served it last, after that.
    """

    __slots__ = (
        "_alarms",
        "_placement",
        "aside",
        "backlog",
        "bound",
        "claims",
        "gathering",
        "held_back",
        "homing",
        "limit",
        "parked",
        "shares",
        "wary",
    )

    def __init__(self, limit: int | None, shares: Shares, placement: Placement, alarms: Alarms) -> None:
        self.limit: float = math.inf if limit is None else limit
        self.shares: Shares = shares
        self.backlog: Backlog = Backlog(shares)
        """Invariant: its calls are WAITING and bound for no worker. More than `limit` only by those that came back."""
        self.parked: Backlog = Backlog(shares)
        """Invariant: its calls are PARKED; empty unless the backlog, and what is aside, are full."""
        self.held_back: dict[CallId, CallRecord] = {}
        """Invariant: its calls are PARKED, each with its tenant, whose part of the backlog is full."""
        self.wary: Wary = Wary(alarms.wary)
        """Invariant: its calls are WAITING and bound for no worker."""
        self.gathering: Gathering = Gathering(alarms.gatherings)
        """Invariant: its calls are WAITING and bound for no worker."""
        self.homing: Homing = Homing(placement, alarms)
        """Invariant: its calls are WAITING and bound for no worker."""
        self.aside: dict[CallId, CallRecord] = {}
        """Invariant: those that pause, are wary, gather or home. They count as if they were in the backlog (G7)."""
        self.bound: dict[_Owner, Backlog] = {}
        """Calls that wait for a slot of one worker, by the lease that they belong to, or by that worker itself.

        Invariant: they are WAITING and bound for it; no queue is empty, and while the worker serves and it is a
        queue's turn, none is there unless every slot is held.
        """
        self.claims: dict[CallId, WorkerRecord] = {}
        """The worker of each claim, the oldest claim first."""
        self._placement = placement
        self._alarms = alarms

    # ---------------------------------------------------------------- in

    def admit(self, call: CallRecord, *, may_park: bool) -> bool:
        """Let a new call wait, if there is room for it or it may wait for that too."""
        if call.bound_for is not None:
            if not may_park and len(self.bound.get(_owner(call), ())) >= self.limit:
                return False
            self._bind(call)
        elif self.depth < self.limit and not self.shares.is_full(call):
            self._enter(call)
        elif may_park:
            call.step(PARK)
            self._park(call)
        else:
            return False
        return True

    def overload(self, call: CallRecord, retry_after: float) -> Overloaded:
        """Why this call may not wait."""
        tenant, limit = call.tenant, self.shares.limit
        if tenant is None or limit is None or not self.shares.is_full(call):
            return Overloaded(self.depth, int(self.limit), retry_after)
        return Overloaded(tenant.waiting, limit, retry_after, tenant.name)

    def put_back(self, call: CallRecord) -> None:
        """Put a call that waits again at its place in the order, whether there is room or not."""
        if call.bound_for is not None:
            self._bind(call)
        elif call.avoids:
            self.aside[call.id] = call
            self.wary.add(call)
        else:
            self._enter(call)

    def pause(self, call: CallRecord, until: float) -> None:
        """Let a call wait for the time of its next attempt."""
        self.aside[call.id] = call
        self._alarms.pauses.add(call, until)

    def resume(self, call: CallRecord, now: float) -> None:
        """The time of this call's next attempt has come."""
        del self.aside[call.id]
        call.step(RESUME)
        call.waits_since = now
        self.put_back(call)
        if call.bound_for is not None:  # it has left its room to whoever is parked
            self._admit_parked()

    def move_on(self, now: float) -> None:
        """Let each call that has been wary, or has waited for company or its home, long enough wait for any worker."""
        self._end_gathering(self.gathering.pop_due(now))
        self.end_homing(self._alarms.homings.pop_due(now))
        for call in self.wary.pop_tired(now):
            del self.aside[call.id]
            assert call.retry is not None
            call.retry.avoids = frozenset()
            self._enter(call)

    def gather(self, call: CallRecord, now: float) -> bool:
        """Let a new call wait for company, if its function asks for that; False if it is to wait for a worker at once.

        Where there is no room for those that wait (G7), it and its company need wait no longer.
        """
        function = call.function
        assert isinstance(function, Batching)
        if not function.wait or call.bound_for is not None:
            return False
        has_room = self.has_room(call)
        gathers = has_room or self._placement.free_worker() is not None
        if gathers:
            self.aside[call.id] = call
            has_room = not self.gathering.add(call, now + function.wait) and has_room
        if not has_room:
            self._end_gathering(self.gathering.pop_group(call))
        return gathers

    def _end_gathering(self, calls: Iterable[CallRecord]) -> None:
        for call in calls:
            del self.aside[call.id]
            self._enter(call)

    def set_aside(self, call: KeyedCallRecord, home: WorkerRecord, now: float) -> None:
        """Let a call of the backlog wait for its home."""
        self.aside[call.id] = call  # first, so that the place which it leaves is not given to one that is parked
        self._leave(call)
        self.homing.add(call, home, now)
        self._admit_parked()

    def end_homing(self, calls: Iterable[CallRecord]) -> None:
        """Let calls that wait for their home wait for any worker, at their old place."""
        for call in calls:
            self.homing.discard(call)
            del self.aside[call.id]
            self._enter(call)

    def claim(self, call: CallRecord, worker: WorkerRecord) -> None:
        """Let a call wait for this worker to be empty."""
        self.take_out(call)
        worker.claim = call
        self.claims[call.id] = worker
        self._placement.update(worker)

    def drop_claim(self, worker: WorkerRecord) -> None:
        """Let the call that claimed this worker, if there is one, wait for any worker again."""
        if (call := worker.claim) is not None:
            self.take_out(call)
            self._enter(call)

    def inherit(self, worker: WorkerRecord, heir: WorkerRecord) -> None:
        """Let the calls that wait for this worker alone wait for another one."""
        for call in self.bound_for(worker):
            self.take_out(call)
            call.bound_for = heir
            self._bind(call)

    # ---------------------------------------------------------------- out

    def take_out(self, call: CallRecord) -> None:
        """Take a call out of wherever it waits, and admit who was waiting for its room."""
        if call.state is PARKED:
            self._unpark(call)
            call.step(ADMIT)
        elif self.aside and call.id in self.aside:
            self._take_from_aside(call)
        elif call.bound_for is not None:
            self._unbind(call)
        elif self.claims and call.id in self.claims:
            worker = self.claims.pop(call.id)
            worker.claim = None
            self._placement.update(worker)
        else:
            self._leave(call)
            self._admit_parked()

    def _take_from_aside(self, call: CallRecord) -> None:
        del self.aside[call.id]
        if call.state is PAUSED:
            self._alarms.pauses.forget(call)
            call.step(RESUME)
        elif call.id in self.wary.calls:
            self.wary.discard(call)
        elif call.id in self.gathering.calls:
            self.gathering.discard(call)
        else:
            self.homing.discard(call)
        self._admit_parked()

    def _admit_parked(self) -> None:
        while self.parked and self.depth < self.limit:
            call = self.parked.first()
            assert call is not None
            self.parked.discard(call)
            if self.shares.is_full(call):
                self._park(call)
            else:
                call.step(ADMIT)
                self._enter(call)

    def _enter(self, call: CallRecord) -> None:
        self.backlog.add(call)
        if (tenant := call.tenant) is not None:
            tenant.waiting += 1

    def _leave(self, call: CallRecord) -> None:
        self.backlog.discard(call)
        if (tenant := call.tenant) is not None:
            tenant.waiting -= 1
            self._let_on(tenant)

    def _park(self, call: CallRecord) -> None:
        """Let a call wait for room in the backlog, or first for room in its tenant's part of it."""
        if (tenant := call.tenant) is not None and (tenant.parked or self.shares.is_full(call)):
            self.held_back[call.id] = call
            tenant.parked.add(call)
        else:
            self.parked.add(call)

    def _unpark(self, call: CallRecord) -> None:
        tenant = call.tenant
        if tenant is None:
            self.parked.discard(call)
        elif self.held_back.pop(call.id, None) is not None:
            tenant.parked.discard(call)
        else:
            self.parked.discard(call)
            self._let_on(tenant)

    def _let_on(self, tenant: Tenant) -> None:
        """A call of this tenant has made room: let the next one wait for room in the backlog with all others."""
        if tenant.parked and not self.shares.is_full(call := tenant.parked.first()):
            self._unpark(call)
            self.parked.add(call)

    def _bind(self, call: CallRecord) -> None:
        owner = _owner(call)
        queue = self.bound.get(owner)
        if queue is None:
            queue = self.bound[owner] = Backlog()
        queue.add(call)

    def _unbind(self, call: CallRecord) -> None:
        owner = _owner(call)
        queue = self.bound[owner]
        queue.discard(call)
        if not queue:
            del self.bound[owner]

    # ---------------------------------------------------------------- looking

    @property
    def depth(self) -> int:
        """Calls that wait for any worker, or for the time of their next attempt."""
        return len(self.backlog) + len(self.aside)

    @property
    def count(self) -> int:
        """Calls that wait and are not parked."""
        return self.depth + len(self.claims) + sum(map(len, self.bound.values()))

    @property
    def parked_count(self) -> int:
        """Calls that wait for room, in the backlog or in their tenant's part of it."""
        return len(self.parked) + len(self.held_back)

    def has_room(self, call: CallRecord) -> bool:
        """Whether this call may wait for any worker."""
        return self.depth < self.limit and not self.shares.is_full(call)

    def first(self) -> CallRecord | None:
        """The call that is next for any worker."""
        return self.backlog.first() or self.parked.first()

    def next_like(self, call: CallRecord, worker: WorkerRecord) -> CallRecord | None:
        """The call that is next among those that may be in a batch with this one, which this worker was given."""
        if call.bound_for is not None:
            queue = self.bound.get(_owner(call))
            return None if queue is None else queue.next_like(call)
        wary = self.wary.next_like(call) if call.avoids else None
        waiting = self.backlog.next_like(call)
        homed = self.homing.next_like(call, worker) if self.homing.calls else None
        if homed is not None and (waiting is None or homed.precedes(waiting)):
            waiting = homed
        return wary or waiting or self.parked.next_like(call) or self.gathering.next_like(call)

    def first_for(self, worker: WorkerRecord) -> CallRecord | None:
        """The call that is next for this worker alone: of whoever holds it, else one that is bound for it."""
        queue = self.bound.get(worker.lease or worker)
        return None if queue is None else queue.first()

    def bound_for(self, owner: _Owner) -> list[CallRecord]:
        """The calls that wait for this worker alone, or under this lease for its slots."""
        return list(self.bound.get(owner, ()))

    def under(self, lease: CallRecord) -> list[CallRecord]:
        """The calls of this lease that wait, the paused ones too."""
        return [*self.bound_for(lease), *(call for call in self.aside.values() if call.lease is lease)]

    def calls(self, workers: Iterable[WorkerRecord]) -> list[CallRecord]:
        """Every call that waits for any worker, or for one of these."""
        waiting = [*self.backlog, *self.parked, *self.held_back.values(), *self.aside.values()]
        for worker in workers:
            waiting += self.bound_for(worker)
            if worker.lease is not None:
                waiting += self.bound_for(worker.lease)
            if worker.claim is not None:
                waiting.append(worker.claim)
        return waiting

    def check_invariants(self) -> None:
        """Check what is stated at the fields; for tests."""
        self.backlog.check_invariants()
        self.parked.check_invariants()
        self.wary.check_invariants()
        assert not self.parked or self.depth >= self.limit
        paused = [call for call in self.aside.values() if call.state is PAUSED]
        assert len(paused) == len(self._alarms.pauses), paused
        assert all(call in self._alarms.pauses and call.worker is None for call in paused), paused
        self.gathering.check_invariants()
        assert all(call.bound_for is None for call in self.gathering.calls.values())
        assert len(self.aside) == len(paused) + len(self.wary.calls) + len(self.gathering.calls) + len(
            self.homing.calls
        )
        assert all(call.state is PARKED for call in (*self.parked, *self.held_back.values()))
        self._check_tenants()
        claims = [worker.claim for worker in self.claims.values() if worker.claim is not None]
        assert [call.id for call in claims] == list(self.claims)
        for call in (*self.backlog, *claims, *self.wary.calls.values()):
            assert call.state is WAITING, call
            assert call.worker is None, call
            assert call.bound_for is None, call
        for owner, queue in self.bound.items():
            queue.check_invariants()
            assert queue
            for call in queue:
                assert call.state is WAITING, call
                assert _owner(call) is owner, call
                _check_turn(call, owner)

    def _check_tenants(self) -> None:
        for tenant in {call.tenant for call in self.calls(()) if call.tenant is not None}:
            assert tenant.waiting == sum(call.tenant is tenant for call in self.backlog)
            held_back = [call for call in self.held_back.values() if call.tenant is tenant]
            assert sorted(call.id for call in tenant.parked) == sorted(call.id for call in held_back)
            taken = tenant.waiting + sum(call.tenant is tenant for call in self.parked)
            assert not held_back or taken >= (self.shares.limit or 0)


def _check_turn(call: CallRecord, owner: _Owner) -> None:
    worker = call.bound_for
    assert worker is not None, call
    holder = worker.lease or worker
    assert owner in (worker, holder), call
    assert owner is not holder or not worker.is_serving or not worker.free_slots, call


def _owner(call: CallRecord) -> _Owner:
    """By whom the queue of a call that is bound for a worker is known."""
    owner = call.lease or call.bound_for
    assert owner is not None, call
    return owner
