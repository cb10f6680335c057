"""Clients, owners and workers on simulated time.

What an owner decides is decided by the pool's own scheduler. What it costs is added: an owner has one processor, on
which it takes what has come in turns, and what a turn decides leaves at its end.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from bench.samples import quantile
from bench.scale.costs import READ, Costs
from poise._answers import NOT_BEGUN, RETURNED, Answer
from poise._core.calls import CallRecord
from poise._core.effects import Recall, Send, Start, Withdraw
from poise._core.pace import AHEAD_CALLS
from poise._core.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench.loads import Load
    from bench.scale.routers import Router
    from poise._core.effects import Effect

    Act = Callable[[], list[Effect] | None]

WARM_UP: Final = 0.2
"""The part of the calls that come first and do not count: all was idle before."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a load."""

    waits: list[float]
    """Seconds from each call's coming to its beginning on a worker."""
    seconds: float
    """From the first call's coming to the last one's end."""
    busy: float
    """The part of the time until the last call came in which the busiest owner worked."""
    most_waiting: int
    """Calls without a worker, of all owners."""
    moved: int
    """Calls that one owner took from another."""
    longest_turn: float
    """Seconds of the longest turn of an owner's loop."""

    @property
    def rate(self) -> float:
        """Calls a second."""
        return len(self.waits) / self.seconds

    @property
    def counted(self) -> Sequence[float]:
        """The waits after the warm-up."""
        return self.waits[int(WARM_UP * len(self.waits)) :]

    @property
    def mean(self) -> float:
        """Seconds of wait."""
        return sum(self.counted) / len(self.counted)

    @property
    def p99(self) -> float:
        """Seconds within which 99 of 100 calls began."""
        return quantile(self.counted, 0.99)


NOTHING_TO_STEAL: Final = 0.001
"""Seconds after which an owner with idle workers asks again, if the one that it asked had nothing."""


