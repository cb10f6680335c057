"""P8: the time until N workers are ready, against creating N bare actors."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from bench.contenders.lanes import Express, Freight
from bench.contenders.plain_ray import DirectCalls
from bench.samples import ratios
from bench.session import Absent, Session
from bench.targets import Finding, at_most

if TYPE_CHECKING:
    from bench.contenders.contender import Contender

KINDS: Final[tuple[type[Contender], ...]] = (Express, Freight, DirectCalls)
SETTLE: Final = 1.5
"""Seconds between two starts, in which Ray ends the processes of the last one."""


async def measure(session: Session) -> dict[str, Any]:
    """Start and end each kind with each number of workers."""
    session.start_ray()
    imports = [await _import() for _ in range(session.choose(9, 3))]
    seconds: dict[str, dict[str, dict[int, float]]] = {}
    for turn in range(session.choose(3, 1)):
        for workers in (1, 2, 4, 8) if not session.quick else (1, 4):
            for kind in session.in_turn(KINDS, turn + workers):
                with contextlib.suppress(Absent):
                    await asyncio.sleep(SETTLE)
                    began = time.perf_counter()
                    async with session.visit(kind, workers):
                        took = time.perf_counter() - began
                    seconds.setdefault(kind.key, {}).setdefault(str(workers), {})[turn] = took
                    session.say(f"P8, round {turn + 1}: {workers} workers in {took:5.2f} s  {kind.label}")
    return {"seconds": seconds, "import": imports}


async def _import() -> float:
    """Seconds that `import poise` takes a Python that has just started."""
    code = "import time; began = time.perf_counter(); import poise; print(time.perf_counter() - began)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return float(output)


def findings(result: dict[str, Any]) -> list[Finding]:
    """P8."""
    seconds = result["seconds"]
    found: list[Finding] = []
    for workers, by_turn in seconds.get("express", {}).items():
        against_bare = ratios(by_turn, seconds.get("ray", {}).get(workers, {}))
        limit = 1.1 if workers == "2" else 1.2
        found.append(at_most("P8", f"time until {workers} workers are ready, against bare actors", limit, against_bare))
    found.append(at_most("P8", "import poise", 60.0, [each * 1e3 for each in result.get("import", [])], " ms"))
    return found
