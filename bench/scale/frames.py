"""Simulates a wide owner, whose calls travel in frames of their own: `python -m bench.scale.frames`.

`bench.scale.world` takes a call to cost what it costs in a throng of few links. Here each frame has its cost, and what
comes over one link within a turn is one frame; so with 1,000 links the owner saturates earlier. Only the scheduler is
real, with a tenant for each client; nothing else of `world` is needed for that: no bytes, no second owner.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import defaultdict, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bench.loads import Load
from bench.report import Table
from bench.samples import quantile
from poise._answers import NOT_BEGUN, RETURNED, Answer
from poise._core.effects import Recall, Resolve, Send, Start, Withdraw
from poise._core.pace import AHEAD_CALLS
from poise._core.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poise._core.effects import Effect

RAMP: Final = 0.2
"""The part of the calls, the first ones, whose waits do not count: the pool is empty when they come."""


@dataclass(frozen=True)
class Costs:
    """Seconds. Those of the owner are of its processor, and are fitted to what `bench.scale.relay` measures."""

    call: float
    """Both decisions about a call, and what else is done once for each."""
    queued: float
    """More for one that had to wait: for the order among tenants, and for deciding at another time than it came."""
    frame: float
    """Reading or writing one, with what it costs to wake for it."""
    hop: float
    """From one process to another, between two that are awake: half of a bare ping-pong."""
    wake: float
    """Of a worker that sleeps, before it begins a call."""
    next: float
    """Of a worker that has the next call in hand, before it begins that."""


FREE: Final = Costs(0, 0, 0, 0, 0, 0)
"""Nothing costs anything: what is left is the order in which the scheduler has calls begin."""


class Waits(NamedTuple):
    """How long calls waited from when they were made until they began, in seconds."""

    mean: float
    p99: float

    @classmethod
    def of(cls, waits: Sequence[float], ramp: float = RAMP) -> Waits:
        """Sum up all but the first."""
        counted = waits[int(len(waits) * ramp) :]
        return cls(sum(counted) / len(counted), quantile(counted, 0.99))


@dataclass(frozen=True)
class Outcome:
    """What became of a load."""

    waits: list[float]
    """Of each call, in seconds."""
    ends: list[float]
    """When each answer was back at its client, in the order in which they came."""
    owner_busy: float
    """The part of the time in which the owner's processor worked."""
    workers_busy: float
    """The part of the workers' time in calls."""
    turns: int
    frames: int


