"""P3: the part of the workers' time that is spent in calls of 1 and 10 ms."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

from bench.contenders.lanes import Express, Freight
from bench.contenders.plain_ray import DirectCalls, QueueOfActors
from bench.contenders.processes import Processes
from bench.samples import ratios
from bench.session import WORKERS, Absent, Session
from bench.targets import Finding, at_least
from bench.worker import rounds_per_second

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from bench.contenders.contender import Contender

KINDS: Final = (Express, Freight, QueueOfActors, DirectCalls, Processes)
DURATIONS: Final = {"1 ms": 0.001, "10 ms": 0.01}
BEAT: Final = 0.002
"""Seconds in which a caller that is as busy takes its part of a processor."""


async def measure(session: Session) -> dict[str, Any]:
    """Many calls awaited together; each reports when it began and ended in its worker."""
    speed = rounds_per_second()
    loads = {
        (method, name): seconds if method == "sleep" else int(seconds * speed)
        for method in ("sleep", "spin")
        for name, seconds in DURATIONS.items()
    }
    used: dict[str, dict[str, dict[int, float]]] = {}
    rates: dict[str, dict[str, dict[int, float]]] = {}
    busy: dict[str, float] = {}
    """The part of a processor that the caller took for each load, on poise's express lane, in this round."""
    for turn in range(session.choose(3, 1)):
        for kind in session.in_turn(KINDS, turn):
            with contextlib.suppress(Absent):
                async with session.visit(kind) as contender:
                    await contender.together("echo", list(range(200)))
                    for (method, name), argument in loads.items():
                        count = _count(session, name)
                        load, own = f"{name} {method}", time.process_time()
                        part, rate = await _utilisation(contender, method, argument, count)
                        if kind is Express:
                            busy[load] = (time.process_time() - own) * rate / count
                        used.setdefault(load, {}).setdefault(kind.key, {})[turn] = part
                        rates.setdefault(load, {}).setdefault(kind.key, {})[turn] = rate
                        session.say(f"P3, round {turn + 1}: {load:11} {part:6.1%}  {rate:7,.0f} /s  {kind.label}")
        with contextlib.suppress(Absent):
            async with session.visit(DirectCalls) as bare:
                for (method, name), argument in loads.items():
                    load, count = f"{name} {method}", _count(session, name)
                    rate = await _bare_rate(bare, method, argument, count)
                    async with _busy(busy.get(load, 0.0)):
                        beside = await _bare_rate(bare, method, argument, count)
                    rates.setdefault(load, {}).setdefault("none", {})[turn] = rate
                    rates[load].setdefault("beside", {})[turn] = beside
                    session.say(
                        f"P3, round {turn + 1}: {load}: {rate:,.0f} /s with no pool at all, {beside:,.0f} beside a "
                        f"caller that takes {busy.get(load, 0.0):.0%} of a processor"
                    )
    return {"utilisation": used, "rate": rates, "rounds_per_second": speed}


def _count(session: Session, name: str) -> int:
    return session.choose(2000, 400) if name == "1 ms" else session.choose(300, 60)


async def _utilisation(contender: Contender, method: str, argument: float, count: int) -> tuple[float, float]:
    """The part of the workers' time that was spent in calls, and the calls a second."""
    await contender.together(method, [argument] * 20)
    began = time.monotonic()
    services = await contender.together(method, [argument] * count)
    wall = time.monotonic() - began
    return sum(last - first for first, last, _ in services) / (WORKERS * wall), count / wall


async def _bare_rate(bare: Contender, method: str, argument: float, count: int) -> float:
    """What the workers do with no pool at all: each runs its share in a loop of its own."""
    share = count // WORKERS
    spans = await asyncio.gather(*[bare.call("repeat", method, argument, share) for _ in range(WORKERS)])
    return float(sum(share / (last - first) for first, last, _ in spans))


@contextlib.asynccontextmanager
async def _busy(part: float) -> AsyncGenerator[None]:
    """Have this process take such a part of a processor, a little every two milliseconds."""

    async def work() -> None:
        while part:
            until = time.thread_time() + part * BEAT
            while time.thread_time() < until:
                pass
            await asyncio.sleep((1 - part) * BEAT)

    task = asyncio.ensure_future(work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def findings(result: dict[str, Any]) -> list[Finding]:
    """P3: what is slept takes no processor from the caller; what is spun shares the cores with it."""
    used, rates = result["utilisation"], result["rate"]
    found = [
        at_least(
            "P3",
            f"utilisation, calls of {name} that sleep",
            limit,
            list(used.get(f"{name} sleep", {}).get("express", {}).values()),
            "",
        )
        for name, limit in (("1 ms", 0.95), ("10 ms", 0.99))
    ]
    for name in DURATIONS:
        measured = rates.get(f"{name} spin", {})
        against = ratios(measured.get("express", {}), measured.get("beside", {}))
        found.append(at_least("P3", f"calls of {name} that spin, against none beside a caller as busy", 0.95, against))
    return found
