"""One pool for several processes: `python -m bench shared`.

What one call costs through a shared pool's owner, beside an own pool, a plain Ray call and Ray Serve's handle if that
is installed, called one after the other from one process; and how many calls a second one process and four make
together. The contenders take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import ray

import poise
from bench.contenders.serve import deploy
from bench.report import Table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Call = Callable[[int], Awaitable[Any]]

WORKERS: Final = 2
CLIENTS: Final = 4
NAME: Final = "bench"

_ray: Any = ray


class Echo:
    """What the workers hold."""

    def echo(self, value: int) -> int:
        """Give it back."""
        return value


async def latencies(call: Call, count: int) -> list[float]:
    """Seconds that each of so many calls takes, one after the other."""
    times: list[float] = []
    for number in range(count):
        began = time.perf_counter()
        await call(number)
        times.append(time.perf_counter() - began)
    return times


async def together(pool: poise.Pool[Any], seconds: float) -> float:
    """Calls a second, a hundred of them under way at a time."""
    until = time.perf_counter() + seconds
    done = 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await pool.run(Echo.echo, 1)
            done += 1

    await asyncio.gather(*(caller() for _ in range(100)))
    return done / seconds


def _client(address: str, seconds: float, gate: Any, figures: Any) -> None:  # a process of its own
    async def use() -> None:
        async with poise.Pool.join(NAME, ray_init={"address": address, "log_to_driver": False}) as pool:
            await together(pool, 0.5)
            await asyncio.to_thread(gate.wait)
            figures.put(await together(pool, seconds))

    asyncio.run(use())


def of_clients(count: int, seconds: float) -> float:
    """Calls a second that so many processes make through the shared pool."""
    spawn = multiprocessing.get_context("spawn")
    gate, figures = spawn.Barrier(count), spawn.Queue()
    address = _ray.get_runtime_context().gcs_address
    clients = [spawn.Process(target=_client, args=(address, seconds, gate, figures)) for _ in range(count)]
    for client in clients:
        client.start()
    rate: float = sum(figures.get() for _ in clients)
    for client in clients:
        client.join()
    return rate


def _served() -> Call | None:
    """Ray Serve's handle, if that is installed."""
    try:
        from ray import serve
    except ImportError as error:
        print(f"no Ray Serve: {str(error).partition('. ')[0]}", file=sys.stderr)
        return None
    handle = deploy(serve, Echo, WORKERS, NAME)

    async def call(value: int) -> Any:
        return await handle.echo.remote(value)

    return call


async def measure(rounds: int, calls: int, seconds: float) -> list[Table]:
    """Let the contenders take turns."""
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(poise.Pool(Echo, size=WORKERS, min_ready=WORKERS))
        shared = await stack.enter_async_context(poise.Pool.shared(NAME, Echo, size=WORKERS, min_ready=WORKERS))
        actor = _ray.remote(Echo).remote()
        contenders: dict[str, Call | None] = {
            "an own pool": lambda value: own.run(Echo.echo, value),
            "a shared pool": lambda value: shared.run(Echo.echo, value),
            "Ray, `await actor.method.remote()`": actor.echo.remote,
            "Ray Serve's handle": await asyncio.to_thread(_served),
        }
        times: dict[str, list[float]] = {name: [] for name, call in contenders.items() if call is not None}
        for _ in range(rounds):
            for name in times:
                times[name] += await latencies(contenders[name], calls)  # type: ignore[arg-type]
        rates = {"an own pool, 1 process": await together(own, seconds)}
        for count in (1, CLIENTS):
            rates[f"a shared pool, {count} process{'es' if count > 1 else ''}"] = await asyncio.to_thread(
                of_clients, count, seconds
            )
    return [_latency_table(times), Table("Calls together", ["", "calls a second"], _rows(rates))]


def _rows(rates: dict[str, float]) -> Sequence[list[str]]:
    return [[name, f"{rate:,.0f}"] for name, rate in rates.items()]


def _latency_table(times: dict[str, list[float]]) -> Table:
    own = statistics.median(times["an own pool"])
    rows: list[list[str]] = []
    for name, each in times.items():
        p50, p99 = statistics.median(each), sorted(each)[int(len(each) * 0.99)]
        rows.append([name, f"{p50 * 1e6:,.0f} us", f"{p99 * 1e6:,.0f} us", f"{(p50 - own) * 1e6:+,.0f} us"])
    return Table("One call after the other", ["", "median", "99 of 100 within", "beside an own pool"], rows)


def main(arguments: list[str]) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench shared", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="turns of each contender (%(default)s)")
    parser.add_argument("--calls", type=int, default=200, help="calls in a turn (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each throughput (%(default)s)")
    chosen = parser.parse_args(arguments)
    _ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        for table in asyncio.run(measure(chosen.rounds, chosen.calls, chosen.seconds)):
            print(table.plain(), end="\n\n")
    finally:
        _ray.shutdown()
    return 0
