"""A world for the scheduler: simulated workers that lag behind, and checks of the guarantees from the outside.

Nothing in here looks at the scheduler's private state: it performs effects, lets workers begin, answer and die, and
holds what comes out against G1 to G7. `test_machine.py` drives it with hypothesis; for a long run by hand:

    python -m tests.core.world 20000
"""

from __future__ import annotations

import math
import random
import sys
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeGuard

from poise._answers import NOT_BEGUN, RAISED, RETRYABLE, RETURNED, Answer, Ending
from poise._core.affinity import KeyedCallRecord
from poise._core.batches import Batching
from poise._core.calls import CHECK_IDS, CallRecord
from poise._core.effects import (
    Cancel,
    Check,
    Effect,
    Grown,
    Kill,
    Lease,
    Recall,
    Reject,
    Replacing,
    Resolve,
    Send,
    SendBatch,
    Shrunk,
    Start,
    Withdraw,
)
from poise._core.observed import CALL_EVENTS, Telling, note_company, observe
from poise._core.pace import AHEAD_CALLS
from poise._core.scheduler import Scheduler
from poise._core.states import CallState
from poise.errors import (
    DeadlineExceeded,
    LeaseExpired,
    Overloaded,
    PoiseError,
    PoisonCall,
    PoolBroken,
    PoolClosed,
    WorkerLost,
)
from poise.policies import Elastic, Health, Recycle
from tests.core.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from poise._core.calls import CallRecord

TRIPLES, PATIENT = Batching(3, 0.0), Batching(8, 0.01)
"""Batched functions; calls of the second wait for company."""
SERVICE_TIMES: dict[Hashable, float] = {
    "short": 0.00001,
    "middling": 0.0008,
    "long": 0.5,
    TRIPLES: 0.00001,
    PATIENT: 0.5,
}
"""Seconds by function: the first two are sent ahead."""


class Fault(Exception):
    """What counts against a worker."""


FAULT = Fault("it is sick")


@dataclass
class Actor:
    """The other side of a worker: what it has been sent, has begun and has to say. It may be far behind the pool."""

    id: int
    slots: int
    sends_ahead: bool
    to_actor: deque[tuple[str, Any]] = field(default_factory=deque[tuple[str, Any]])
    to_pool: deque[tuple[str, Any]] = field(default_factory=deque[tuple[str, Any]])
    inbox: list[int] = field(default_factory=list[int])
    begun: list[int] = field(default_factory=list[int])
    unflushed: list[Answer] = field(default_factory=list[Answer])
    outstanding: set[int] = field(default_factory=set[int])
    """Sent by the pool and not yet answered, as the pool knows it."""
    batches: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    """The calls of each batch, by the number of the first, under which it travels."""
    given_up: set[int] = field(default_factory=set[int])
    """Those of them that nobody waits for."""
    marked: set[int] = field(default_factory=set[int])
    """Those of them that were sent ahead, so that it can be seen from outside whether they have begun."""
    is_killed: bool = False
    recalls: int = 0
    """Recalls that it has not answered, as the pool's lane knows it."""
    is_silent: bool = False
    """Whether the pool has taken calls from it because it does not answer, and may send it nothing."""
    runs: int = 0
    """Calls that it has begun."""
    is_checked: bool = False
    """Whether it has a check to answer, as the pool knows it."""
    has_answered: bool = False
    """Whether it has, and the pool has not heard it yet."""
    heard_at: float = -math.inf
    """When the pool has last heard an answer of it."""
    idle_since: float = 0.0
    """When it was last of use to anybody, or became ready."""
    is_special: bool = False
    """Whether it was leased, or had calls bound for it, which one runs that retires because the pool is smaller."""

    def receive(self) -> None:
        """Take in the next message."""
        kind, content = self.to_actor.popleft()
        if kind == "send":
            self.inbox += content
            return
        given_back = [call_id for call_id in content if call_id in self.inbox]
        for call_id in given_back:
            self.inbox.remove(call_id)
            self.unflushed += [Answer(each, NOT_BEGUN, None, 0.0) for each in self.members(call_id)]
        if kind == "recall":
            self.flush()
            self.to_pool.append(("recalled", None))

    def withdraw(self, call_ids: Sequence[int]) -> list[int]:
        """Take away those of the calls that were sent ahead and have not begun, whether they have arrived or not."""
        arriving = [call_id for kind, content in self.to_actor if kind == "send" for call_id in content]
        gone = [c for c in call_ids if c in self.marked and (c in self.inbox or c in arriving)]
        self.inbox = [call_id for call_id in self.inbox if call_id not in gone]
        self.to_actor = deque((kind, [c for c in content if c not in gone]) for kind, content in self.to_actor)
        return gone

    def begin(self, announced: int) -> int:
        """Begin the next call. The pool hears of it first: by an announcement or by the answer that made room.

        Several calls may be announced together, before they begin; such a call can still be given back.
        """
        if announced:
            self.to_pool.append(("begun", self.inbox[:announced]))
        else:
            self.flush()
        call_id = self.inbox.pop(0)
        self.begun.append(call_id)
        return call_id

    def members(self, call_id: int) -> list[int]:
        """The calls that travel under this number."""
        return self.batches.get(call_id, [call_id])

    def cancelled(self, call_id: int) -> int | None:
        """Nobody waits for this call: what to tell the actor of, if it is to hear of it."""
        for first, calls in self.batches.items():
            if call_id in calls:
                self.given_up.add(call_id)
                return first if self.given_up >= set(calls) else None
        return call_id

    @property
    def slots_held(self) -> int:
        """Slots that are taken, as the pool knows it."""
        firsts = {call_id: first for first, calls in self.batches.items() for call_id in calls}
        return len({firsts.get(call_id, call_id) for call_id in self.outstanding})

    def forget(self) -> None:
        """Know no batch any more of which all calls were answered."""
        self.batches = {first: calls for first, calls in self.batches.items() if self.outstanding.intersection(calls)}
        self.given_up &= self.outstanding

    def flush(self) -> None:
        if self.unflushed:
            self.to_pool.append(("answers", self.unflushed))
            self.unflushed = []


