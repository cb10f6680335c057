"""P1, P2 and P7: tiny calls awaited together, and one at a time."""

from __future__ import annotations

import contextlib
import gc
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.contenders import CONTENDERS
from bench.contenders.contender import Missing
from bench.contenders.lanes import Freight
from bench.contenders.plain_ray import DirectCalls
from bench.samples import quantile, quantiles, ratios
from bench.session import WORKERS, Absent, Session
from bench.targets import Finding, at_least, at_most
from bench.usage import Usage, own_usage, usage

if TYPE_CHECKING:
    from bench.contenders.contender import Contender


@dataclass
class Record:
    """What was measured of one contender, by round."""

    label: str
    rate: dict[int, float] = field(default_factory=dict)
    """Calls a second, awaited together."""
    p50: dict[int, float] = field(default_factory=dict)
    """Seconds of one call, one at a time."""
    p99: dict[int, float] = field(default_factory=dict)
    quantiles: dict[int, dict[str, float]] = field(default_factory=dict)
    caller: dict[int, Usage] = field(default_factory=dict)
    """What this process uses for one call, one at a time."""
    workers: dict[int, Usage] = field(default_factory=dict)
    """What the workers' processes use for it."""


async def measure(session: Session) -> dict[str, Any]:
    """Every contender once a round, alone on the machine."""
    records = {kind.key: Record(kind.label) for kind in CONTENDERS}
    for turn in range(session.choose(3, 1)):
        for kind in session.in_turn(CONTENDERS, turn):
            with contextlib.suppress(Absent):
                async with session.visit(kind) as contender:
                    await _measure_one(session, contender, records[kind.key], turn)
                session.say(f"P1 P2, round {turn + 1}: {_line(records[kind.key], turn)}")
    return {"contenders": {key: vars(record) for key, record in records.items()}}


async def _measure_one(session: Session, contender: Contender, record: Record, turn: int) -> None:
    together, seconds = session.choose(2000, 500), 1.0 if not session.quick else 0.4
    values = list(range(together))
    for value in range(100):
        await contender.call("echo", value)
    with contextlib.suppress(Missing):
        await contender.together("echo", values)
        rates: list[float] = []
        until = time.perf_counter() + seconds
        while len(rates) < 2 or time.perf_counter() < until:
            gc.collect()
            began = time.perf_counter()
            results = await contender.together("echo", values)
            rates.append(together / (time.perf_counter() - began))
            assert sorted(results) == values
        record.rate[turn] = quantile(rates, 0.5)
    processes = await _processes(contender)
    own, others = own_usage(), usage(processes)
    latencies = await _one_at_a_time(contender, session.choose(1000, 300), 2 * seconds)
    record.caller[turn] = own_usage().since(own).each(len(latencies))
    if processes:
        record.workers[turn] = usage(processes).since(others).each(len(latencies))
    record.p50[turn], record.p99[turn] = quantile(latencies, 0.5), quantile(latencies, 0.99)
    record.quantiles[turn] = quantiles(latencies)


async def _processes(contender: Contender) -> set[int]:
    """The workers' processes; none if the contender has no way to ask."""
    with contextlib.suppress(Missing):
        return {process for _, _, process in await contender.together("sleep", [0.02] * 2 * WORKERS)}
    return set()


async def _one_at_a_time(contender: Contender, most: int, seconds: float) -> list[float]:
    latencies: list[float] = []
    until = time.perf_counter() + seconds
    while len(latencies) < most and (len(latencies) < 50 or time.perf_counter() < until):
        began = time.perf_counter()
        await contender.call("echo", 1)
        latencies.append(time.perf_counter() - began)
    return latencies


def _line(record: Record, turn: int) -> str:
    rate = f"{record.rate[turn]:9,.0f} /s" if turn in record.rate else 12 * " "
    return f"{rate}  p50 {record.p50[turn] * 1e3:7.3f} ms  p99 {record.p99[turn] * 1e3:7.3f} ms  {record.label}"


def findings(result: dict[str, Any]) -> list[Finding]:
    """P1 and P2."""
    records = result["contenders"]

    def rate(other: str) -> list[float]:
        return ratios(records["express"]["rate"], records[other]["rate"])

    def latency(other: str) -> list[float]:
        return ratios(records["express"]["p50"], records[other]["p50"])

    return [
        at_least("P1", "throughput against the blocking queue of actors", 60, rate("queue")),
        at_least("P1", "throughput against await actor.method.remote()", 25, rate("ray")),
        at_least("P1", "throughput against ProcessPoolExecutor", 10, rate("processes")),
        at_least("P1", "throughput against a Serve handle", 40, rate("serve")),
        at_least("P1", "throughput against xoscar", 4, rate("xoscar")),
        at_most("P2", "latency p50 against await actor.method.remote()", 1 / 12, latency("ray")),
        at_most("P2", "latency p50 against ProcessPoolExecutor", 1 / 3, latency("processes")),
        at_most("P2", "latency p50 against the bare ping-pong from asyncio", 1.6, latency("ping-pong-asyncio")),
    ]


async def measure_freight(session: Session) -> dict[str, Any]:
    """P7: the freight lane and plain Ray side by side, in short alternating blocks."""
    kinds = (Freight, DirectCalls)
    medians: dict[str, dict[int, float]] = {kind.key: {} for kind in kinds}
    with contextlib.suppress(Absent):
        async with session.visit(Freight) as freight, session.visit(DirectCalls) as direct:
            open_ones = {Freight.key: freight, DirectCalls.key: direct}
            for contender in open_ones.values():
                await _one_at_a_time(contender, 100, 5.0)
            for block in range(session.choose(40, 10)):
                for key in sorted(open_ones, reverse=bool(block % 2)):
                    medians[key][block] = quantile(await _one_at_a_time(open_ones[key], 50, 5.0), 0.5)
        for key, blocks in medians.items():
            session.say(f"P7: {key} {quantile(list(blocks.values()), 0.5) * 1e3:.3f} ms")
    return {"p50": medians}


def freight_findings(result: dict[str, Any]) -> list[Finding]:
    """P7."""
    against_ray = ratios(result["p50"]["freight"], result["p50"]["ray"])
    return [at_most("P7", "latency p50 of the freight lane against a plain Ray call", 1.15, against_ray)]