class Owner:
    """A run."""

    def __init__(self, load: Load, workers: int, clients: int, costs: Costs) -> None:
        """Let the calls of a load come, from each client in turn."""
        self._load = load
        self._costs = costs
        self._clients = clients
        self._scheduler = Scheduler(size=workers, backlog=None)
        self._now = 0.0
        self._ties = itertools.count()
        self._to_come: list[tuple[float, int, str, int, Any]] = []
        self._mail: list[tuple[int, str, Any]] = []
        """What has come to the owner: from which link, and what; those of clients are negative."""
        self._free_at: float | None = None
        """When the turn ends, None between two."""
        self._inboxes: dict[int, deque[int]] = defaultdict(deque)
        self._running: dict[int, int] = {}
        self._withdrawn: set[tuple[int, int]] = set()
        """Calls that were taken back from workers, which pass over them."""
        self._workers = workers
        self._begun: dict[int, float] = {}
        self._ends: list[float] = []
        self._busy = 0.0
        self._turns = self._frames = 0
        tenants = [self._scheduler.shares.new_record(number, 1.0) for number in range(clients)]
        self._records = tenants if clients > 1 else [self._scheduler.shares.nobodys_call]
        for effect in self._scheduler.open(0.0):
            assert isinstance(effect, Start)
            self._scheduler.worker_ready(effect.worker_id, 0.0, most_ahead=AHEAD_CALLS)

    def run(self, until: int | None = None) -> Outcome:
        """Until so many calls have been answered, or all."""
        arrivals, services = self._load.arrivals, self._load.services
        for number, arrival in enumerate(arrivals):
            self._later(arrival + self._costs.hop, "mail", -1 - number % self._clients, ("call", number))
        until = len(arrivals) if until is None else until
        while len(self._ends) < until:
            self._step()
        waits = [self._begun[number] - arrivals[number] for number in sorted(self._begun)]
        span = max(self._now - arrivals[0], 1e-12)
        running = set(self._running.values())
        served = sum(services[number] for number in self._begun if number not in running)
        return Outcome(waits, self._ends, self._busy / span, served / span / self._workers, self._turns, self._frames)

    def _step(self) -> None:
        due = self._scheduler.next_tick()
        if self._free_at is None and due < (self._to_come[0][0] if self._to_come else float("inf")):
            self._now = max(self._now, due)
            self._turn()
            return
        self._now, _, kind, place, what = heapq.heappop(self._to_come)
        if kind == "mail":
            self._mail.append((place, *what))
        elif kind == "turn ends":
            self._free_at = None
            for effect in what:
                self._carry(effect)
        elif kind == "sent":
            self._inboxes[place].extend(what)
            if place not in self._running:
                self._begin_next(place, self._costs.wake)
        elif kind == "recalled":
            self._give_back(place, what)
        else:
            self._end(place, what)
        # What comes at the same instant is read together.
        if self._mail and self._free_at is None and not (self._to_come and self._to_come[0][0] <= self._now):
            self._turn()

    def _later(self, when: float, kind: str, place: int, what: Any) -> None:
        heapq.heappush(self._to_come, (when, next(self._ties), kind, place, what))

    # ---------------------------------------------------------------- the owner

    def _turn(self) -> None:
        """Hear what has come, decide, and be busy with it for as long as that takes."""
        mail, self._mail = self._mail, []
        effects: list[Effect] = []
        now, calls, queued = self._now, 0, 0
        if self._scheduler.next_tick() <= now:
            effects += self._scheduler.tick(now)
        for place, kind, what in mail:
            if kind == "call":
                calls += 1
                record = self._records[what % len(self._records)](what, "f", name="f")
                effects += self._scheduler.submit(record, now)
            elif kind == "answers":
                ended, begun = what
                if ended:
                    calls += len(ended)
                    granted = self._scheduler.finished(place, ended, now)
                    queued += sum(len(effect.calls) for effect in granted if isinstance(effect, Send))
                    effects += granted
                if begun is not None:
                    self._scheduler.begun(place, (begun,))
            else:
                if what:
                    effects += self._scheduler.finished(place, what, now)
                effects += self._scheduler.recall_done(place, now)
        frames = len({place for place, _, _ in mail}) + len({self._link(effect) for effect in effects} - {None})
        costs = self._costs
        seconds = costs.frame * frames + costs.call * calls / 2 + costs.queued * queued
        self._busy += seconds
        self._turns += 1
        self._frames += frames
        self._free_at = now + seconds
        self._later(self._free_at, "turn ends", 0, effects)

    def _link(self, effect: Effect) -> int | None:
        """Over which link it goes, if over any."""
        if isinstance(effect, Send | Recall):
            return effect.worker_id
        return -1 - effect.call.id % self._clients if isinstance(effect, Resolve) else None

    def _carry(self, effect: Effect) -> None:
        arrives = self._now + self._costs.hop
        if isinstance(effect, Send):
            self._later(arrives, "sent", effect.worker_id, [call.id for call in effect.calls])
        elif isinstance(effect, Recall):
            self._later(arrives, "recalled", effect.worker_id, effect.call_ids)
        elif isinstance(effect, Withdraw):
            self._withdraw(effect.worker_id, effect.call_ids)
        elif isinstance(effect, Resolve):
            self._ends.append(arrives)

    def _withdraw(self, worker: int, numbers: Sequence[int]) -> None:
        """Take back, through memory that both see, what a worker that has not answered has not begun."""
        back = [number for number in numbers if number not in self._begun]
        self._withdrawn.update((worker, number) for number in back)
        answers = [Answer(number, NOT_BEGUN, None) for number in back]
        self._later(self._now, "mail", worker, ("answers", (answers, None)))

    # ---------------------------------------------------------------- the workers

    def _begin_next(self, worker: int, after: float) -> int | None:
        """Have it begin the next call that nobody has taken back, and return which."""
        inbox = self._inboxes[worker]
        while inbox:
            number = inbox.popleft()
            if (worker, number) in self._withdrawn:
                self._withdrawn.remove((worker, number))
                continue
            self._running[worker] = number
            self._begun[number] = self._now + after
            self._later(self._now + after + self._load.services[number], "end", worker, number)
            return number
        return None

    def _end(self, worker: int, number: int) -> None:
        del self._running[worker]
        begun = self._begin_next(worker, self._costs.next)
        answer = Answer(number, RETURNED, None, self._load.services[number])
        self._later(self._now + self._costs.hop, "mail", worker, ("answers", ([answer], begun)))

    def _give_back(self, worker: int, numbers: Sequence[int]) -> None:
        inbox = self._inboxes[worker]
        back = [number for number in numbers if number in inbox and (worker, number) not in self._withdrawn]
        for number in back:
            inbox.remove(number)
        answers = [Answer(number, NOT_BEGUN, None) for number in back]
        self._later(self._now + self._costs.hop, "mail", worker, ("recalled", answers))