@dataclass
class Fate:
    """What the outside knows of one call."""

    call: CallRecord
    retries: int
    may_park: bool
    outcomes: int = 0
    begun: int = 0
    reruns: int = 0
    """Endings after which the pool may begin it again only by the caller's leave."""
    failed_on: set[int] = field(default_factory=set[int])
    """Workers whose answer was an exception after which it is tried again."""
    rests_until: float = -math.inf
    """When the pause after its last attempt is over, at the earliest."""
    sends: int = 0
    beside: int = 1
    """Calls in the batch in which it was sent last, itself among them."""
    most_beside: int = 1000
    """How many there may be the next time."""
    is_cancelled: bool = False
    holder: Actor | None = None
    """The actor that it was last sent to, until that has answered or died."""
    is_released: bool = False
    """Of a lease: given back, or lost."""
    homes_since: float | None = None
    """When it was first seen to wait for the worker of its key although its turn had come."""
    error: PoiseError | None = None


class World:
    """One pool and everything around it."""

    def __init__(
        self,
        *,
        size: int | Elastic,
        slots: int,
        backlog: int | None,
        kill_after: float | None = 5.0,
        heals: bool = True,
        sends_ahead: bool = True,
        poison_after: int = 3,
        retry_budget: float | None = None,
        backlog_per_tenant: int | None = None,
        tenants: int = 0,
        keys: int = 0,
        has_marks: bool = True,
        recycle: Recycle | None = None,
        health: Health | None = None,
        is_observed: bool = True,
    ) -> None:
        self.now = 100.0
        self.pool = Scheduler(
            size=size,
            slots=slots,
            backlog=backlog,
            kill_after=kill_after,
            heals=heals,
            poison_after=poison_after,
            retry_budget=retry_budget,
            backlog_per_tenant=backlog_per_tenant,
            recycle=recycle,
            health=health,
        )
        self.witness = Witness() if is_observed else None
        if self.witness is not None:
            telling = Telling("pool", lambda: self.now, self.witness.tell, self.witness.take_back)
            telling.listen(CALL_EVENTS, None)
            observe(self.pool.shares, telling)
        self.recycle = recycle
        self.health = health
        self.elastic = size if isinstance(size, Elastic) else None
        self.slots = slots
        self.tenants = tenants
        self.keys = keys
        self.homes: dict[int, int] = {}
        """The worker that was last given a call with this key, or was leased for one."""
        self.limit = math.inf if backlog is None else backlog
        self.heals = heals
        self.sends_ahead = sends_ahead
        self.has_marks = has_marks
        self.fates: dict[int, Fate] = {}
        self.live: dict[int, Fate] = {}
        """Calls without an outcome."""
        self.leases: dict[int, Fate] = {}
        """Leases that are held, by their worker."""
        self.actors: dict[int, Actor] = {}
        self.starting: list[int] = []
        self.dying: list[int] = []
        """Workers that the pool has had killed and whose death it does not know yet."""
        self.ended: list[int] = []
        """Workers that have ended as they were to, which the pool has not heard yet."""
        self.generations = 0
        self.spares: dict[int, int] = {}
        """Workers that start while the one of this number works, which is to do so until they are ready."""
        self.seen: Counter[str] = Counter()
        self.has_nodes = False
        """Whether every other worker is on another node than the caller."""
        self.functions: Sequence[Hashable] = tuple(SERVICE_TIMES)
        """What its callers call."""
        self._next_id = 0
        self._accepted: set[int] = set()
        """Calls that were waiting, and not only parked, after the last step."""
        self.perform(self.pool.open(self.now))

    # ---------------------------------------------------------------- effects

    def perform(self, effects: list[Effect]) -> None:  # noqa: C901, PLR0912, PLR0915 (a list of what can be decided)
        """Do what the scheduler decided, and check it."""
        sent: list[CallRecord] = []
        keyed: dict[int, list[tuple[KeyedCallRecord, int, bool]]] = {}
        withdrawn: list[Withdraw] = []
        for effect in effects:
            self.seen[type(effect).__name__] += 1
            match effect:
                case Send(worker_id, calls):
                    for call in calls:
                        self._check_send(self.actors[worker_id], call, {call.id})
                        self.fates[call.id].beside = 1
                        _note_key(keyed, call, worker_id)
                    self.actors[worker_id].to_actor.append(("send", [call.id for call in calls]))
                    sent += calls
                    if self.has_marks:
                        self.actors[worker_id].marked |= {call.id for call in calls if call.state is CallState.AHEAD}
                case SendBatch(worker_id, calls):
                    self._check_batch(calls)
                    self.actors[worker_id].batches[calls[0].id] = [call.id for call in calls]
                    for call in calls:
                        self._check_send(self.actors[worker_id], call, {each.id for each in calls})
                        _note_key(keyed, call, worker_id, is_first=call is calls[0])
                    self.actors[worker_id].to_actor.append(("send", [calls[0].id]))
                    sent += calls
                case Recall(worker_id, call_ids):
                    assert set(call_ids) <= self.actors[worker_id].outstanding
                    self.actors[worker_id].to_actor.append(("recall", call_ids))
                    self.actors[worker_id].recalls += 1
                case Withdraw(worker_id, call_ids):
                    assert set(call_ids) <= self.actors[worker_id].outstanding
                    self.actors[worker_id].is_silent = True
                    withdrawn.append(effect)
                case Check(worker_id):
                    self._check_check(self.actors[worker_id])
                case Cancel(worker_id, call_id) if call_id >= CHECK_IDS:
                    assert self.actors[worker_id].is_checked
                case Cancel(worker_id, call_id):
                    assert call_id in self.actors[worker_id].outstanding
                    if (told := self.actors[worker_id].cancelled(call_id)) is not None:
                        self.actors[worker_id].to_actor.append(("cancel", [told]))
                case Resolve(call, _) | Reject(call, _):
                    self._outcome(call, None if isinstance(effect, Resolve) else effect.error)
                case Lease(call, worker_id):
                    assert not self._others_on(worker_id), "a lease is exclusive"
                    assert not self.actors[worker_id].is_checked, "a lease is exclusive"
                    assert worker_id not in self.leases
                    assert call.deadline > self.now  # G6
                    self.leases[worker_id] = self.live[call.id]
                    _note_key(keyed, call, worker_id)
                case Start(worker_id):
                    assert worker_id not in self.starting
                    self.starting.append(worker_id)
                case Replacing(worker_id, heir_id, _, is_gentle):
                    if is_gentle and not (self.recycle is not None and self.recycle.exact):
                        self.spares[heir_id] = worker_id
                case Grown(before, size, waiting):
                    assert waiting
                    assert before < size
                case Shrunk(worker_id, size):
                    self._check_shrunk(worker_id, size)
                    assert not any(isinstance(each, Reject) and isinstance(each.error, WorkerLost) for each in effects)
                case Kill(worker_id, reason):
                    if "not answered" in reason:
                        self.seen["hangs"] += 1
                        assert self.health is not None
                        silence = self.now - self.actors[worker_id].heard_at
                        assert silence >= min(self.health.every, self.health.timeout), "it still answers"
                    self._killed(worker_id)
        self._check_order(sent)
        self._check_homes(keyed)
        if len(sent) == 1:  # what was free before several were is not seen from outside
            self._check_nearness(sent[0])
        self._accepted = {f.call.id for f in self.live.values() if f.call.state is CallState.WAITING}
        self.check()
        for effect in withdrawn:
            if effect.worker_id in self.actors:
                self._withdraw(self.actors[effect.worker_id], effect.call_ids)

    def _look(self) -> None:
        if self.witness is not None:
            self.witness.look({call_id: fate.call for call_id, fate in self.fates.items()})

    def _check_homes(self, keyed: dict[int, list[tuple[KeyedCallRecord, int, bool]]]) -> None:
        """Who was given the calls of each key: another than before only if that one had no slot for it.

        A call that goes along with another in a batch goes where that one goes, and one that has failed goes elsewhere.
        """
        if not keyed:
            return
        stats = self.pool.stats(self.now)
        free = {w.id for w in stats.workers if self._is_free(w.id, w.state, w.running - w.shared)} & self._open()
        for key, grants in keyed.items():
            home = self.homes.get(key)
            call, worker_id, is_choice = grants[0]
            if len(grants) > 1:  # in which order is not seen from outside
                self.homes[key] = self.pool._affinity._homes[key]  # noqa: SLF001
                assert self.homes[key] in {worker_id for _, worker_id, _ in grants}
                continue
            self.homes[key] = worker_id
            self.seen["at home" if worker_id == home else "away"] += home is not None
            has_waited = self.fates[call.id].homes_since is not None  # for who had the key then
            may_stray = home == worker_id or not is_choice or has_waited or bool(call.avoids)
            assert may_stray or home not in free, f"{call} is not at its home {home}, which is free"

    def _check_nearness(self, call: CallRecord) -> None:
        """A call that any worker may take goes to another node only if none here is as free and as well."""
        worker = call.worker
        if worker is None or not worker.is_far or call.state is not CallState.RUNNING:
            return
        if not _is_ordinary(call) or getattr(call, "key", None) is not None:
            return
        self.seen["to another node"] += 1
        load = len(worker.running) - 1
        for other in self.pool.members():
            is_equal = len(other.running) == load and other.has_failed == worker.has_failed
            if other.is_open and is_equal and not other.is_far and other.id not in call.avoids:
                raise AssertionError(f"{call} went to {worker} though {other} is near")

    def _open(self) -> set[int]:
        """Workers that take calls from the backlog."""
        return {worker.id for worker in self.pool.members() if worker.is_open}

    def _check_shrunk(self, worker_id: int, size: int) -> None:
        """A worker that is not wanted any more had nothing to do, for long enough."""
        assert self.elastic is not None
        assert size >= self.elastic.min
        if (actor := self.actors.get(worker_id)) is not None:
            assert not actor.outstanding
            assert worker_id not in self.leases
            assert actor.idle_since + self.elastic.idle <= self.now
        else:
            waiting = [f.call for f in self.live.values() if f.call.state is CallState.WAITING]
            needed = [call for call in waiting if call.bound_for is None or call.bound_for.id == worker_id]
            assert not needed, "it was needed"
        self._let_go_of(worker_id)

    def _withdraw(self, actor: Actor, call_ids: Sequence[int]) -> None:
        """The lane takes from the actor what has not begun, and hears all that it has said."""
        gone = actor.withdraw(call_ids)
        if gone:
            actor.to_actor.append(("recall", []))
            actor.recalls += 1
            actor.to_pool.appendleft(("answers", [Answer(call_id, NOT_BEGUN, None, 0.0) for call_id in gone]))
            self.deliver(actor)
            self.seen["withdrawn"] += len(gone)
        if self.has_marks:
            actor.flush()
            while actor.to_pool and actor.id in self.actors:
                self.deliver(actor)
        behind = [call_id for call_id in actor.inbox if call_id in actor.marked]
        assert not behind, "this could have been taken from a worker that does not answer"  # G4

    def _check_batch(self, calls: Sequence[CallRecord]) -> None:
        """What goes together may, and whatever may is taken along."""
        note_company(calls)
        first = calls[0]
        assert isinstance(first.function, Batching)
        assert 1 < len(calls) <= first.function.max
        assert {(call.function, call.priority, call.lease) for call in calls} == {
            (first.function, first.priority, first.lease)
        }
        assert not any(call.is_lease for call in calls)
        for call in calls:
            fate = self.fates[call.id]
            assert len(calls) <= fate.most_beside, "it was to be in a smaller batch"
            assert bool(call.deaths) == bool(first.deaths), "a suspect runs alone"  # G9
            assert not call.deaths or call.retries, "its last attempt is made alone"
            fate.beside = len(calls)
        if len(calls) < first.function.max and not first.deaths and first.bound_for is None:
            alike = [f.call for f in self.live.values() if f.sends == 0 and f.call.function is first.function]
            alike = [c for c in alike if c.priority == first.priority and _is_ordinary(c) and c not in calls]
            alike = [c for c in alike if not self._homes(c)]
            waited = [c for c in alike if c.state is CallState.WAITING and c.id in self._accepted]
            assert not waited, "the batch had room"
        self.seen["suspects together"] += bool(first.deaths)

    def _check_check(self, actor: Actor) -> None:
        """A worker is asked that has room for it, and nobody's but the pool's."""
        assert not actor.is_checked
        assert not actor.is_killed
        assert not actor.is_silent
        assert actor.id not in self.leases
        assert actor.slots_held < self.slots  # G3
        assert not any(self.fates[call_id].call.deaths for call_id in actor.outstanding), "a suspect runs alone"  # G9
        actor.is_checked = True

    def _check_send(self, actor: Actor, call: CallRecord, batch: set[int]) -> None:
        fate = self.live[call.id]  # G1: it has had no outcome
        assert not fate.is_cancelled
        assert not actor.is_killed
        assert not actor.is_silent
        worker = self.pool.worker(actor.id)
        assert worker is not None
        assert not worker.is_quarantined or not _is_ordinary(call), "it is sick"
        assert fate.holder is None, "sent to two workers at once"  # G2
        assert fate.reruns <= fate.retries  # G2
        assert call.deadline > self.now  # G6
        assert fate.rests_until <= self.now, "sent before its pause was over"
        self.seen["sent elsewhere"] += bool(fate.failed_on) and actor.id not in fate.failed_on
        lease = self.leases.get(actor.id)
        assert (None if lease is None else lease.call) is call.lease, "a lease is exclusive"
        assert call.lease is None or not fate.is_released
        fate.holder = actor
        fate.sends += 1
        actor.outstanding.add(call.id)
        if not actor.sends_ahead or lease is not None:
            assert actor.slots_held + actor.is_checked <= self.slots  # G3
        if call.deaths:
            assert not actor.is_checked, "a suspect runs alone"  # G9
            assert actor.outstanding <= batch, "a suspect runs alone"  # G9
        else:
            others = (self.fates[call_id].call for call_id in actor.outstanding)
            assert not any(other.deaths for other in others), "a suspect runs alone"  # G9

    def _check_order(self, sent: list[CallRecord]) -> None:
        """G5, for calls that any worker may take and that were never sent before."""
        if not sent:
            return
        left = [f.call for f in self.live.values() if f.sends == 0 and not f.is_cancelled and _is_ordinary(f.call)]
        for call in sent:
            if self.fates[call.id].sends == 1 and _is_ordinary(call):
                batched = self.fates[call.id].beside > 1
                for other in left:
                    is_equal = (other.priority, other.tenant) == (call.priority, call.tenant)
                    is_alike = other.function is call.function and other.priority == call.priority
                    if self._homes(other) or (not is_alike and (batched or self._gathers(other))):
                        continue
                    assert not is_equal or other.id > call.id, f"{call} overtook {other}"
                    assert other.priority <= call.priority or other.id not in self._accepted, f"{call} over {other}"

    def _outcome(self, call: CallRecord, error: PoiseError | None) -> None:
        fate = self.live.pop(call.id)
        fate.error = error
        fate.outcomes += 1
        assert fate.outcomes == 1  # G1
        assert not fate.is_cancelled
        if error is not None:
            self.seen[type(error).__name__] += 1
        assert not isinstance(error, PoisonCall) or fate.beside == 1, "another may be to blame"  # G9
        if isinstance(error, DeadlineExceeded):
            assert call.deadline <= self.now
            assert error.started or not fate.begun
        if isinstance(error, (PoolClosed, LeaseExpired)):
            assert not fate.begun or fate.retries > fate.call.retries or fate.reruns, "it has run"

    def _killed(self, worker_id: int) -> None:
        if worker_id in self.starting:
            self.starting.remove(worker_id)
            self.spares.pop(worker_id, None)
            self.ended.append(worker_id)
            return
        actor = self.actors[worker_id]
        if not any(worker.id == worker_id for worker in self.pool.stats(self.now).workers):
            assert not actor.is_checked
            assert not actor.outstanding, "a call is lost because its worker was not wanted any more"
            assert worker_id not in self.leases
            self.ended.append(worker_id)
            self._bury(worker_id)
        else:
            actor.is_killed = True
            self.dying.append(worker_id)

    def _bury(self, worker_id: int) -> None:
        actor = self.actors.pop(worker_id)
        self._let_go_of(worker_id)
        if worker_id in self.dying:
            self.dying.remove(worker_id)
        for call_id in actor.outstanding:
            self._left(actor, call_id)
        for call_id in actor.outstanding:
            self.fates[call_id].most_beside = 1
        for calls in actor.batches.values():
            died = actor.outstanding.intersection(calls)
            for call_id in died:
                self.fates[call_id].beside = len(died)
                self.fates[call_id].most_beside = (len(died) + 1) // 2
        if (lease := self.leases.pop(worker_id, None)) is not None:
            lease.is_released = True
            self.live.pop(lease.call.id, None)

    def _left(self, actor: Actor, call_id: int) -> None:
        fate = self.fates[call_id]
        assert fate.holder is actor
        fate.holder = None

    def _others_on(self, worker_id: int) -> set[int]:
        return self.actors[worker_id].outstanding

    # ---------------------------------------------------------------- callers

    def submit(
        self,
        *,
        priority: int = 0,
        timeout: float | None = None,
        retries: int = 0,
        retry_delay: float = 0.0,
        function: Hashable = "long",
        may_park: bool = False,
        is_lease: bool = False,
        lease: Fate | None = None,
        member: int | None = None,
        tenant: int | None = None,
        key: int | None = None,
        patience: float = 0.0,
    ) -> Fate | None:
        members = self.pool.members()
        if member is not None and not members:
            return None
        self._next_id += 1
        shares = self.pool.shares
        new = shares.nobodys_call if tenant is None else shares.new_record(tenant, 1 + tenant)
        if key is not None:
            new = partial(
                shares.keyed_call, key, patience, None if tenant is None else shares.tenant(tenant, 1 + tenant)
            )
        call = new(
            self._next_id,
            function,
            priority=priority,
            deadline=math.inf if timeout is None else self.now + timeout,
            timeout=math.inf if timeout is None else timeout,
            retries=retries,
            retry_delay=retry_delay,
            lease=None if lease is None else lease.call,
            is_lease=is_lease,
        )
        if member is not None:
            call.bound_for = members[member % len(members)]
        depth = self._depth()
        fate = self.fates[call.id] = self.live[call.id] = Fate(call, retries, may_park)
        try:
            effects = self.pool.submit(call, self.now, may_park=may_park)
        except PoiseError as error:
            self._refused(fate, error, depth, lease)
            return None
        assert lease is None or not lease.is_released
        self.perform(effects)
        if not may_park and call.bound_for is None and call.id in self.live:
            whole = sum(f.call.needs_whole_worker and f.call.state is CallState.WAITING for f in self.live.values())
            assert self._depth() <= max(self.limit + whole, depth)  # G7; a claim on a worker is not in the backlog
        return fate

    def _refused(self, fate: Fate, error: PoiseError, depth: int, lease: Fate | None) -> None:
        self.seen[f"submit: {type(error).__name__}"] += 1
        fate.call.refused(error)
        del self.live[fate.call.id], self.fates[fate.call.id]
        match error:
            case Overloaded():
                assert not fate.may_park
                assert fate.call.bound_for is not None or depth >= self.limit or error.tenant is not None
            case LeaseExpired():
                assert lease is not None
                assert lease.is_released
            case _:
                assert isinstance(error, PoolBroken)
                assert lease is None
        self.pool.check_invariants()

    def _depth(self) -> int:
        """Calls in the backlog, as the outside can tell."""
        stats = self.pool.stats(self.now)
        bound = sum(f.call.bound_for is not None and f.call.state is CallState.WAITING for f in self.live.values())
        return stats.waiting - bound

    def cancel(self, fate: Fate) -> None:
        if fate.is_cancelled or fate.call.id not in self.live:
            return
        fate.is_cancelled = True
        for worker_id, lease in list(self.leases.items()):
            if lease is fate:
                self._lease_ended(worker_id)
        self.live.pop(fate.call.id, None)
        self.perform(self.pool.cancel(fate.call, self.now))
        assert self.pool.cancel(fate.call, self.now) == []

    def kill(self, fate: Fate, grace: float) -> None:
        """The caller wants the call gone, whether it still waits or was answered before."""
        if fate in self.leases.values():
            return self.cancel(fate)
        fate.is_cancelled |= fate.call.id in self.live
        self.live.pop(fate.call.id, None)
        self.perform(self.pool.kill(fate.call, self.now, grace))
        if fate.call.state is CallState.ABANDONED and fate.call.worker is not None:
            is_running = fate.call.worker.runs(fate.call)
            if self._others_wait(fate.call):
                return None
            assert not is_running or grace or fate.call.worker.is_killed
            assert not is_running or self.pool.next_tick() <= self.now + grace or fate.call.worker.is_killed
        return None

    def release(self, worker_id: int) -> None:
        lease = self._lease_ended(worker_id)
        self.perform(self.pool.release(lease.call, self.now))
        assert self.pool.release(lease.call, self.now) == []

    def _lease_ended(self, worker_id: int) -> Fate:
        lease = self.leases.pop(worker_id)
        if worker_id in self.actors:
            self.actors[worker_id].idle_since = self.now
        lease.is_released = True
        del self.live[lease.call.id]
        for fate in self.fates.values():
            if fate.call.lease is lease.call:
                fate.is_released = True
        return lease

    # ---------------------------------------------------------------- workers

    def start_one(self, index: int, *, fails: bool) -> None:
        worker_id = self.starting.pop(index % len(self.starting))
        self.spares.pop(worker_id, None)
        if fails:
            self.perform(self.pool.worker_lost(worker_id, "it could not start", self.now))
        else:
            self.actors[worker_id] = Actor(worker_id, self.slots, self.sends_ahead, idle_since=self.now)
            most_ahead, is_far = AHEAD_CALLS if self.sends_ahead else 0, self.has_nodes and worker_id % 2 == 1
            self.perform(self.pool.worker_ready(worker_id, self.now, most_ahead=most_ahead, is_far=is_far))

    def end_one(self) -> None:
        """The pool hears that a worker has ended as it was to."""
        worker_id = self.ended.pop(0)
        self.perform(self.pool.worker_lost(worker_id, "retired", self.now))

    def replace(self, worker_id: int, how: str) -> None:
        """A worker is to be replaced: so says somebody outside, or it itself."""
        match how:
            case "from outside":
                _, effects = self.pool.renewals.replace(worker_id, self.now)
                self.perform(effects)
            case "from inside":
                self._let_go_of(worker_id)
                self.perform(self.pool.renewals.retire(worker_id, "it asks for it", self.now))
            case _ if self.pool.recycling is not None:
                is_fresh = how == "it is large from the start"
                self.perform(self.pool.recycling.grown(worker_id, 3 << 30, self.now, is_fresh=is_fresh))
            case _:
                pass

    def find_no_room(self, worker_id: int) -> None:
        """There is no room for one more."""
        self.spares.pop(worker_id, None)
        self.perform(self.pool.renewals.no_room(worker_id, "no room", self.now))

    def reload(self, surge: int) -> None:
        """All workers are to be of a new generation."""
        if not self.pool.reloading.is_under_way:
            self.generations += 1
            reload, effects = self.pool.reloading.begin(surge, self.now)
            assert reload.generation == self.generations
            self.perform(effects)

    def finish_reload(self) -> None:
        """Let everybody start who is to; afterwards all are of one generation."""
        for _ in range(1000):
            self._start_and_end_all()
            self._finish_calls()
            has_time = self.health is not None or self.pool.next_tick() > self.now + 60
            if not self.starting and not self.ended and not self.dying and has_time and self._is_settled():
                break
            for worker_id in list(self.dying):
                self.die(self.actors[worker_id])
            self.now = max(self.now, min(self.pool.next_tick(), self.now + 60))
            self.tick()
        assert not self.pool.reloading.is_under_way
        generations = {worker.generation for worker in self.pool.members()}
        assert generations <= {self.pool.fleet.generation}, "some are of another generation"
        self.seen["reloaded"] += self.pool.fleet.generation > 0
        self.seen["went back"] += self.pool.fleet.generation < self.generations

    def _is_settled(self) -> bool:
        """Whether a reload has come to its end."""
        if self.health is None:
            return True
        return not self.pool.reloading.is_under_way and len({w.generation for w in self.pool.members()}) == 1

    def _let_go_of(self, worker_id: int) -> None:
        """This one need not work until another is ready."""
        self.spares = {heir: old for heir, old in self.spares.items() if old != worker_id}

    def begin(self, actor: Actor, announced: int) -> None:
        if actor.inbox and len(actor.begun) + actor.is_checked < self.slots:
            actor.runs += 1
            actor.is_special |= actor.id in self.leases or self.fates[actor.inbox[0]].call.bound_for is not None
            if self.recycle is not None and self.recycle.exact and not actor.is_special:
                assert self.recycle.calls is not None
                assert actor.runs <= round(self.recycle.calls * (1 - self.recycle.jitter)) + self.slots - 1
            for call_id in actor.members(actor.begin(announced)):
                fate = self.fates[call_id]
                fate.begun += 1
                assert fate.begun <= fate.retries + 1  # G2
                assert fate.holder is actor

    def end(self, actor: Actor, index: int, ending: Ending, *, flush: bool) -> None:
        if not actor.begun:
            return
        call_id = actor.begun.pop(index % len(actor.begun))
        for each in actor.members(call_id):
            fate = self.fates[each]
            fate.reruns += ending == RETRYABLE
            value = "outcome" if ending == RETURNED else FAULT
            actor.unflushed.append(Answer(each, ending, value, SERVICE_TIMES[fate.call.function]))
        if flush:
            actor.flush()

    def answer_check(self, actor: Actor, ending: Ending, value: object = None) -> None:
        """The actor has run its check."""
        if actor.is_checked and not actor.has_answered:
            actor.has_answered = True
            actor.to_pool.append(("checked", [Answer(CHECK_IDS + actor.id, ending, value, 0.0)]))

    def deliver(self, actor: Actor) -> None:
        """The pool hears the next thing that the actor has said."""
        kind, content = actor.to_pool.popleft()
        if kind == "answers":
            for ended in content:
                self._left(actor, ended.call_id)
                actor.outstanding.remove(ended.call_id)
                actor.marked.discard(ended.call_id)
                if ended.ending == RETRYABLE:
                    self._failed(actor, self.fates[ended.call_id])
            actor.forget()
            actor.heard_at = actor.idle_since = self.now
            self.perform(self.pool.finished(actor.id, content, self.now))
        elif kind == "checked":
            actor.is_checked = actor.has_answered = False
            actor.heard_at = self.now
            self.perform(self.pool.finished(actor.id, content, self.now))
        elif kind == "begun":
            self.pool.begun(actor.id, content)
            self.check()
        else:
            actor.recalls -= 1
            if actor.recalls:
                return
            actor.is_silent = False
            self.perform(self.pool.recall_done(actor.id, self.now))

    def _failed(self, actor: Actor, fate: Fate) -> None:
        """The pool hears that an attempt has failed; it may have been for nothing, if the caller has left."""
        call = fate.call
        if call.bound_for is None and call.retries:
            fate.failed_on.add(actor.id)
        if call.retry is not None and call.retries and (call.bound_for is None or call.lease is not None):
            fate.rests_until = self.now + min(30.0, call.retry.delay * 2.0 ** (fate.retries - call.retries))

    def die(self, actor: Actor, *, is_cut_off: bool = False) -> None:
        """The actor's process ends. What it had said still arrives, unless it is cut off; the rest is lost."""
        while is_cut_off and actor.to_pool:
            kind, content = actor.to_pool.popleft()
            actor.unflushed += content if kind == "answers" else []
        while actor.to_pool and actor.id in self.actors:
            self.deliver(actor)
        if actor.id not in self.actors:
            return
        for call_id in (each for first in actor.begun for each in actor.members(first)):
            self.fates[call_id].reruns += 1
        for ended in actor.unflushed:
            self.fates[ended.call_id].reruns += ended.ending in (RETURNED, RAISED)
        for fate in self.fates.values():
            if (lease := self.leases.get(actor.id)) is not None and fate.call.lease is lease.call:
                fate.is_released = True
        ahead = [self.fates[c] for c in actor.inbox if self.fates[c].call.state is CallState.AHEAD and not is_cut_off]
        unbegun = [fate for fate in ahead if fate.call.attempt and not fate.call.attempt.may_have_begun]
        self._bury(actor.id)
        self.perform(self.pool.worker_lost(actor.id, "it died", self.now, all_in_doubt=is_cut_off))
        assert not any(isinstance(fate.error, WorkerLost) for fate in unbegun), "it had not begun"  # G2
        assert self.pool.worker_lost(actor.id, "it died", self.now) == []

    # ---------------------------------------------------------------- time and size

    def tick(self) -> None:
        self.perform(self.pool.tick(self.now))
        for fate in self.live.values():
            assert fate.call.deadline > self.now or self._is_held(fate), fate  # G6
            is_over = fate.call.submitted_at + PATIENT.wait <= self.now
            assert not is_over or not self._gathers(fate.call), "it has waited for company for long enough"
            if self._homes(fate.call):
                assert fate.homes_since is not None
                assert self.now < fate.homes_since + fate.call.patience, "it has waited for its home for long enough"
        assert self.pool.next_tick() > self.now

    def _gathers(self, call: CallRecord) -> bool:
        """Whether a call waits for company."""
        return call.state is CallState.WAITING and call.id in self.pool._queues.gathering.calls  # noqa: SLF001

    def _homes(self, call: CallRecord) -> TypeGuard[KeyedCallRecord]:
        """Whether a call waits for the worker of its key though its turn has come."""
        return call.state is CallState.WAITING and call.id in self.pool._queues.homing.calls  # noqa: SLF001

    def _others_wait(self, call: CallRecord) -> bool:
        """Whether somebody waits for another call of the batch that this one is in."""
        held = () if (actor := self.fates[call.id].holder) is None else actor.batches.values()
        return any(other in self.live for calls in held if call.id in calls for other in calls)

    def _is_held(self, fate: Fate) -> bool:
        return fate in self.leases.values()

    def resize(self, size: int | Elastic) -> None:
        if self.heals:
            self.spares.clear()
            self.elastic = size if isinstance(size, Elastic) else None
            self.perform(self.pool.resize(size, self.now))

    # ---------------------------------------------------------------- checks

    def check(self) -> None:
        self.pool.check_invariants()
        self._look()
        for actor in self.actors.values():
            assert len(actor.begun) <= self.slots  # G3
        stats = self.pool.stats(self.now)
        states = {worker.id: worker.state for worker in stats.workers}
        assert stats.least <= stats.size <= stats.most
        assert self.elastic is None or (stats.least, stats.most) == (self.elastic.min, self.elastic.max)
        is_awaited = any(fate.call.state is CallState.WAITING for fate in self.live.values())
        assert not self.heals or stats.size or not is_awaited, "a call waits, and nobody starts"  # G1
        for heir, old in self.spares.items():
            assert heir not in states or self.actors[old].is_killed or states[old] == "ready", (
                f"{old} leaves before {heir} is ready"
            )
        assert self.pool.is_idle == (not self.live)
        assert stats.in_flight == sum(len(actor.outstanding) for actor in self.actors.values())
        free = [w for w in stats.workers if not w.quarantined and self._is_free(w.id, w.state, w.running - w.shared)]
        assert not stats.ready or not all(w.quarantined for w in stats.workers if w.state == "ready"), "nobody works"
        waiting = [f.call for f in self.live.values() if f.call.state in (CallState.WAITING, CallState.PARKED)]
        for call in waiting:
            if self._homes(call) and (fate := self.fates[call.id]).homes_since is None:
                self.seen["homing"] += 1
                fate.homes_since = self.now
        waits = [call for call in waiting if not self._gathers(call) and not self._homes(call)]
        if any(_is_ordinary(call) and not call.avoids for call in waits):
            assert not free or stats.free_slots == 0, "a call waits beside a free worker"  # G4
        if stats.free_slots and not any(call.needs_whole_worker for call in waiting):
            for call in waiting:
                if _is_ordinary(call) and call.avoids:
                    self.seen["wary beside a worker that it avoids"] += 1
                    assert {w.id for w in free} <= self.fates[call.id].failed_on, "it avoids what it need not"  # G4

    def _is_free(self, worker_id: int, state: str, running: int) -> bool:
        if state != "ready" or running >= self.slots or worker_id in self.leases:
            return False
        actor = self.actors[worker_id]
        has_suspect = any(self.fates[call_id].call.deaths for call_id in actor.outstanding)
        return not (actor.is_killed or actor.is_silent or has_suspect)

    def settle(self) -> None:
        """Let every message arrive; afterwards no call waits behind another while a worker is idle (G4)."""
        while any(actor.to_actor or actor.to_pool for actor in self.actors.values()):
            for actor in list(self.actors.values()):
                while actor.to_actor:
                    actor.receive()
                actor.flush()
                while actor.to_pool and actor.id in self.actors:
                    self.deliver(actor)
        stats = self.pool.stats(self.now)
        if stats.free_slots:
            for actor in self.actors.values():
                behind = [c for c in actor.inbox if self.fates[c].call.state is CallState.AHEAD]
                assert not behind, f"{behind} wait behind others on {actor.id} beside a free worker"  # G4

    def run_out(self) -> None:
        """Finish everything: nothing may hang (G1)."""
        for _ in range(10_000):
            if not self.live and not self.dying:
                return
            for worker_id in list(self.leases):
                self.release(worker_id)
            for worker_id in list(self.dying):
                self.die(self.actors[worker_id])
            self._start_and_end_all()
            self._finish_calls()
            self.now = max(self.now, min(self.pool.next_tick(), self.now + 60))
            self.tick()
        raise AssertionError(f"these hang: {self.live}")

    def _start_and_end_all(self) -> None:
        while self.starting or self.ended:
            if self.ended:
                self.end_one()
            else:
                self.start_one(0, fails=False)

    def _finish_calls(self) -> None:
        for actor in list(self.actors.values()):
            while actor.to_actor:
                actor.receive()
            self.answer_check(actor, RETURNED)
            self.begin(actor, announced=1)
            self.end(actor, 0, RETURNED, flush=True)
            actor.flush()
            while actor.to_pool and actor.id in self.actors:
                self.deliver(actor)

    def end_of_world(self, *, drains: bool, refuses: bool = False) -> None:
        """Close the pool; afterwards no call is pending (G1)."""
        if drains:
            self.perform(self.pool.close(self.now, reject_waiting=refuses))
            self.run_out()
            assert self.pool.is_idle
            if self.generations:
                self.finish_reload()
        for worker_id in list(self.leases):
            self._lease_lost(worker_id)
        effects = self.pool.stop(self.now)
        for effect in effects:
            assert isinstance(effect, (Kill, Reject))
            if isinstance(effect, Reject):
                self._outcome(effect.call, effect.error)
        assert not self.live  # G1
        assert self.pool.is_idle
        assert self.pool.next_tick() == math.inf
        assert self.pool.stats(self.now).workers == ()
        self.pool.check_invariants()
        for fate in self.fates.values():
            assert fate.call.is_lease or fate.outcomes + fate.is_cancelled == 1, fate  # G1
        assert all(fate.call.state is CallState.DONE for fate in self.fates.values())
        self._look()
        if self.witness is not None:
            self.witness.check(self.pool.counters)

    def _lease_lost(self, worker_id: int) -> None:
        self._lease_ended(worker_id)


