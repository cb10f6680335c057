"""`poise bench`: tiny calls on this machine, beside what else is at hand."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import click

import poise

TOGETHER: Final = 1000
"""Calls that are awaited together."""
WARM_UP: Final = 200

Submit = Callable[[int], Awaitable[int]]


def echo(value: int) -> int:
    """What is called."""
    return value


class Echo:
    """What workers hold."""

    def echo(self, value: int) -> int:
        """Give it back."""
        return value


@dataclass(frozen=True)
class Result:
    """What was measured of one of them."""

    name: str
    throughput: float
    """Calls in a second, many awaited together."""
    latency: float
    """Median seconds of a call, one at a time."""


def compare(workers: int, seconds: float) -> None:
    """Measure all of them and print a table.

    Args:
        workers: in each of them.
        seconds: for each measurement.
    """
    results: list[Result] = []
    # The process pool first, while no Ray runs beside it.
    for name, measure in (("ProcessPoolExecutor", _process_pool), ("Ray actor calls", _ray), ("poise", _poise)):
        click.echo(f"measuring {name} ...", err=True)
        results.append(asyncio.run(measure(name, workers, seconds)))
    _print(results, workers)


async def _poise(name: str, workers: int, seconds: float) -> Result:
    async with poise.Pool(Echo, size=workers, min_ready=workers) as pool:
        return await _measure(name, lambda x: pool.submit(Echo.echo, x), seconds)


async def _ray(name: str, workers: int, seconds: float) -> Result:
    import ray

    # A pool of no use but that it starts or joins Ray as every pool does, and leaves nothing.
    async with poise.Pool(size=1):
        remote: Any = ray
        actors = [remote.remote(num_cpus=0)(Echo).remote() for _ in range(workers)]
        await asyncio.gather(*(actor.echo.remote(0) for actor in actors))
        turn = 0

        def submit(value: int) -> Awaitable[int]:
            nonlocal turn
            turn = (turn + 1) % workers
            ref: Awaitable[int] = actors[turn].echo.remote(value)
            return ref

        try:
            return await _measure(name, submit, seconds)
        finally:
            for actor in actors:
                remote.kill(actor)


async def _process_pool(name: str, workers: int, seconds: float) -> Result:
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return await _measure(name, lambda x: loop.run_in_executor(pool, echo, x), seconds)


async def _measure(name: str, submit: Submit, seconds: float) -> Result:
    await _together(submit, WARM_UP)
    count, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        count += await _together(submit, TOGETHER)
    throughput = count / passed
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (sent := time.perf_counter()) < end or not times:
        await submit(0)
        times.append(time.perf_counter() - sent)
    return Result(name, throughput, statistics.median(times))


async def _together(submit: Submit, count: int) -> int:
    answers = await asyncio.gather(*(submit(number) for number in range(count)))
    assert answers == list(range(count))
    return count


def _print(results: list[Result], workers: int) -> None:
    own = next(result for result in results if result.name == "poise")
    click.echo(f"\n{workers} workers, a call that gives back an integer\n")
    click.echo(f"{'':20} {'calls awaited together':>24} {'poise is':>10} {'one at a time':>16} {'poise is':>10}")
    for result in sorted(results, key=lambda result: -result.throughput):
        faster, sooner = own.throughput / result.throughput, result.latency / own.latency
        ratios = ("", "") if result is own else (f"{faster:.1f} x", f"{sooner:.1f} x")
        click.echo(
            f"{result.name:20} {result.throughput:>22,.0f}/s {ratios[0]:>10} "
            f"{result.latency * 1000:>13.3f} ms {ratios[1]:>10}"
        )