class World:
    """One load that is being served."""

    def __init__(
        self,
        load: Load,
        router: Callable[[World], Router],
        *,
        workers: int,
        costs: Costs,
        owners: int = 1,
        clients: int = 64,
        ahead: int = AHEAD_CALLS,
        steals: bool = False,
    ) -> None:
        """Have all workers ready, an equal part of them with each owner.

        Args:
            load: the calls; each comes from a client that is drawn.
            router: how clients choose among owners.
            workers: how many there are in all.
            costs: what things cost.
            owners: over how many the workers are divided.
            clients: how many there are.
            ahead: calls that may be sent to a worker beyond the one that it runs.
            steals: whether an owner whose workers are idle asks another one for a call.
        """
        self.load = load
        self.costs = costs
        self.clients = clients
        self.chance: random.Random = random.Random(7)
        self.now = 0.0
        self.moved = 0
        self.steals: bool = steals and owners > 1
        self.begun: list[float] = [math.nan] * len(load.arrivals)
        self.left: int = len(load.arrivals)
        """Calls that have not ended."""
        self._most_waiting = 0
        self._worked = 0.0
        """Seconds for which the busiest owner had worked when the last call came."""
        self._ties = itertools.count()
        self._to_come: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self.owners: list[Owner] = [Owner(self, number, workers // owners, ahead) for number in range(owners)]
        self._router = router(self)

    def run(self) -> Outcome:
        """Let all calls come and end."""
        self.later(self.load.arrivals[0], self._call, 0)
        while self.left:
            self.now, _, act, arguments = heapq.heappop(self._to_come)
            act(*arguments)
        arrivals = self.load.arrivals
        waits = [begun - arrival for begun, arrival in zip(self.begun, arrivals, strict=True)]
        seconds = self.now - arrivals[0]
        busy = min(1.0, self._worked / max(1e-9, arrivals[-1] - arrivals[0]))
        turn = max(owner.longest_turn for owner in self.owners)
        return Outcome(waits, seconds, busy, self._most_waiting, self.moved, turn)

    def later(self, seconds: float, act: Callable[..., Any], *arguments: Any) -> None:
        """Have this done after so many seconds."""
        heapq.heappush(self._to_come, (self.now + seconds, next(self._ties), act, arguments))

    def _call(self, number: int) -> None:
        arrivals = self.load.arrivals
        if number + 1 < len(arrivals):
            self.later(arrivals[number + 1] - self.now, self._call, number + 1)
        else:
            self._worked = max(owner.worked for owner in self.owners)
        self._router.route(number, self.chance.randrange(self.clients))

    def give(self, number: int, client: int, owner: Owner) -> None:
        """A client sends a call."""
        owner.held += 1
        self.later(self.costs.hop, owner.asked_by, client, partial(owner.take, CallRecord(number, "serve"), client))

    def ask(self, owner: Owner, reply: Callable[[int], Any]) -> None:
        """A client asks how many calls an owner holds, and hears it when the owner has come to it."""

        def answer() -> None:
            self.later(self.costs.hop, reply, owner.held)

        self.later(self.costs.hop, owner.told, self.costs.probe, answer)

    def turned(self, owner: Owner) -> None:
        """An owner has done a turn."""
        self._most_waiting = max(self._most_waiting, sum(len(each.waiting) for each in self.owners))
        self._router.turned(owner)

    def answered(self, owner: Owner, number: int) -> None:
        """A call has ended, and its owner has heard of it."""
        self.left -= 1
        self._router.answered(owner, number, self.now - self.load.arrivals[number])


class Owner:
    """A scheduler, with a processor of its own and workers that nobody else has."""

    def __init__(self, world: World, number: int, workers: int, ahead: int) -> None:
        self.number = number
        self.workers = workers
        self.held: int = 0
        """Calls that it was given and has not answered."""
        self.waiting: dict[int, CallRecord] = {}
        """Those of them that are with no worker, by number, in the order in which they came."""
        self.worked = 0.0
        self.longest_turn = 0.0
        self._world = world
        self._clients: dict[int, int] = {}
        """Who asked for each call."""
        self._sent: dict[int, CallRecord] = {}
        """Calls that are with a worker."""
        self._asked: dict[int, deque[Act]] = {}
        """What has come from each client and was not read."""
        self._told: list[tuple[float, Act]] = []
        """What has come from others, and what it costs."""
        self._is_awake = self._is_stealing = False
        self._alarm = math.inf
        self._queues: list[deque[int]] = [deque() for _ in range(workers + 1)]
        """Calls that have come to each worker and have not begun, by the worker's number."""
        self._runs: set[int] = set()
        """Workers that run a call."""
        self._scheduler = Scheduler(size=workers, backlog=None)
        for effect in self._scheduler.open(0.0):
            assert isinstance(effect, Start)
            while len(self._queues) <= effect.worker_id:
                self._queues.append(deque())
            self._scheduler.worker_ready(effect.worker_id, 0.0, most_ahead=ahead)

    # ---------------------------------------------------------------- what comes

    def asked_by(self, client: int, act: Act) -> None:
        """A client's call has arrived."""
        self._asked.setdefault(client, deque()).append(act)
        self._wake()

    def told(self, cost: float, act: Act) -> None:
        """Something else has arrived."""
        self._told.append((cost, act))
        self._wake()

    def _wake(self) -> None:
        if not self._is_awake:
            self._is_awake = True
            # As epoll has it: what comes at the same instant is seen in the same turn.
            self._world.later(0.0, self._turn)

    def _turn(self) -> None:
        costs = self._world.costs
        told, self._told = self._told, []
        acts = [act for _, act in told]
        seconds = costs.turn + sum(cost for cost, _ in told)
        for client, asked in list(self._asked.items()):
            count = min(len(asked), READ)
            acts += [asked.popleft() for _ in range(count)]
            seconds += costs.take * count
            if not asked:
                del self._asked[client]
        self.worked += seconds
        self.longest_turn = max(self.longest_turn, seconds)
        self._world.later(seconds, self._end_turn, acts)

    def _end_turn(self, acts: Iterable[Act]) -> None:
        for act in acts:
            self._perform(act() or ())
        now, scheduler = self._world.now, self._scheduler
        if scheduler.next_tick() <= now:
            self._perform(scheduler.tick(now))
        self._is_awake = False
        if self._told or self._asked:
            self._wake()
        self._set_alarm()
        if self._world.steals and not self._is_stealing:
            self._steal()
        self._world.turned(self)

    def _ring(self) -> None:
        self._alarm = math.inf
        if self._scheduler.next_tick() <= self._world.now:
            self._wake()
        else:
            self._set_alarm()

    def _set_alarm(self) -> None:
        due = self._scheduler.next_tick()
        if due < self._alarm:
            self._alarm = due
            self._world.later(max(0.0, due - self._world.now), self._ring)

    # ---------------------------------------------------------------- what is decided

    def take(self, call: CallRecord, client: int) -> list[Effect]:
        """Take a call from a client, or from another owner."""
        self._clients[call.id] = client
        self.waiting[call.id] = call
        return self._scheduler.submit(call, self._world.now)

    def _hear(self, worker_id: int, answers: Sequence[Answer], *, is_recall: bool = False) -> list[Effect]:
        world = self._world
        for answer in answers:
            if answer.ending == NOT_BEGUN:
                self.waiting[answer.call_id] = self._sent[answer.call_id]
            else:
                self.held -= 1
                del self._sent[answer.call_id]
                del self._clients[answer.call_id]
                world.answered(self, answer.call_id)
        effects = self._scheduler.finished(worker_id, answers, world.now) if answers else []
        return effects + self._scheduler.recall_done(worker_id, world.now) if is_recall else effects

    def _perform(self, effects: Iterable[Effect]) -> None:
        later, hop = self._world.later, self._world.costs.hop
        for effect in effects:
            if isinstance(effect, Send):
                for call in effect.calls:
                    self._sent[call.id] = self.waiting.pop(call.id)
                later(hop, self._arrive, effect.worker_id, [call.id for call in effect.calls])
            elif isinstance(effect, Recall):
                later(hop, self._give_back, effect.worker_id, list(effect.call_ids))
            elif isinstance(effect, Withdraw):
                self._withdraw(effect.worker_id, effect.call_ids)

    # ---------------------------------------------------------------- workers

    def _arrive(self, worker_id: int, call_ids: Iterable[int]) -> None:
        self._queues[worker_id].extend(call_ids)
        if worker_id not in self._runs:
            self._begin(worker_id)

    def _begin(self, worker_id: int) -> None:
        queue, world = self._queues[worker_id], self._world
        if queue:
            number = queue.popleft()
            self._runs.add(worker_id)
            world.begun[number] = world.now
            world.later(world.load.services[number], self._end, worker_id, number)
        else:
            self._runs.discard(worker_id)

    def _end(self, worker_id: int, number: int) -> None:
        world = self._world
        ended = Answer(number, RETURNED, None, world.load.services[number])
        world.later(world.costs.hop, self.told, world.costs.hear, partial(self._hear, worker_id, [ended]))
        world.later(world.costs.worker, self._begin, worker_id)

    def _give_back(self, worker_id: int, call_ids: Iterable[int]) -> None:
        """The worker answers a recall."""
        costs, answers = self._world.costs, self._not_begun(worker_id, call_ids)
        hear = partial(self._hear, worker_id, answers, is_recall=True)
        self._world.later(costs.hop, self.told, costs.probe + costs.hear * len(answers), hear)

    def _withdraw(self, worker_id: int, call_ids: Iterable[int]) -> None:
        """The owner takes what has not begun, by the memory that it shares with the worker."""
        answers = self._not_begun(worker_id, call_ids)
        self.told(self._world.costs.hear * len(answers), partial(self._hear, worker_id, answers))

    def _not_begun(self, worker_id: int, call_ids: Iterable[int]) -> list[Answer]:
        queue = self._queues[worker_id]
        given = [number for number in call_ids if number in queue]
        for number in given:
            queue.remove(number)
        return [Answer(number, NOT_BEGUN, None) for number in given]

    # ---------------------------------------------------------------- calls of other owners

    def _steal(self) -> None:
        """Ask another owner for its oldest call, for as long as a worker is idle (Blumofe and Leiserson, 1999)."""
        world = self._world
        self._is_stealing = self.held < self.workers
        if self._is_stealing:
            victim = world.owners[(self.number + world.chance.randrange(1, len(world.owners))) % len(world.owners)]
            world.later(world.costs.hop, victim.told, world.costs.probe, partial(victim.hand_over, self))

    def hand_over(self, thief: Owner) -> list[Effect]:
        """Another owner asks for a call."""
        world = self._world
        if not self.waiting:
            world.later(world.costs.hop + NOTHING_TO_STEAL, thief.stolen, None, 0)
            return []
        call = self.waiting.pop(next(iter(self.waiting)))
        self.held -= 1
        world.moved += 1
        world.later(world.costs.hop, thief.stolen, call.id, self._clients.pop(call.id))
        return self._scheduler.cancel(call, world.now)

    def stolen(self, number: int | None, client: int) -> None:
        """The other owner has answered."""
        if number is not None:
            self.held += 1
            self.told(self._world.costs.take, partial(self.take, CallRecord(number, "serve"), client))
        self._is_stealing = False
        if number is None and self._world.left:
            self._steal()