def _is_ordinary(call: CallRecord) -> bool:
    """Whether any worker may take the call, beside others."""
    return not call.is_lease and call.lease is None and call.bound_for is None and not call.deaths


def _note_key(
    keyed: dict[int, list[tuple[KeyedCallRecord, int, bool]]],
    call: CallRecord,
    worker_id: int,
    *,
    is_first: bool = True,
) -> None:
    """Note who was given a call with a key, and whether the pool could choose."""
    if isinstance(call, KeyedCallRecord) and (call.bound_for is None or call.lease is not None):
        assert isinstance(call.key, int)
        keyed.setdefault(call.key, []).append((call, worker_id, is_first and _is_ordinary(call)))


@dataclass(frozen=True)
class Dice:
    """What can happen, in terms of two ways to choose: hypothesis's (which shrinks) and a fast one for long runs."""

    pick: Callable[[Sequence[Any]], Any]


PRIORITIES = (0, 0, 0, 1, -1, 7)
TIMEOUTS = (None, None, None, 0.001, 0.02, 2.0, 30.0, 0.0)
BACKLOGS = (0, 1, 3, None, None)
STEPS = (
    *("submit",) * 6,
    *("receive", "begin", "begin", "end", "end", "deliver", "deliver") * 2,
    *("start", "cancel", "kill", "tick", "advance", "lease", "leased", "release", "bound", "settle"),
    *("die", "resize"),
    *("replace", "no room", "ended", "ended", "reload", "check", "check"),
)
HEALTHS = (
    *(None,) * 4,
    Health("check", every=1.0, timeout=0.5, strikes=1),
    Health("check", every=2.0, timeout=4.0, strikes=2, most_out=1.0),
    Health(counts=Fault, failures=2, most_out=1.0),
    Health("check", every=0.1, timeout=3.0, counts=Fault, failures=1),
)
RECYCLES = (
    *(None,) * 4,
    Recycle(calls=3),
    Recycle(calls=2, jitter=0, exact=True),
    Recycle(calls=5, age=10.0, surge=False),
    Recycle(age=1.0, memory="2GiB"),
)


