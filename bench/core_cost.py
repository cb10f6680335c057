"""P5: the scheduler alone: what a decision costs and what a waiting call takes, against how many there are.

Run as a module it prints its figures as JSON: `measure` does that in a process of its own, whose memory is its own.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from bench.samples import quantile
from bench.targets import Finding, at_most
from poise._answers import RETURNED, Answer
from poise._core.calls import CallRecord
from poise._core.effects import Send, Start
from poise._core.pace import AHEAD_CALLS
from poise._core.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.session import Session
    from poise._core.effects import Effect

SERVICE: Final = 20e-6
"""Seconds that each call takes on the simulated clock."""
SAME: Final = 1.5
"""A decision "costs the same" up to this ratio: what is left above 1 is the processor's caches, not the algorithm."""


class Model:
    """A scheduler whose workers answer when they are told to, on a clock of its own."""

    def __init__(self, workers: int, *, sends_ahead: bool) -> None:
        """Have all workers ready, idle and measured."""
        self.now = 0.0
        self.waiting = 0
        self._next_id = 0
        self._held: deque[tuple[int, int]] = deque()
        self._step = SERVICE / workers
        self.scheduler = Scheduler(size=workers, backlog=None)
        for effect in self.scheduler.open(self.now):
            if isinstance(effect, Start):
                most = AHEAD_CALLS if sends_ahead else 0
                self._take(self.scheduler.worker_ready(effect.worker_id, self.now, most_ahead=most))
        for _ in range(2 * workers):  # so that the function's pace is known
            self.submit()
        while self.waiting or self._held:
            self.finish()

    def submit(self) -> None:
        """One more call."""
        self._next_id += 1
        self.waiting += 1
        self._take(self.scheduler.submit(CallRecord(self._next_id, "f", name="f"), self.now))

    def finish(self) -> None:
        """The call that has been on its worker for longest ends."""
        worker_id, call_id = self._held.popleft()
        self.now += self._step
        ended = Answer(call_id, RETURNED, None, SERVICE)
        self._take(self.scheduler.finished(worker_id, (ended,), self.now))

    def fill(self, waiting: int) -> None:
        """Submit until so many wait."""
        while self.waiting < waiting:
            self.submit()

    def decisions(self, count: int) -> float:
        """Seconds of one decision: a call ends, the next is given to its worker, and another one comes."""
        began = time.perf_counter()
        for _ in range(count):
            self.finish()
            self.submit()
        return (time.perf_counter() - began) / count

    def _take(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if type(effect) is Send:
                self.waiting -= len(effect.calls)
                for call in effect.calls:
                    self._held.append((effect.worker_id, call.id))


def cost(waiting: int, workers: int, *, sends_ahead: bool, decisions: int) -> dict[str, Any]:
    """The cost of a decision with so many waiting calls and workers, collector included."""
    model = Model(workers, sends_ahead=sends_ahead)
    model.fill(waiting)
    gc.collect()
    model.decisions(decisions // 4)
    seconds = [model.decisions(decisions) for _ in range(5)]
    return {"waiting": waiting, "workers": workers, "sends_ahead": sends_ahead, "seconds": seconds}


def core_bytes(waiting: int) -> float:
    """Memory of one waiting call in the core, by what the process has grown."""
    model = Model(4, sends_ahead=True)
    gc.collect()
    before = _resident()
    model.fill(waiting)
    return (_resident() - before) / waiting


async def pool_bytes(waiting: int) -> float:
    """Memory of one waiting call in a whole pool: its future, its arguments and its record."""
    from poise.testing import LocalPool

    gate = threading.Event()
    pool = LocalPool(lambda: gate, size=1, backlog=None)
    await pool.open()
    blocker = pool.submit("wait")
    await asyncio.sleep(0.1)
    gc.collect()
    before = _resident()
    calls = [pool.submit("wait", 1.5) for _ in range(waiting)]
    size = (_resident() - before) / waiting
    gate.set()
    await blocker
    if waiting <= 10_000:  # else the process ends here, which is the quicker way to give up a million calls
        await asyncio.gather(*calls)
        await pool.aclose()
    return size


def _resident() -> int:
    import psutil

    size: int = psutil.Process().memory_info().rss
    return size


def grid(*, quick: bool) -> list[tuple[int, int]]:
    """Pairs of waiting calls and workers: along each axis with the other at its ends."""
    most = 100_000 if quick else 1_000_000
    sizes = [10**power for power in range(1, 7, 2 if quick else 1) if 10**power <= most]
    pairs = [(waiting, workers) for workers in (4, 1000) for waiting in sizes]
    pairs += [(waiting, workers) for workers in (30, 100, 300) for waiting in (10, 100_000) if not quick]
    return pairs


async def measure(session: Session) -> dict[str, Any]:
    """Run this module in processes of its own."""
    result: dict[str, Any] = {"costs": []}
    for what in ("costs", "core", "pool"):
        session.say(f"P5: {what}")
        command = [sys.executable, "-m", "bench.core_cost", what, *(["--quick"] if session.quick else [])]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            session.trouble(f"P5 {what}", f"ended with {process.returncode}")
            continue
        result.update(json.loads(output))
    for each in result["costs"]:
        seconds = quantile(each["seconds"], 0.5)
        ahead = "sent ahead" if each["sends_ahead"] else "late bound"
        session.say(f"P5: {each['waiting']:9,} waiting, {each['workers']:5} workers, {ahead}: {seconds * 1e6:6.2f} us")
    return result


def findings(result: dict[str, Any]) -> list[Finding]:
    """P5."""
    costs = {
        (each["waiting"], each["workers"], each["sends_ahead"]): quantile(each["seconds"], 0.5)
        for each in result["costs"]
    }
    most = max((waiting for waiting, _, _ in costs), default=0)
    modes = sorted({ahead for _, _, ahead in costs})
    by_waiting = [costs[most, 4, ahead] / costs[10, 4, ahead] for ahead in modes]
    by_workers = [costs[10, 1000, ahead] / costs[10, 4, ahead] for ahead in modes]
    return [
        at_most(
            "P5",
            "bytes of a waiting call in the whole pool, future and arguments too",
            1024,
            _present(result, "pool_bytes"),
            " B",
        ),
        at_most("P5", "bytes of a waiting call in the core", 1024, _present(result, "core_bytes"), " B"),
        at_most("P5", f"cost of a decision with {most:,} waiting against 10", SAME, by_waiting),
        at_most("P5", "cost of a decision with 1,000 workers against 4", SAME, by_workers),
    ]


def _present(result: dict[str, Any], key: str) -> list[float]:
    return [result[key]] if key in result else []


def main() -> None:
    """Print one part of the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["costs", "core", "pool"])
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    most = 100_000 if chosen.quick else 1_000_000
    if chosen.what == "costs":
        decisions = 2_000 if chosen.quick else 20_000
        costs = [
            cost(waiting, workers, sends_ahead=ahead, decisions=decisions)
            for ahead in (False, True)
            for waiting, workers in grid(quick=chosen.quick)
        ]
        print(json.dumps({"costs": costs}))
    elif chosen.what == "core":
        print(json.dumps({"core_bytes": core_bytes(most), "waiting": most}))
    else:
        print(json.dumps({"pool_bytes": asyncio.run(pool_bytes(most))}))
    sys.stdout.flush()
    os._exit(0)  # giving up a million objects one by one takes seconds


if __name__ == "__main__":
    main()
