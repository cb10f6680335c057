"""P4: calls that come by themselves, against an ideal single queue of the same arrivals and service times."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

from bench import evidence, ideal, loads
from bench.contenders.lanes import Express, Freight
from bench.contenders.plain_ray import DirectCalls, QueueOfActors
from bench.samples import quantile
from bench.session import WORKERS, Absent, Session
from bench.targets import Finding, at_most

if TYPE_CHECKING:
    from pathlib import Path

    from bench.contenders.contender import Contender
    from bench.loads import Load

ALL: Final = (Express, Freight, QueueOfActors, DirectCalls)
LANES: Final = (Express, Freight)
LEAST_ALLOWANCE: Final = 0.002
"""Seconds: the least that a recall's round trip is taken to last, since two cores are shared with the callers."""


async def measure(session: Session, folder: Path | None = None) -> dict[str, Any]:
    """Replay each load; the trace of the last run of the mix goes into the folder."""
    plans: list[tuple[Load, tuple[type[Contender], ...]]] = [
        (loads.recorded(session.choose(900, 200), WORKERS), ALL),
        (loads.uniform(0.001, session.choose(2000, 600), WORKERS), LANES),
        (loads.uniform(0.01, session.choose(600, 120), WORKERS), LANES),
        (loads.mixed(session.choose(3000, 600), WORKERS), ALL),
    ]
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for turn in range(session.choose(3, 1)):
        for kind in session.in_turn(ALL, turn):
            with contextlib.suppress(Absent):
                async with session.visit(kind) as contender:
                    for load, kinds in plans:
                        if kind in kinds:
                            runs, allowance = await replay(contender, load)
                            summary = compare(runs, allowance)
                            results.setdefault(load.name, {}).setdefault(kind.key, []).append(summary)
                            session.say(f"P4, round {turn + 1}: {load.name:22} {_line(summary)}  {kind.label}")
                            if folder is not None and kind is Express and load is plans[-1][0]:
                                evidence.write(folder / "mix-trace.csv", runs)
    return {
        "loads": results,
        "rule": f"service = {loads.BASE} s + {loads.PER_TOKEN} s per token; utilisation {loads.UTILISATION}",
    }


async def replay(contender: Contender, load: Load) -> tuple[list[evidence.Run], float]:
    """Submit each call when its time comes. Also returns what a recall's round trip may take here, in seconds."""
    trips: list[float] = []
    for _ in range(200):
        began = time.monotonic()
        await contender.call("echo", 0)
        trips.append(time.monotonic() - began)
    for _ in range(20):
        await contender.call("serve", loads.TINY)

    async def one(number: int, service: float) -> evidence.Run:
        submitted = time.monotonic()
        began, ended, worker = await contender.call("serve", service)
        return evidence.Run(number, service, submitted, began, ended, worker)

    calls: list[asyncio.Task[evidence.Run]] = []
    start = time.monotonic() + 0.01
    for number, (arrival, service) in enumerate(zip(load.arrivals, load.services, strict=True)):
        ahead = start + arrival - time.monotonic()
        if ahead > 0:
            await asyncio.sleep(ahead)
        calls.append(asyncio.create_task(one(number, service)))
    return await asyncio.gather(*calls), max(LEAST_ALLOWANCE, 2 * quantile(trips, 0.99))


def compare(runs: list[evidence.Run], allowance: float) -> dict[str, Any]:
    """The waits of a run, and those that an ideal queue would have had with its submissions and service times."""
    runs = sorted(runs, key=lambda run: run.submitted)
    begin = runs[0].submitted
    services = [run.ended - run.began for run in runs]
    best = ideal.waits([run.submitted - begin for run in runs], services, WORKERS)
    real = [run.waited for run in runs]
    late = evidence.held_up(runs, longer_than=allowance, long_call=loads.LONG / 2)
    return {
        "calls": len(runs),
        "utilisation": sum(services) / WORKERS / (max(run.ended for run in runs) - begin),
        "mean": sum(real) / len(real),
        "p50": quantile(real, 0.5),
        "p99": quantile(real, 0.99),
        "ideal_mean": sum(best) / len(best),
        "ideal_p50": quantile(best, 0.5),
        "ideal_p99": quantile(best, 0.99),
        "allowance": allowance,
        "held_up": len(late),
        "held_up_beside_long": sum(each.beside_long for each in late),
        "held_up_most": max((each.seconds for each in late), default=0.0),
    }


def _line(summary: dict[str, Any]) -> str:
    waits = ", ".join(
        f"{name} {summary[name] * 1e3:.3g} (ideal {summary[f'ideal_{name}'] * 1e3:.3g})" for name in _WAITS
    )
    return f"{summary['utilisation']:.0%} busy; wait in ms: {waits}; {summary['held_up']} held up"


_WAITS: Final = ("mean", "p99")


def findings(result: dict[str, Any]) -> list[Finding]:
    """P4, and G4 on the mix."""
    trace = result["loads"].get("recorded trace", {}).get("express", [])
    others = {"naps of 10 ms": "uniform 10 ms", "the mix": "99 % 20 us, 1 % 200 ms"}
    mix = result["loads"].get(others["the mix"], {}).get("express", [])
    return [
        *(
            at_most("P4", f"{name} wait on the trace, against an ideal single queue", 1.03, _ratios(trace, name))
            for name in _WAITS
        ),
        *(
            at_most(
                "P4",
                f"{name} wait, {what}, against an ideal single queue",
                1.1,
                _ratios(result["loads"].get(load, {}).get("express", []), name),
            )
            for what, load in others.items()
            for name in _WAITS
        ),
        at_most(
            "P4",
            "mix: calls that waited beside an idle worker for more than a recall's round trip",
            0,
            [float(run["held_up"]) for run in mix],
            "",
        ),
    ]


def _ratios(runs: list[dict[str, Any]], name: str) -> list[float]:
    return [run[name] / run[f"ideal_{name}"] for run in runs if run[f"ideal_{name}"] > 0]