ELASTICS = (
    Elastic(0, 3, idle=1.0),
    Elastic(1, 4, idle=0.1),
    Elastic(0, 1, idle=0.003),
    Elastic(2, 5, idle=10.0),
)


def make_world(dice: Dice) -> World:
    pick = dice.pick
    heals = pick((True, True, True, True, False))
    world = World(
        size=pick((1, 1, 2, 2, 3, 5)) if not heals or pick((True, True, False)) else pick(ELASTICS),
        slots=pick((1, 1, 1, 2, 3)),
        backlog=pick(BACKLOGS),
        kill_after=pick((None, 0.0, 5.0)),
        heals=heals,
        sends_ahead=pick((True, True, False)),
        poison_after=pick((3, 2, 1)),
        retry_budget=pick((None, None, 0.2)),
        tenants=pick((0, 0, 0, 3)),
        keys=pick((0, 0, 1, 3, 8)),
        backlog_per_tenant=pick((None, None, 1, 2)),
        has_marks=pick((True, True, False)),
        recycle=pick(RECYCLES) if heals else None,
        health=pick(HEALTHS) if heals else None,
        is_observed=pick((True, True, False)),
    )
    everything = tuple(SERVICE_TIMES)
    world.functions = pick((everything, everything, everything[:3], everything[:3], (TRIPLES, PATIENT), (PATIENT,)))
    world.has_nodes = pick((False, True))
    if pick((True, True, False)):
        while world.starting:
            world.start_one(0, fails=False)
    return world


