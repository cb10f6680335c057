"""P3: the part of the workers' time that is spent in calls of 1 and 10 ms."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

from bench.contenders.lanes import Express, Freight
from bench.contenders.plain_ray import DirectCalls, QueueOfActors
from bench.contenders.processes import Processes
from bench.samples import quantile
from bench.session import WORKERS, Absent, Session
from bench.targets import Finding, at_least
from bench.worker import rounds_per_second

if TYPE_CHECKING:
    from bench.contenders.contender import Contender

KINDS: Final = (Express, Freight, QueueOfActors, DirectCalls, Processes)
DURATIONS: Final = {"1 ms": 0.001, "10 ms": 0.01}


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
    for turn in range(session.choose(3, 1)):
        for kind in session.in_turn(KINDS, turn):
            with contextlib.suppress(Absent):
                async with session.visit(kind) as contender:
                    await contender.together("echo", list(range(200)))
                    for (method, name), argument in loads.items():
                        count = _count(session, name)
                        part, rate = await _utilisation(contender, method, argument, count)
                        load = f"{name} {method}"
                        used.setdefault(load, {}).setdefault(kind.key, {})[turn] = part
                        rates.setdefault(load, {}).setdefault(kind.key, {})[turn] = rate
                        session.say(f"P3, round {turn + 1}: {load:11} {part:6.1%}  {rate:7,.0f} /s  {kind.label}")
        with contextlib.suppress(Absent):
            async with session.visit(DirectCalls) as bare:
                for (method, name), argument in loads.items():
                    rate = await _bare_rate(bare, method, argument, _count(session, name))
                    rates.setdefault(f"{name} {method}", {}).setdefault("none", {})[turn] = rate
                    session.say(f"P3, round {turn + 1}: {name} {method}: {rate:,.0f} /s with no pool at all")
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


def findings(result: dict[str, Any]) -> list[Finding]:
    """P3: what is slept takes no processor from the caller; what is spun shares the cores with it."""
    used = result["utilisation"]
    claims = {
        "1 ms sleep": (0.95, "utilisation, calls of 1 ms that sleep"),
        "10 ms sleep": (0.99, "utilisation, calls of 10 ms that sleep"),
        "1 ms spin": (0.95, "utilisation, calls of 1 ms that spin"),
        "10 ms spin": (0.99, "utilisation, calls of 10 ms that spin"),
    }
    return [
        at_least("P3", claim, limit, list(used.get(load, {}).get("express", {}).values()), "")
        for load, (limit, claim) in claims.items()
    ]


def rate_against_bare(result: dict[str, Any], load: str, key: str) -> float | None:
    """The calls a second against those with no pool at all; None if one of them was not measured."""
    rates = result["rate"].get(load, {})
    if not rates.get(key) or not rates.get("none"):
        return None
    return quantile(list(rates[key].values()), 0.5) / quantile(list(rates["none"].values()), 0.5)