def simulate(load: Load, workers: int, clients: int, costs: Costs, until: int | None = None) -> Outcome:
    """Serve a load, until so many calls have been answered, or all."""
    return Owner(load, workers, clients, costs).run(until)


BARE: Final = Costs(call=10e-6, queued=12e-6, frame=8.6e-6, hop=30e-6, wake=67e-6, next=5e-6)
"""The owner's as `bench.scale.relay` and `bench.scale.waiting` measure them; the others' as in docs/benchmarks.md (the
bare ping-pong, and the worker's processor)."""
WHOLE: Final = replace(BARE, call=22e-6, frame=21e-6)
"""The owner of a shared pool of 8 workers: 23 to 30 us for a call in a throng, which shares its frames, 60 to 100 for a
lone one, and 95 to 115 for those that share none of their four frames."""
RATES: Final = {
    0.1: (5_000, 8_000, 9_000, 9_500),
    0.01: (5_000, 8_000, 10_000, 12_000, 14_000, 16_000, 20_000, 25_000),
}
"""Calls a second, by the seconds that each takes in the mean."""


def at_random(calls: int, rate: float, service: float) -> Load:
    """Calls that come at random, so many a second, and take this long in the mean (both exponential)."""
    chance = random.Random(1)
    arrivals = list(itertools.accumulate(chance.expovariate(rate) for _ in range(calls)))
    return Load("at random", arrivals, [chance.expovariate(1 / service) for _ in range(calls)])


def table(calls: int) -> Table:
    """The waits with 1,000 workers and 64 clients, as the rate rises."""
    rows: list[list[str]] = []
    for service, rates in RATES.items():
        for rate in rates:
            row = [f"{service * 1e3:g} ms", f"{rate:,}"]
            for costs in (BARE, WHOLE):
                outcome = simulate(at_random(calls, rate, service), 1_000, 64, costs)
                row += [f"{each * 1e3:.3g} ms" for each in Waits.of(outcome.waits)]
                row.append(f"{min(1, outcome.owner_busy):.0%}")
            rows.append(row)
    heads = ["a call", "calls a second", *(f"{who}: {what}" for who in ("bare", "whole") for what in _WHAT)]
    return Table("A wide owner: 1,000 workers, 64 clients", heads, rows)


_WHAT: Final = ("mean wait", "p99", "busy")


if __name__ == "__main__":
    print(table(20_000).plain())