def submit_something(world: World, step: str, dice: Dice) -> None:
    pick = dice.pick
    fields: dict[str, Any] = {"may_park": pick((False, True)), "timeout": pick(TIMEOUTS), "retries": pick((0, 0, 1, 3))}
    fields["retry_delay"] = pick((0.0, 0.0, 0.01, 1.0))
    if world.tenants:
        fields["tenant"] = pick((None, *range(world.tenants)))
    if world.keys:
        fields["key"] = pick((None, *range(world.keys)))
        fields["patience"] = pick((0.0, 0.0, 0.001, 0.5, math.inf))
    match step:
        case "submit":
            for _ in range(pick((1, 1, 1, 4))):
                world.submit(priority=pick(PRIORITIES), function=pick(world.functions), **fields)
        case "lease":
            world.submit(is_lease=True, **fields)
        case "bound":
            world.submit(member=pick(range(10)), **fields)
        case _:
            if leases := [f for f in world.fates.values() if f.call.is_lease and f.call.worker is not None]:
                world.submit(lease=pick(leases), **fields)


def move_an_actor(world: World, step: str, dice: Dice) -> None:
    if not world.actors:
        return
    pick = dice.pick
    actor = pick(tuple(world.actors.values()))
    match step:
        case "receive":
            if actor.to_actor:
                actor.receive()
        case "begin":
            world.begin(actor, announced=pick((0, 0, 1, 1, 3)))
        case "end":
            ending = pick((RETURNED, RETURNED, RAISED, *(RETRYABLE,) * 2))
            world.end(actor, pick(range(4)), ending, flush=pick((True, True, False)))
        case "check":
            world.answer_check(actor, *pick(((RETURNED, None), (RETURNED, False), (RAISED, FAULT))))
        case "deliver":
            if actor.to_pool:
                world.deliver(actor)
        case _:
            if pick((False, False, True)) or world.dying:
                victim = world.actors[pick(world.dying)] if world.dying else actor
                world.die(victim, is_cut_off=pick((False, False, True)))


