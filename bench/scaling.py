"""A pool and Ray Serve that follow the load, and pools that do not: `python -m bench scaling`.

The recorded arrivals are replayed in a minute; each call takes as long as its tokens say. What is compared is how long
callers wait and how many seconds of workers that took, those in which a worker starts among them.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import poise
from bench import loads
from bench.report import Table
from bench.samples import quantile
from bench.session import own_ray

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    Call = Callable[[float], Awaitable[object]]
    Count = Callable[[], Awaitable[int]]

MOST: Final = 4
IDLE: Final = 5.0
"""Seconds that a worker or a replica may be idle, or is not wanted, before it ends."""
LOOK_EVERY: Final = 0.1
CALLS: Final = 2000


class Napper:
    """Waits for something that is not here: a device, or another machine."""

    def nap(self, seconds: float) -> None:
        """One call."""
        time.sleep(seconds)


@asynccontextmanager
async def pool(size: Any) -> AsyncGenerator[tuple[Call, Count]]:
    """A pool of this size, or within these bounds."""
    async with poise.Pool(Napper, size=size) as opened:

        async def count() -> int:
            stats = opened.stats()
            return stats.ready + stats.starting

        yield lambda seconds: opened.run(Napper.nap, seconds), count


@asynccontextmanager
async def serve() -> AsyncGenerator[tuple[Call, Count]]:
    """Serve, with as many replicas as calls go on, and as quick as its settings allow.

    Raises:
        ImportError: it is not installed.
    """
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    deployment: Any = serve.deployment(
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": MOST,
            "target_ongoing_requests": 1,
            "metrics_interval_s": 0.1,
            "look_back_period_s": 0.5,
            "upscale_delay_s": 0.1,
            "downscale_delay_s": IDLE,
        },
        max_ongoing_requests=1,
        ray_actor_options={"num_cpus": 0},
        logging_config={"log_level": "ERROR", "enable_access_log": False},
    )(Napper)
    handle = await asyncio.to_thread(serve.run, deployment.bind(), name="scaling", route_prefix=None)

    def replicas() -> int:
        states = serve.status().applications["scaling"].deployments["Napper"].replica_states
        return sum(count for state, count in states.items() if state in {"RUNNING", "STARTING"})

    async def call(seconds: float) -> None:
        await handle.nap.remote(seconds)

    try:
        yield call, lambda: asyncio.to_thread(replicas)
    finally:
        await asyncio.to_thread(serve.shutdown)


async def replay(call: Call, count: Count, load: loads.Load) -> list[str]:
    """Have each call come when it is due; what that came to."""
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    used = most = 0.0

    async def one(due: float, seconds: float) -> None:
        await call(seconds)
        latencies.append(loop.time() - due)

    async def look() -> None:
        nonlocal used, most
        before = loop.time()
        while True:
            workers = await count()
            now = loop.time()
            used += workers * (now - before)
            most = max(most, workers)
            before = now
            await asyncio.sleep(LOOK_EVERY)

    start = loop.time()
    looking = asyncio.create_task(look())
    async with asyncio.TaskGroup() as calls:
        for arrival, seconds in zip(load.arrivals, load.services, strict=True):
            await asyncio.sleep(start + arrival - loop.time())
            calls.create_task(one(start + arrival, seconds))
    looking.cancel()
    await asyncio.wait([looking])
    if not looking.cancelled():
        looking.result()  # it has failed
    latencies.sort()
    return [
        f"{1e3 * sum(latencies) / len(latencies):.0f} ms",
        f"{1e3 * quantile(latencies, 0.5):.0f} ms",
        f"{1e3 * quantile(latencies, 0.99):.0f} ms",
        f"{used:.0f}",
        f"{most:.0f}",
    ]


async def measure(seconds: float, rounds: int) -> Table:
    """Replay for each contender in turn."""
    load = loads.recorded(CALLS, 1)
    part = seconds / load.arrivals[-1]
    load = loads.Load(load.name, [arrival * part for arrival in load.arrivals], load.services)
    contenders: dict[str, Any] = {
        f"poise, (1, {MOST}) workers": partial(pool, poise.Elastic(1, MOST, idle=IDLE)),
        f"poise, (0, {MOST}) workers": partial(pool, poise.Elastic(0, MOST, idle=IDLE)),
        f"Ray Serve, 1 to {MOST} replicas": serve,
        **{f"poise, {size} workers": partial(pool, size) for size in (1, 2, MOST)},
    }
    rows: list[list[str]] = []
    for turn in range(rounds):
        for name, contender in contenders.items():
            print(f"round {turn + 1}: {name}", file=sys.stderr, flush=True)
            try:
                async with contender() as (call, count):
                    rows.append([name, *await replay(call, count, load)])
            except ImportError as error:
                print(f"no {name}: {str(error).partition('. ')[0]}", file=sys.stderr)
    title = f"{CALLS:,} calls in {seconds:.0f} s, {sum(load.services):.0f} s of work"
    return Table(title, ["", "mean", "median", "99 of 100 within", "seconds of workers", "most workers"], rows)


def main(arguments: list[str]) -> int:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m bench scaling", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of load for each contender, in each round")
    parser.add_argument("--rounds", type=int, default=1)
    chosen = parser.parse_args(arguments)
    with own_ray(16):
        print(asyncio.run(measure(chosen.seconds, chosen.rounds)).plain())
    return 0
