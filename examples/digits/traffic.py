"""Recorded arrivals, and the plan by which they are played again."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

RECORDED = Path(__file__).with_name("traffic.csv")


@dataclass(frozen=True, slots=True)
class Plan:
    """When each request is to be sent, in seconds from the start."""

    arrivals: tuple[float, ...]
    seconds: float
    """How long it all takes."""
    speed: float
    """How many times as fast as it was recorded."""

    @property
    def rate(self) -> float:
        """Requests a second, on average."""
        return len(self.arrivals) / self.seconds

    def histogram(self, buckets: int) -> list[int]:
        """How many requests are to be sent in each of so many equal parts of the time."""
        counts = [0] * buckets
        for arrival in self.arrivals:
            counts[min(buckets - 1, int(arrival / self.seconds * buckets))] += 1
        return counts


def recorded(path: Path = RECORDED) -> list[float]:
    """The recorded arrivals, in seconds since the first. The file names their source."""
    with path.open(newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return [float(row["seconds"]) for row in rows]


def plan(arrivals: list[float], *, rate: float, seconds: float) -> Plan:
    """Play arrivals from the first on, sped up so that `rate` of them come in a second on average.

    Bursts and lulls keep their shape. If too few were recorded to go on for so long, it ends earlier.

    Args:
        arrivals: when requests came, in seconds since the first.
        rate: how many are to come in a second.
        seconds: for how long.
    """
    count = max(2, min(len(arrivals), round(rate * seconds)))
    seconds = count / rate
    speed = arrivals[count - 1] / seconds
    return Plan(tuple(arrival / speed for arrival in arrivals[:count]), seconds, speed)