def take_step(world: World, step: str, dice: Dice) -> None:  # noqa: C901, PLR0912 (a list of what can happen)
    """Let one thing happen, if it can."""
    pick = dice.pick
    match step:
        case "submit" | "lease" | "bound" | "leased":
            submit_something(world, step, dice)
        case "receive" | "begin" | "end" | "check" | "deliver" | "die":
            move_an_actor(world, step, dice)
        case "release" if world.leases:
            world.release(pick(tuple(world.leases)))
        case "cancel" if world.live:
            world.cancel(pick(tuple(world.live.values())))
        case "kill" if world.fates:
            world.kill(pick(tuple(world.fates.values())), pick((0.0, 0.0, 0.01, 1.0)))
        case "start" if world.starting:
            world.start_one(pick(range(8)), fails=pick((False, False, True)))
        case "tick":
            world.tick()
        case "advance":
            world.now += pick((0.0005, 0.004, 0.02, 0.2, 3.0, 12.0))
            if pick((True, True, True, False)):
                world.tick()
        case "settle":
            world.settle()
        case "resize" if pick((False, True)):
            world.resize(
                pick((1, 2, 3, 5, *(ELASTICS if world.elastic is not None or pick((False, False, True)) else ())))
            )
        case "replace" if world.actors and world.heals and pick((False, True)):
            how = pick(("from outside", "from inside", "it has grown", "it is large from the start"))
            world.replace(pick(tuple(world.actors)), how)
        case "reload" if world.heals and pick((False, False, True)):
            world.reload(pick((0, 1, 1, 2)))
        case "no room" if world.spares:
            world.find_no_room(pick(tuple(world.spares)))
        case "ended" if world.ended:
            world.end_one()
        case _:
            pass


def run(seed: int, steps: int = 150, *, observe_it: Callable[[World], None] | None = None) -> Counter[str]:
    """One whole life of a pool, which may be observed otherwise than chance has it."""
    rng = random.Random(seed)
    dice = Dice(rng.choice)
    world = make_world(dice)
    if observe_it is not None:
        observe_it(world)
    for _ in range(rng.randrange(steps)):
        take_step(world, rng.choice(STEPS), dice)
    world.end_of_world(drains=rng.random() < 0.7, refuses=rng.random() < 0.3)
    return world.seen


def main() -> None:
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    seen: Counter[str] = Counter()
    for seed in range(first, first + count):
        try:
            seen += run(seed)
        except BaseException:
            print("seed", seed)  # noqa: T201
            raise
    print(seen)  # noqa: T201


if __name__ == "__main__":
    main()
