"""Keys: a call prefers the worker that served its key last, for what that has kept of it: a session, a cache, a model.

Such a worker is the key's home. A call whose turn has come takes its home if that has a free slot, and else another
that has. Only if it has `patience` it is set aside, and waits for its home so long, while others go before it.

Who else takes a key is found by rendezvous hashing (Thaler, Ravishankar, "A Name-Based Mapping Scheme for Rendezvous",
1996) with bounded loads (Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from poise._core.calls import TenantCallRecord
from poise._core.states import CallState, WorkerState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poise._core.alarms import Alarms, Times
    from poise._core.calls import CallId, CallRecord
    from poise._core.counters import Counters
    from poise._core.placement import Placement
    from poise._core.queues import Queues
    from poise._core.shares import Tenant
    from poise._core.workers import WorkerId, WorkerRecord

Key: TypeAlias = "str | int | bytes"

KEYS: Final = 65_536
"""Keys whose home is remembered: those that were served last. They take about 10 MB."""
_WORD: Final = (1 << 64) - 1


class KeyedCallRecord(TenantCallRecord):
    """One submission with a key, for a tenant or not. Any other so takes no more room."""

    __slots__ = ("home", "key", "patience", "until")

    is_keyed = True

    def __init__(
        self, key: Key, patience: float, tenant: Tenant | None, call_id: CallId, function: Any, **fields: Any
    ) -> None:
        super().__init__(tenant, call_id, function, **fields)
        self.key: Key = key
        self.patience: float = patience
        """Seconds, in all, for which it may wait for its home although its turn has come."""
        self.until: float | None = None
        """When they are over; None before they have begun."""
        self.home: WorkerRecord | None = None
        """The worker for which it waits. Invariant: set if and only if it is in `Homing`."""


class Homing:
    """Calls whose turn has come and that wait for the worker of their key: a queue for each such worker."""

    __slots__ = ("_alarms", "_placement", "_times", "calls")

    def __init__(self, placement: Placement, alarms: Alarms) -> None:
        self._placement = placement
        self._alarms = alarms
        self._times: Times[CallRecord] = alarms.homings
        self.calls: dict[CallId, CallRecord] = self._times.watched
        """Every call. Invariant: the same are in the queues of `placement.awaited`."""

    def add(self, call: KeyedCallRecord, home: WorkerRecord, now: float) -> None:
        """Let a call wait for its home, until its patience is over."""
        self._alarms.watch_homings()
        call.home = home
        call.until = now + call.patience if call.until is None else call.until
        self._times.add(call, call.until)
        self._placement.await_worker(home, call)

    def discard(self, call: CallRecord) -> None:
        """Take a call out."""
        assert isinstance(call, KeyedCallRecord)
        assert call.home is not None
        self._times.forget(call)
        self._placement.await_no_more(call.home, call)
        call.home = None

    def next_like(self, call: CallRecord, worker: WorkerRecord) -> CallRecord | None:
        """The first call that waits for this worker and may be in a batch with this one."""
        queue = self._placement.awaited.get(worker.id)
        return None if queue is None else queue.next_like(call)


class Affinity:
    """Remembers who has served each key, and says who is to serve it next."""

    __slots__ = ("_counters", "_homes", "_placement", "_queues", "_ready")

    def __init__(
        self, ready: Mapping[WorkerId, WorkerRecord], queues: Queues, placement: Placement, counters: Counters
    ) -> None:
        self._homes: OrderedDict[Key, WorkerId] = OrderedDict()
        """By number, so that a worker which is gone is not kept; the key that was served last is at the end."""
        self._ready = ready
        self._queues = queues
        self._placement = placement
        self._counters = counters

    def remember(self, call: KeyedCallRecord, worker: WorkerRecord) -> None:
        """The worker is given this call: it is the home of its key from now on."""
        if call.bound_for is not None and call.lease is None:
            return  # a broadcast goes to all, and says nothing
        known = self._homes.pop(call.key, None)
        self._homes[call.key] = worker.id
        if known is None:
            if len(self._homes) > KEYS:
                self._homes.popitem(last=False)
        elif known == worker.id:
            self._counters.at_home += 1
        else:
            self._counters.away += known in self._ready

    def home(self, call: KeyedCallRecord) -> WorkerRecord | None:
        """The worker that served the key of this call last, unless that is not to serve any more."""
        worker = self._ready.get(self._homes.get(call.key, -1))
        return worker if worker is not None and _is_home(worker) else None

    def awaited_home(self, call: KeyedCallRecord, now: float) -> WorkerRecord | None:
        """The home for which this call, whose turn has come, had rather wait than take a free worker; or None."""
        until = now + call.patience if call.until is None else call.until
        if until <= now or self._placement.free_worker() is None:
            return None
        home = self.home(call)
        return None if home is None or _is_free(home) else home

    def choose(self, call: KeyedCallRecord, free: WorkerRecord | None) -> WorkerRecord | None:
        """The worker with a free slot that takes this call. If there is none its home is the first to be sent ahead."""
        home = self.home(call)
        if free is None:
            if home is not None:
                self._placement.put_first(home)
            return None
        if home is not None and _is_free(home):
            return home
        number = _number(call.key)
        return max(self._placement.least_loaded_ones(), key=lambda worker: _rank(number, worker.id))

    def next_homed(self) -> tuple[CallRecord, WorkerRecord] | None:
        """The first call that waits for its home, which has a free slot by now, if it comes before all others."""
        changed = self._placement.changed
        for worker in list(changed.values()):
            if not _is_home(worker):
                self._queues.end_homing(list(self._placement.awaited[worker.id]))
            elif not _is_free(worker):
                del changed[worker.id]
        head = self._queues.first()
        best: tuple[CallRecord, WorkerRecord] | None = None
        for worker in changed.values():
            call = self._placement.awaited[worker.id].first()
            assert call is not None
            is_next = head is None or (call.precedes(head) and not self._queues.backlog.has_before(call))
            if is_next and (best is None or call.precedes(best[0])):
                best = call, worker
        return best

    def check_invariants(self) -> None:
        """Check what is stated at the fields, and that no call waits for a home that is free (G4); for tests."""
        assert len(self._homes) <= KEYS
        awaited, calls = self._placement.awaited, self._queues.homing.calls
        assert calls == {call.id: call for queue in awaited.values() for call in queue}
        for worker_id, queue in awaited.items():
            queue.check_invariants()
            for call in queue:
                assert isinstance(call, KeyedCallRecord)
                assert call.state is CallState.WAITING, call
                assert call.home is not None, call
                assert call.home.id == worker_id, call
                assert _is_home(call.home), call
                assert not _is_free(call.home), call


def _is_home(worker: WorkerRecord) -> bool:
    """Whether it is worth waiting for: it works, is well, and will go on."""
    is_there = worker.state is WorkerState.READY and not worker.is_killed and not worker.is_silent
    return is_there and not worker.is_quarantined


def _is_free(worker: WorkerRecord) -> bool:
    return worker.is_open and worker.free_slots > 0


def _number(key: Key) -> int:
    """A number for the key, the same in every process, unlike `hash`."""
    if isinstance(key, str):
        data = b"s" + key.encode(errors="surrogatepass")
    else:
        data = b"b" + key if isinstance(key, bytes) else f"i{key:x}".encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())


def _rank(number: int, worker_id: WorkerId) -> int:
    """How much the worker is wanted for a key of this number: SplitMix64 of both (Steele, Lea, Flood, OOPSLA 2014)."""
    mixed = (number ^ worker_id * 0x9E3779B97F4A7C15) & _WORD
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    return (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _WORD
