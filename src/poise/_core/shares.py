"""Tenants, and how those who wait within one priority share the workers.

Start-time fair queueing (Goyal, Vin, Cheng, "Start-time Fair Queuing", SIGCOMM 1996) of the time that calls have run,
not of their number: each tenant has a time of its own, which goes on by what its calls take, divided by its weight, and
the next call is one of the tenant whose time is least. What a call will take is not known when it is granted: it is
charged with the average of its function then, and with the difference when it ends.
"""

from __future__ import annotations

import heapq
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from poise._core.affinity import KeyedCallRecord
from poise._core.backlog import Rank
from poise._core.calls import CallRecord, TenantCallRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

UNMEASURED: Final = 0.001
"""Seconds that a call is charged with at first while nothing is known of any."""


class Tenant:
    """One of those for whom calls are made. Known for as long as it has calls, or has had more than its share."""

    __slots__ = ("__weakref__", "name", "overcharged", "parked", "time", "waiting", "weight")

    def __init__(self, name: Hashable) -> None:
        self.name: Hashable = name
        self.weight: float = 1.0
        self.time: float = 0.0
        """Seconds of service, divided by the weight. Only grows."""
        self.overcharged: float = 0.0
        """What was charged too much, and lowers what is charged next."""
        self.waiting: int = 0
        """Calls in the backlog."""
        self.parked: Rank = Rank()
        """Calls that wait for room among those. Invariant: empty unless there is none."""


class Shares:
    """What each tenant has had."""

    __slots__ = (
        "_clock",
        "_debtors",
        "_kept",
        "_known",
        "_latest",
        "is_used",
        "keyed_call",
        "limit",
        "nobody",
        "nobodys_call",
        "tenants_call",
    )

    def __init__(self, limit: int | None) -> None:
        self.limit: int | None = limit
        """The most calls of one tenant that may wait."""
        self.is_used: bool = False
        """Whether there ever was a tenant."""
        self.nobody: Tenant = Tenant(None)
        """Whose calls are that have no tenant."""
        self.nobodys_call: Callable[..., CallRecord] = CallRecord
        """What makes the record of such a call."""
        self.tenants_call: Callable[..., CallRecord] = TenantCallRecord
        """The same for one of a tenant, which comes first."""
        self.keyed_call: Callable[..., CallRecord] = KeyedCallRecord
        """The same for one with a key: that comes first, and its patience, and the tenant if it has one."""
        self._known: WeakValueDictionary[Hashable, Tenant] = WeakValueDictionary()
        self._clock: float = 0.0
        """The latest time of a tenant whose turn it was: whoever comes back starts there, with nothing saved up."""
        self._latest: float = 0.0
        """The greatest time of any tenant."""
        self._debtors: set[Tenant] = set()
        """Those whose time is beyond the clock, and others that have not been swept out yet."""
        self._kept = 0
        """How many stayed at the last sweep."""

    def tenant(self, name: Hashable, weight: float) -> Tenant:
        """The tenant of this name, who has this weight from now on."""
        self.is_used = True
        tenant = self._known.get(name)
        if tenant is None:
            tenant = self._known[name] = Tenant(name)
        tenant.weight = weight
        return tenant

    def new_record(self, name: Hashable, weight: float) -> Callable[..., CallRecord]:
        """What makes the record of a call for this tenant."""
        return partial(self.tenants_call, self.tenant(name, weight))

    def of(self, call: CallRecord) -> Tenant:
        """Whose call this is."""
        return call.tenant or self.nobody

    def is_full(self, call: CallRecord) -> bool:
        """Whether no more calls of its tenant may wait."""
        return self.limit is not None and call.tenant is not None and call.tenant.waiting >= self.limit

    def divide(self, rank: Rank) -> FairRank:
        """The calls of one priority, which had no tenants, among all."""
        return FairRank(self, rank)

    def arrive(self, tenant: Tenant) -> None:
        """A tenant that had no call waiting has one."""
        tenant.time = max(tenant.time, self._clock)

    def charge(self, call: CallRecord, seconds: float | None, *, is_contended: bool) -> float:
        """The call is granted: charge its tenant with what it will take, as far as is known, and return that.

        Where nobody else waits it is nobody's loss, and what was taken before is forgotten.
        """
        tenant = self.of(call)
        self._clock = max(self._clock, tenant.time) if is_contended else self._latest
        self.arrive(tenant)
        return self.charge_along(call, seconds)

    def charge_along(self, call: CallRecord, seconds: float | None) -> float:
        """The same for a call that goes along with another: it is granted though it may not be its tenant's turn."""
        charged = UNMEASURED if seconds is None else seconds
        self._add(self.of(call), charged)
        return charged

    def settle(self, call: CallRecord, charged: float, seconds: float) -> None:
        """The attempt has ended after so many seconds of service."""
        self._add(self.of(call), seconds - charged)

    def _add(self, tenant: Tenant, seconds: float) -> None:
        due = seconds - tenant.overcharged
        tenant.overcharged = max(0.0, -due)
        tenant.time += max(0.0, due) / tenant.weight
        self._latest = max(self._latest, tenant.time)
        self._debtors.add(tenant)
        if len(self._debtors) > 64 + 2 * self._kept:
            self._debtors = {each for each in self._debtors if each.time > self._clock}
            self._kept = len(self._debtors)


