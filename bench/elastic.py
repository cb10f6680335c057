"""What a size that follows the load costs, against the best size that stays the same: `python -m bench elastic`.

The core itself, on simulated time, under the recorded arrivals; so every run gives the same figures. Cost is what is
paid for: the seconds of each worker from when it was asked for to its end. The best fixed size is the smallest with
which 99 % of the calls wait no longer than with the elastic one.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.loads import Load, requests
from bench.report import Table
from bench.samples import quantile
from poise._answers import RETURNED, Answer
from poise._core.calls import CallRecord
from poise._core.effects import Kill, Send, Start
from poise._core.scheduler import Scheduler
from poise.policies import Elastic

if TYPE_CHECKING:
    from poise._core.effects import Effect

BASE: Final = 0.05
"""Seconds that each request of the trace takes."""
PER_TOKEN: Final = (0.005, 0.02, 0.1)
"""Seconds more for each token that it generated: a small model on a good machine, to a large one on a poor one."""
STARTS: Final = (1.0, 5.0, 15.0, 30.0)
"""Seconds that a worker takes to start: plain Python, to one that loads a large model."""
MOST: Final = 64


@dataclass(frozen=True)
class Outcome:
    """What became of a load."""

    p99: float
    """Seconds that 99 % of the calls waited at most."""
    cost: float
    """Seconds of workers."""
    starts: int
    """Workers that were started."""
    most: int
    """The most that there were at once."""


@dataclass(frozen=True)
class Comparison:
    """An elastic pool, and the best of a fixed size."""

    elastic: Outcome
    fixed: Outcome
    size: int
    """The fixed one."""

    @property
    def cost(self) -> float:
        """What the elastic pool costs, as a part of what the other does."""
        return self.elastic.cost / self.fixed.cost


def recorded(per_token: float, start_time: float) -> Load:
    """The hour that was recorded, from when the workers of a fixed size are ready."""
    arrivals, tokens = requests()
    return Load("recorded trace", [start_time + each for each in arrivals], [BASE + per_token * n for n in tokens])


def compare(load: Load, policy: Elastic, start_time: float) -> Comparison:
    """Serve a load with an elastic pool, then with ever larger fixed ones until one is as good."""
    elastic = simulate(load, policy, start_time)
    for size in itertools.count(1):
        fixed = simulate(load, size, start_time)
        if fixed.p99 <= elastic.p99:
            return Comparison(elastic, fixed, size)
    raise AssertionError


def simulate(load: Load, size: int | Elastic, start_time: float) -> Outcome:
    """Serve a load by workers that take so many seconds to start."""
    return _Simulation(load, size, start_time).run()


class _Simulation:
    def __init__(self, load: Load, size: int | Elastic, start_time: float) -> None:
        self._load = load
        self._start_time = start_time
        self._pool = Scheduler(size=size)
        self._now = 0.0
        self._ties = itertools.count()
        self._to_come: list[tuple[float, int, str, int]] = []
        self._begun: dict[int, float] = {}
        self._on: dict[int, int] = {}
        """The worker of each call that runs."""
        self._since: dict[int, float] = {}
        """When each worker that has not ended was asked for."""
        self._cost = 0.0
        self._starts = self._most = 0

    def run(self) -> Outcome:
        """Until the last call has been answered."""
        arrivals = self._load.arrivals
        for number, arrival in enumerate(arrivals):
            self._later(arrival, "call", number)
        self._perform(self._pool.open(0.0))
        while len(self._begun) < len(arrivals) or self._on:
            due = self._pool.next_tick()
            if not self._to_come or due <= self._to_come[0][0]:
                self._now = max(self._now, due)
                self._perform(self._pool.tick(self._now))
            else:
                self._now, _, kind, number = heapq.heappop(self._to_come)
                self._happen(kind, number)
        waits = [self._begun[number] - arrival for number, arrival in enumerate(arrivals)]
        cost = self._cost + sum(self._now - since for since in self._since.values())
        return Outcome(quantile(waits, 0.99), cost, self._starts, self._most)

    def _later(self, when: float, kind: str, number: int) -> None:
        heapq.heappush(self._to_come, (when, next(self._ties), kind, number))

    def _happen(self, kind: str, number: int) -> None:
        if kind == "call":
            self._perform(self._pool.submit(CallRecord(number, "serve"), self._now))
        elif kind == "ready":
            self._perform(self._pool.worker_ready(number, self._now))
        else:
            answer = Answer(number, RETURNED, None, self._load.services[number])
            self._perform(self._pool.finished(self._on.pop(number), [answer], self._now))

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Start):
                self._since[effect.worker_id] = self._now
                self._starts += 1
                self._most = max(self._most, len(self._since))
                self._later(self._now + self._start_time, "ready", effect.worker_id)
            elif isinstance(effect, Kill):
                self._cost += self._now - self._since.pop(effect.worker_id)
            elif isinstance(effect, Send):
                for call in effect.calls:
                    self._begun[call.id] = self._now
                    self._on[call.id] = effect.worker_id
                    self._later(self._now + self._load.services[call.id], "end", call.id)


def main(arguments: list[str]) -> int:  # noqa: ARG001 (as the others)
    """Print a table."""
    rows: list[list[str]] = []
    for per_token, start, least in itertools.product(PER_TOKEN, STARTS, (0, 1)):
        found = compare(recorded(per_token, start), Elastic(least, MOST), start)
        elastic, fixed = found.elastic, found.fixed
        row = [f"{per_token:g} s", f"{start:g} s", f"{least}", f"{elastic.p99:.2f} s", f"{elastic.starts}"]
        row += [
            f"{elastic.most}",
            f"{elastic.cost:.0f} s",
            f"{found.size}",
            f"{fixed.p99:.2f} s",
            f"{fixed.cost:.0f} s",
        ]
        rows.append([*row, f"{found.cost:.2f}x"])
    heads = [
        "a token",
        "a start",
        "least",
        "p99 wait",
        "starts",
        "most",
        "cost",
        "fixed",
        "p99 wait",
        "cost",
        "elastic",
    ]
    print(Table("An elastic pool and the best fixed one, on the recorded trace", heads, rows).plain())
    return 0
