"""A scikit-learn model that gets its inputs one by one: `python -m bench batching`.

The same forest, on as many processes, behind a pool with and without `poise.batched` and behind Ray Serve with
`@serve.batch` if that is installed. Clients call one value after the other. The contenders take turns, so that what
the machine does meanwhile hits all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import statistics
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

import poise
from bench.contenders.serve import deploy
from bench.report import Table

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from numpy.typing import NDArray

    Predict = Callable[[NDArray[Any]], Awaitable[int]]

WORKERS: Final = 1
MOST: Final = 32
CLIENTS: Final = (1, 8, 64)
SERVE_WAIT: Final = 0.01
"""Seconds, as Serve has it unless told otherwise."""


class Forest:
    """Says which digit an image shows: for thirty images it needs little longer than for one."""

    def __init__(self) -> None:
        """Learn to."""
        images, digits = load_digits(return_X_y=True)
        self.model = RandomForestClassifier(100, random_state=0).fit(images, digits)

    def predict(self, image: NDArray[Any]) -> int:
        """One image."""
        return int(self.model.predict([image])[0])

    @poise.batched(max=MOST)
    def predict_batch(self, images: list[NDArray[Any]]) -> list[int]:
        """Those that have come meanwhile."""
        digits: list[int] = self.model.predict(np.stack(images)).tolist()
        return digits

    @poise.batched(max=MOST, wait=SERVE_WAIT)
    def predict_patiently(self, images: list[NDArray[Any]]) -> list[int]:
        """Those, and what comes within the time that Serve waits."""
        digits: list[int] = self.model.predict(np.stack(images)).tolist()
        return digits


@asynccontextmanager
async def pool() -> AsyncGenerator[dict[str, Predict]]:
    """The pool's three ways."""
    async with poise.Pool(Forest, size=WORKERS) as opened:
        yield {
            "poise, one by one": lambda image: opened.run(Forest.predict, image),
            "poise.batched": lambda image: opened.run(Forest.predict_batch, image),
            f"poise.batched, wait={SERVE_WAIT}": lambda image: opened.run(Forest.predict_patiently, image),
        }


@asynccontextmanager
async def serve() -> AsyncGenerator[dict[str, Predict]]:
    """Serve's two ways; none if it is not installed."""
    try:
        from ray import serve
    except ImportError as error:
        print(f"no Ray Serve: {str(error).partition('. ')[0]}", file=sys.stderr)
        yield {}
        return
    logging.getLogger("ray.serve").setLevel(logging.ERROR)

    def served(wait: float) -> Any:
        class Deployed(Forest):
            @serve.batch(max_batch_size=MOST, batch_wait_timeout_s=wait)
            async def predict_served(self, images: list[NDArray[Any]]) -> list[int]:
                return [int(digit) for digit in self.model.predict(np.stack(images))]

        return deploy(serve, Deployed, WORKERS, f"wait-{wait}")

    handles = {wait: await asyncio.to_thread(served, wait) for wait in (0.0, SERVE_WAIT)}

    def calling(handle: Any) -> Any:
        async def call(image: NDArray[Any]) -> int:
            digit: int = await handle.predict_served.remote(image)
            return digit

        return call

    try:
        yield {f"@serve.batch, {wait} s": calling(handle) for wait, handle in handles.items()}
    finally:
        await asyncio.to_thread(serve.shutdown)


async def load(predict: Any, images: NDArray[Any], clients: int, seconds: float) -> list[float]:
    """Let so many clients call for so long; the time that each call took."""
    until = time.perf_counter() + seconds
    times: list[float] = []

    async def client(number: int) -> None:
        while (began := time.perf_counter()) < until:
            await predict(images[number % len(images)])
            times.append(time.perf_counter() - began)

    await asyncio.gather(*(client(number) for number in range(clients)))
    return times


async def measure(rounds: int, seconds: float) -> list[Table]:
    """Let the contenders take turns; a table for each number of clients."""
    images = load_digits().data
    measured: dict[tuple[int, str], list[tuple[float, float, float]]] = {}
    async with pool() as ours, serve() as theirs:
        contenders = {**ours, **theirs}
        for predict in contenders.values():
            await load(predict, images, 8, 1.0)
        for _ in range(rounds):
            for clients in CLIENTS:
                for name, predict in contenders.items():
                    times = sorted(await load(predict, images, clients, seconds))
                    figures = len(times) / seconds, times[len(times) // 2], times[int(len(times) * 0.99)]
                    measured.setdefault((clients, name), []).append(figures)
    return [
        Table(
            f"{clients} clients" if clients > 1 else "1 client",
            ["", "calls a second", "median", "99 of 100 within"],
            [_row(name, measured[clients, name]) for name in contenders],
        )
        for clients in CLIENTS
    ]


def _row(name: str, figures: list[tuple[float, float, float]]) -> list[str]:
    rate, median, tail = (statistics.median(each) for each in zip(*figures, strict=True))
    return [name, f"{rate:,.0f}", f"{median * 1e3:.1f} ms", f"{tail * 1e3:.1f} ms"]


def main(arguments: list[str]) -> int:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m bench batching", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load for each contender, in each round")
    chosen = parser.parse_args(arguments)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns of a change of its own to come
    for table in asyncio.run(measure(chosen.rounds, chosen.seconds)):
        print(table.plain(), end="\n\n")
    return 0