class FairRank:
    """The waiting calls of one priority, of several tenants. Each step costs O(log n) of the tenants."""

    __slots__ = ("_listed", "_order", "_queues", "_shares", "_turns")

    def __init__(self, shares: Shares, others: Rank) -> None:
        """Begin with calls that have no tenant, if there are some."""
        self._shares = shares
        self._turns = count()
        self._queues: dict[Tenant, Rank] = {}
        """Invariant: none is empty."""
        self._order: list[tuple[float, int, Tenant]] = []
        """A heap with a time of each tenant, perhaps a past one, and of some that have no call here any more."""
        self._listed: set[Tenant] = set()
        """Invariant: those in it, each of them once."""
        if others:
            self._queues[shares.nobody] = others
            self._enter(shares.nobody)

    def __bool__(self) -> bool:
        """Whether any call waits."""
        return bool(self._queues)

    def __iter__(self) -> Iterator[CallRecord]:
        """Every call, in no particular order."""
        for queue in self._queues.values():
            yield from queue

    def add(self, call: CallRecord) -> None:
        """Put a call at its place among those of its tenant."""
        tenant = self._shares.of(call)
        queue = self._queues.get(tenant)
        if queue is None:
            queue = self._queues[tenant] = Rank()
            self._enter(tenant)
        queue.add(call)

    def discard(self, call: CallRecord) -> bool:
        """Take a call out, and say whether it was here."""
        tenant = self._shares.of(call)
        queue = self._queues.get(tenant)
        if queue is None or not queue.discard(call):
            return False
        if not queue:
            del self._queues[tenant]
            if len(self._order) > 64 + 2 * len(self._queues):  # most tenants have left
                self._order = [entry for entry in self._order if entry[2] in self._queues]
                heapq.heapify(self._order)
                self._listed = set(self._queues)
        return True

    def first(self) -> CallRecord:
        """The first call of the tenant whose turn it is."""
        while True:
            time, _, tenant = self._order[0]
            queue = self._queues.get(tenant)
            if queue is None:
                heapq.heappop(self._order)
                self._listed.discard(tenant)
            elif time < tenant.time:
                heapq.heapreplace(self._order, (tenant.time, next(self._turns), tenant))
            else:
                return queue.first()

    def of(self, call: CallRecord) -> Rank | None:
        """The waiting calls of the same tenant, if there are any."""
        return self._queues.get(self._shares.of(call))

    def _enter(self, tenant: Tenant) -> None:
        self._shares.arrive(tenant)
        if tenant not in self._listed:
            self._listed.add(tenant)
            heapq.heappush(self._order, (tenant.time, next(self._turns), tenant))

    def check_invariants(self) -> None:
        """Check what is stated at the fields; for tests."""
        assert all(self._queues.values())
        assert set(self._queues) <= self._listed
        assert self._listed == {tenant for _, _, tenant in self._order}
        assert len(self._listed) == len(self._order)
        assert all(time <= tenant.time for time, _, tenant in self._order)
        for tenant, queue in self._queues.items():
            queue.check_invariants()
            assert all(self._shares.of(call) is tenant for call in queue)
