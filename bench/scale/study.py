"""What is simulated, and what is measured beside it."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench import ideal
from bench.loads import BASE, PER_TOKEN, Load, requests
from bench.samples import quantile
from bench.scale.costs import BY_BYTES, MEASURED, NETWORK
from bench.scale.routers import JoinIdleQueue, Prequal, PrequalByHeld, Router, TwoChoices
from bench.scale.world import WARM_UP, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.scale.costs import Costs

WORKERS: Final = 1000
CLIENTS: Final = 64
MEANS: Final = (0.02, 0.1)
"""Seconds that a call takes in the mean: an owner's limit comes before the workers', and after it."""
RATES: Final = {
    0.02: (5_000, 10_000, 20_000, 30_000, 35_000, 38_000, 40_000, 42_000),
    0.1: (5_000, 8_000, 9_000, 9_800),
}
"""Calls a second that come."""
SPEEDS: Final = {"10 ms": 1.0, "104 ms": 10.0}
"""How long the mean recorded request takes, and what its seconds are multiplied by for that."""
WAYS: Final[dict[str, tuple[Callable[[World], Router], bool]]] = {
    "by chance": (Router, False),
    "two choices": (TwoChoices, False),
    "idle queue": (JoinIdleQueue, False),
    "Prequal": (Prequal, False),
    "Prequal, fewest held": (PrequalByHeld, False),
    "stealing": (Router, True),
}
"""How clients choose, and whether owners take calls from each other."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is simulated."""

    calls: int
    burst: int
    owners: tuple[int, ...]
    every: int
    """Of the rates each so-manieth, the highest among them."""


FULL: Final = Size(50_000, 1_000_000, (4, 16), 1)
QUICK: Final = Size(3_000, 5_000, (4,), 4)


def run(size: Size, say: Callable[[str], None], *, measures: bool = True) -> dict[str, Any]:
    """Everything, as JSON has it; times in seconds."""
    result: dict[str, Any] = {"calls": size.calls, "measured": measured(size) if measures else {}}
    result["limits"] = [limit(size_of_value, size) for size_of_value in BY_BYTES]
    result["rising"] = []
    for mean, rates in RATES.items():
        for rate in rates[:: -size.every][::-1]:
            for costs, hop in ((MEASURED, "process"), (NETWORK, "node")):
                say(f"one owner: {rate:,} calls of {mean:g} s a second, to the next {hop}")
                result["rising"].append({"mean": mean, "rate": rate, "hop": hop} | rising(mean, rate, costs, size))
    say(f"a burst of {size.burst:,}")
    result["burst"] = burst(size)
    result["recorded"] = []
    for name, utilisation in (("10 ms", 0.75), ("10 ms", 0.9), ("104 ms", 0.9)):
        result["recorded"] += beyond(name, utilisation, size, say)
    return result


def measured(size: Size) -> dict[str, Any]:
    """What the real core takes with so many waiting, in processes of their own."""
    found: dict[str, Any] = {}
    quick = ["--quick"] if size is not FULL else []
    for what in ("core", "pool"):
        command = [sys.executable, "-m", "bench.core_cost", what, *quick]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        found |= json.loads(done.stdout)
    found["decisions"] = []
    for waiting, workers in ((10, 4), (size.burst, WORKERS)):
        command = [sys.executable, "-m", "bench.scale.decisions", str(waiting), str(workers), str(size.calls)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        found["decisions"].append(json.loads(done.stdout))
    return found


def poisson(rate: float, mean: float, count: int) -> Load:
    """Calls that come by themselves and take as long as exponential service times do."""
    chance = random.Random(1)
    arrivals = list(itertools.accumulate((chance.expovariate(rate) for _ in range(count - 1)), initial=0.0))
    return Load("poisson", arrivals, [chance.expovariate(1 / mean) for _ in range(count)])


def traces(stretch: float, utilisation: float, count: int) -> Load:
    """Every client plays the recorded hour from another place on, its seconds multiplied, and sped up to this load."""
    times, tokens = requests()
    each, span = count // CLIENTS, times[-1]
    played: list[tuple[float, float]] = []
    for client in range(CLIENTS):
        first = client * len(times) // CLIENTS
        for place in range(first, first + each):
            turns, row = divmod(place, len(times))
            service = stretch * (BASE + PER_TOKEN * tokens[row])
            played.append((times[row] + turns * (span + 1) - times[first], service))
    # Equal spans, so that all clients are there from the first to the last of the time.
    for client in range(CLIENTS):
        own = slice(client * each, (client + 1) * each)
        last = played[own][-1][0]
        played[own] = [(at / last, service) for at, service in played[own]]
    played.sort()
    wanted = sum(service for _, service in played) / WORKERS / utilisation
    return Load("recorded", [wanted * at for at, _ in played], [service for _, service in played])


def limit(size_of_value: int, size: Size) -> dict[str, Any]:
    """What one owner can do, by being asked for twice as much."""
    most = 1 / BY_BYTES[size_of_value]
    load = poisson(2 * most, 0.001, size.calls // 2)
    outcome = World(load, Router, workers=WORKERS, costs=MEASURED.of_bytes(size_of_value)).run()
    return {"bytes": size_of_value, "owner": BY_BYTES[size_of_value], "rate": outcome.rate}


def rising(mean: float, rate: float, costs: Costs, size: Size) -> dict[str, Any]:
    """One owner, and one queue without an owner."""
    load = poisson(rate, mean, size.calls)
    outcome = World(load, Router, workers=WORKERS, costs=costs).run()
    return _described(outcome.mean, outcome.p99, load) | {"busy": outcome.busy}


def burst(size: Size) -> dict[str, Any]:
    """All at once, from every client."""
    chance = random.Random(1)
    mean = MEANS[-1]
    load = Load("burst", [0.0] * size.burst, [chance.expovariate(1 / mean) for _ in range(size.burst)])
    outcome = World(load, Router, workers=WORKERS, costs=MEASURED).run()
    waits = ideal.waits(load.arrivals, load.services, WORKERS)
    best = max(wait + service for wait, service in zip(waits, load.services, strict=True))
    return {
        "calls": size.burst,
        "seconds": outcome.seconds,
        "ideal": best,
        "most_waiting": outcome.most_waiting,
        "turn": outcome.longest_turn,
    }


def beyond(name: str, utilisation: float, size: Size, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The recorded requests with one owner and with several."""
    load = traces(SPEEDS[name], utilisation, size.calls)
    kinds: list[tuple[str, int, Callable[[World], Router], bool]] = [("one owner", 1, Router, False)]
    kinds += [(way, owners, *WAYS[way]) for owners in size.owners for way in WAYS]
    found: list[dict[str, Any]] = []
    for way, owners, router, steals in kinds:
        say(f"recorded requests of {name}, load {utilisation:g}: {way}, {owners} owners")
        outcome = World(load, router, workers=WORKERS, costs=MEASURED, owners=owners, steals=steals).run()
        row = {"requests": name, "load": utilisation, "way": way, "owners": owners, "busy": outcome.busy}
        row["offered"] = len(load.arrivals) / load.arrivals[-1]
        found.append(row | _described(outcome.mean, outcome.p99, load))
    return found


def _described(mean: float, p99: float, load: Load) -> dict[str, float]:
    waits = ideal.waits(load.arrivals, load.services, WORKERS)
    counted = waits[int(WARM_UP * len(waits)) :]
    return {
        "mean_wait": mean,
        "p99_wait": p99,
        "ideal_mean": sum(counted) / len(counted),
        "ideal_p99": quantile(counted, 0.99),
    }
