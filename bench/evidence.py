"""Checks the trace of a run: did a call wait while a worker was idle?"""

from __future__ import annotations

import csv
from bisect import bisect_left
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Run:
    """One call as it went: times in seconds on CLOCK_MONOTONIC, which all processes of the machine share."""

    call: int
    service: float
    """What was asked for."""
    submitted: float
    """In the caller."""
    began: float
    """In the worker."""
    ended: float
    worker: int
    """The process."""

    @property
    def waited(self) -> float:
        """Seconds from its submission to its beginning."""
        return self.began - self.submitted


@dataclass(frozen=True, slots=True)
class Idle:
    """A time in which a worker ran nothing."""

    worker: int
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class HeldUp:
    """A call that waited while a worker was idle."""

    run: Run
    idle_worker: int
    seconds: float
    """For how long at a stretch."""
    beside_long: bool
    """Whether another worker was running a long call meanwhile: so it may have waited behind that."""


def idle_times(runs: Iterable[Run]) -> list[Idle]:
    """When each worker ran nothing, between the first beginning and the last end of all."""
    by_worker: dict[int, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.began):
        by_worker.setdefault(run.worker, []).append(run)
    if not by_worker:
        return []
    first = min(own[0].began for own in by_worker.values())
    last = max(run.ended for own in by_worker.values() for run in own)
    idle: list[Idle] = []
    for worker, own in by_worker.items():
        ends = [first, *(run.ended for run in own)]
        begins = [*(run.began for run in own), last]
        idle += [Idle(worker, end, begin) for end, begin in zip(ends, begins, strict=True) if begin > end]
    return idle


def held_up(runs: Sequence[Run], *, longer_than: float, long_call: float) -> list[HeldUp]:
    """The calls that waited beside an idle worker for longer than this at a stretch, each with its longest stretch.

    Args:
        runs: the whole run.
        longer_than: seconds that getting a call to an idle worker may take: a recall's round trip.
        long_call: seconds of service from which on a call is a long one.
    """
    idle = sorted((each for each in idle_times(runs) if each.until - each.since > longer_than), key=lambda i: i.since)
    ordered = sorted(runs, key=lambda run: run.submitted)
    submissions = [run.submitted for run in ordered]
    longs = [run for run in ordered if run.service >= long_call]
    worst: dict[int, HeldUp] = {}
    for gap in idle:
        for run in ordered[: bisect_left(submissions, gap.until)]:
            since, until = max(run.submitted, gap.since), min(run.began, gap.until)
            if until - since > longer_than and (run.call not in worst or worst[run.call].seconds < until - since):
                beside = any(
                    other.worker != gap.worker and other.began < until and since < other.ended and other is not run
                    for other in longs
                )
                worst[run.call] = HeldUp(run, gap.worker, until - since, beside)
    return sorted(worst.values(), key=lambda each: each.run.submitted)


def write(path: Path, runs: Sequence[Run]) -> None:
    """Write a trace, in microseconds since its first submission."""
    start = min(run.submitted for run in runs)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Run)])
        for run in sorted(runs, key=lambda run: run.submitted):
            call, service, *times, worker = astuple(run)
            writer.writerow([call, round(service * 1e6), *(round((when - start) * 1e6) for when in times), worker])


def read(path: Path) -> list[Run]:
    """Read what `write` wrote."""
    with path.open(newline="") as file:
        return [
            Run(
                int(row["call"]),
                int(row["service"]) / 1e6,
                int(row["submitted"]) / 1e6,
                int(row["began"]) / 1e6,
                int(row["ended"]) / 1e6,
                int(row["worker"]),
            )
            for row in csv.DictReader(file)
        ]
