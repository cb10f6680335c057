"""Arrivals and service times for P4: a recorded trace, uniform calls, and a mix of tiny and long ones."""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TRACE: Final = Path(__file__).parent / "data" / "azure_code.csv"
REPLAYED: Final = slice(2000, 4000)
"""The part of it that P4 replays: nine minutes, sped up."""
BASE: Final = 0.002
"""Seconds that each request of the trace takes."""
PER_TOKEN: Final = 0.0003
"""Seconds more for each token that it generated: 10 ms for the mean request, 0.57 s for the longest of the trace."""
UTILISATION: Final = 0.75
"""The part of the workers' time that the calls ask for: arrivals are sped up to reach it."""
TINY: Final = 20e-6
LONG: Final = 0.2


@dataclass(frozen=True)
class Load:
    """Calls to come: when, after the start, and how long each takes, in seconds."""

    name: str
    arrivals: list[float]
    services: list[float]


def recorded(count: int, workers: int) -> Load:
    """The first requests of an excerpt: `BASE` and `PER_TOKEN` say how long, the arrivals keep their rhythm.

    Raises:
        ValueError: the excerpt has not so many.
    """
    arrivals, tokens = requests()
    arrivals, tokens = arrivals[REPLAYED], tokens[REPLAYED]
    if len(arrivals) < count:
        raise ValueError(f"the excerpt has {len(arrivals)} requests, and {count} were asked for")
    services = [BASE + PER_TOKEN * number for number in tokens[:count]]
    return Load("recorded trace", sped_up(arrivals[:count], services, workers), services)


def requests() -> tuple[list[float], list[int]]:
    """The trace as it was recorded: when each request came, in seconds after the first, and its tokens."""
    lines = [line for line in TRACE.read_text().splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    first = float(rows[0]["seconds"])
    return [float(row["seconds"]) - first for row in rows], [int(row["tokens"]) for row in rows]


def sped_up(arrivals: list[float], services: list[float], workers: int) -> list[float]:
    """The same rhythm, such that the service times fill `UTILISATION` of the workers' time."""
    span = arrivals[-1] - arrivals[0]
    wanted = sum(services) / workers / UTILISATION
    return [(arrival - arrivals[0]) * wanted / span for arrival in arrivals]


def uniform(service: float, count: int, workers: int) -> Load:
    """Calls that all take the same time, and come at random (a Poisson process)."""
    return _at_random(f"uniform {service * 1e3:g} ms", [service] * count, workers)


def mixed(count: int, workers: int) -> Load:
    """99 % at 20 us and 1 % at 200 ms, at random."""
    chance = random.Random(2)
    services = [TINY] * count
    for place in chance.sample(range(count), count // 100):
        services[place] = LONG
    return _at_random("99 % 20 us, 1 % 200 ms", services, workers)


def _at_random(name: str, services: list[float], workers: int) -> Load:
    chance = random.Random(1)
    now = 0.0
    arrivals: list[float] = []
    for _ in services:
        arrivals.append(now)
        now += chance.expovariate(1.0)
    return Load(name, sped_up(arrivals, services, workers), services)
