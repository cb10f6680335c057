"""What each policy costs, off and on: `python -m bench policies`.

Pools of the same two workers, alike but for one policy, whose bounds are so wide that it never has to act. All are
open at once and take turns, so that what the machine does meanwhile hits all of them; "off" is there twice, which shows
how far two equals are apart.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import time
import tracemalloc
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import poise
import poise.events
from bench.report import Table
from bench.session import own_ray

if TYPE_CHECKING:
    Plain = poise.View[None]

WORKERS: Final = 2
MEASURED: Final = 10_000
"""Waiting calls whose memory is compared."""
SAME: Final = {"size": WORKERS, "min_ready": WORKERS}
NEVER: Final = 10**9


def echo(value: int) -> int:
    """What each call runs."""
    return value


def stand(seconds: float) -> None:
    """Hold a worker for a moment."""
    time.sleep(seconds)


@poise.batched(max=32)
def echo_all(values: list[int]) -> list[int]:
    """The same for what waits at that moment."""
    return values


def check() -> None:
    """Find nothing wrong."""


class Listener(poise.Observer):
    """Counts the calls that have ended."""

    def __init__(self) -> None:
        """Have counted none."""
        self.ended = 0

    def call_ended(self, event: poise.events.CallEnded, /) -> None:  # noqa: ARG002 (as it is called)
        """One more."""
        self.ended += 1


class Contender(NamedTuple):
    """A pool with one policy, and how calls are made on it."""

    options: dict[str, Any]
    call_options: tuple[dict[str, Any], ...] = ({},)
    """Those of the calls, which take turns."""
    function: Any = echo

    def views(self, view: Plain) -> list[Plain]:
        """Ten, so that none of the contenders has fewer to choose from."""
        given = self.call_options
        return [view.options(**given[number % len(given)]) if given[0] else view for number in range(10)]


CONTENDERS: Final = {
    "off": Contender({}),
    "off, once more": Contender({}),
    "recycle: calls, age and memory": Contender(
        {"recycle": poise.Recycle(calls=NEVER, age=1e6, memory="100GiB")},
    ),
    "retries=2, under the budget": Contender({}, ({"retries": 2},)),
    "tenant: one": Contender({}, ({"tenant": "a"},)),
    "tenant: one of ten": Contender({"backlog_per_tenant": NEVER}, tuple({"tenant": n} for n in range(10))),
    "key: one of ten": Contender({}, tuple({"key": n} for n in range(10))),
    "batched": Contender({}, function=echo_all),
    "health: a check, and failures": Contender({"health": poise.Health(check, every=1e6, counts=LookupError)}),
    "elastic size": Contender({"size": poise.Elastic(WORKERS, WORKERS + 1, idle=1e6)}),
    "an observer of calls' ends": Contender({"observers": [Listener()]}),
    'logs="forward"': Contender({"logs": "forward"}),
}


async def together(view: Plain, contender: Contender, calls: int) -> float:
    """Calls a second, awaited together."""
    views = contender.views(view)
    began = time.perf_counter()
    await asyncio.gather(*(views[number % 10].submit(contender.function, number) for number in range(calls)))
    return calls / (time.perf_counter() - began)


async def alone(view: Plain, contender: Contender, calls: int) -> float:
    """The median time of one call after the other, in seconds."""
    own = contender.views(view)[0]
    times: list[float] = []
    for number in range(calls):
        began = time.perf_counter()
        await own.submit(contender.function, number)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


async def waiting_bytes(view: Plain, contender: Contender) -> float:
    """Bytes that one waiting call takes, the future that its caller holds among them."""
    views = contender.views(view)
    held = [view.submit(stand, 1.0) for _ in range(WORKERS)]
    warm = [each.submit(contender.function, 0) for each in views]
    gc.collect()
    tracemalloc.start()
    calls = [views[number % 10].submit(contender.function, 1) for number in range(MEASURED)]
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    await asyncio.gather(*held, *warm, *calls)
    return taken / MEASURED


async def measure(rounds: int, calls: int) -> Table:
    """Let the contenders take turns."""
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    sizes: dict[str, float] = {}
    async with AsyncExitStack() as stack:
        pools = {
            name: await stack.enter_async_context(poise.Pool(**{**SAME, **contender.options}))
            for name, contender in CONTENDERS.items()
        }
        for name, contender in CONTENDERS.items():
            await together(pools[name], contender, calls // 10)
            sizes[name] = await waiting_bytes(pools[name], contender)
        for turn in range(rounds):
            names = list(CONTENDERS)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                rates[name].append(await together(pools[name], CONTENDERS[name], calls))
                times[name].append(await alone(pools[name], CONTENDERS[name], calls // 20))
    return Table(
        "Two workers, an echo; as a part of what it is with all policies off in the same round",
        ["policy", "calls a second", "", "one call", "", "a waiting call"],
        [_row(name, rates, times, sizes) for name in CONTENDERS],
    )


def _row(name: str, rates: dict[str, list[float]], times: dict[str, list[float]], sizes: dict[str, float]) -> list[str]:
    rate, time_of_one = statistics.median(rates[name]), statistics.median(times[name])
    return [
        name,
        f"{rate:,.0f}",
        f"{_ratio(rates[name], rates['off']):.2f}",
        f"{time_of_one * 1e6:.0f} us",
        f"{_ratio(times[name], times['off']):.2f}",
        f"{sizes[name]:.0f} B",
    ]


def _ratio(figures: list[float], others: list[float]) -> float:
    """The median of what they are to each other, round by round."""
    return statistics.median(one / other for one, other in zip(figures, others, strict=True))


def main(arguments: list[str]) -> int:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m bench policies", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=10_000, help="awaited together, in each round")
    chosen = parser.parse_args(arguments)
    with own_ray(64):
        print(asyncio.run(measure(chosen.rounds, chosen.calls)).plain())
    return 0
