"""What each policy costs, off and on: `python -m bench policies`.

Pools of two workers, alike but for one policy, whose bounds are so wide that it never has to act. All are open at once
and take short turns, so that what the machine does meanwhile hits all of them; "off" is there twice, which shows how
far two equals are apart. What the caller's process executes for a call is counted too, which no machine disturbs.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import time
import tracemalloc
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import poise
import poise.events
from bench.report import Table
from bench.session import own_ray

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType

    Plain = poise.View[None]

WORKERS: Final = 2
MEASURED: Final = 10_000
"""Waiting calls whose memory is compared."""
COUNTED: Final = 100
"""Lone calls whose bytecodes are counted."""
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
    then: Callable[[poise.Pool[None]], object] = id
    """What is done with the pool before it is opened."""

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


class Turn(NamedTuple):
    """What a contender has done in one round."""

    rate: float
    """Calls a second, awaited together."""
    processor: float
    """Seconds of the caller's thread for one of them."""
    time: float
    """The median time of one call after the other, in seconds."""


async def turn(view: Plain, contender: Contender, calls: int) -> Turn:
    """Let a contender have its turn."""
    views = contender.views(view)
    gc.collect()
    began, used = time.perf_counter(), time.thread_time()
    await asyncio.gather(*(views[number % 10].submit(contender.function, number) for number in range(calls)))
    took, used = time.perf_counter() - began, time.thread_time() - used
    return Turn(calls / took, used / calls, await alone(view, contender, calls // 20))


async def alone(view: Plain, contender: Contender, calls: int) -> float:
    """The median time of one call after the other, in seconds."""
    own = contender.views(view)[0]
    times: list[float] = []
    for number in range(calls):
        began = time.perf_counter()
        await own.submit(contender.function, number)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


async def bytecodes(view: Plain, contender: Contender) -> float:
    """What the caller's thread executes in Python for one call after the other: the median, in bytecodes."""
    own = contender.views(view)[0]
    counted = 0

    def count(frame: FrameType, event: str, _: object) -> Any:
        nonlocal counted
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counted += event == "opcode"
        return count

    counts: list[int] = []
    for number in range(COUNTED):
        before = counted
        sys.settrace(count)
        try:
            await own.submit(contender.function, number)
        finally:
            sys.settrace(None)
        counts.append(counted - before)
    return statistics.median(counts)


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


async def measure(contenders: Mapping[str, Contender], rounds: int, calls: int) -> Table:
    """Let the contenders take turns; the first of them has everything off."""
    off, *_ = names = list(contenders)
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    exact: dict[str, tuple[float, float]] = {}
    async with AsyncExitStack() as stack:
        pools: dict[str, poise.Pool[None]] = {}
        for name, contender in contenders.items():
            pools[name] = poise.Pool(**{**SAME, **contender.options})
            contender.then(pools[name])
            await stack.enter_async_context(pools[name])
        for name, contender in contenders.items():
            await turn(pools[name], contender, calls)
            exact[name] = await bytecodes(pools[name], contender), await waiting_bytes(pools[name], contender)
        for number in range(rounds):
            start = number % len(names)
            for name in names[start:] + names[:start]:
                turns[name].append(await turn(pools[name], contenders[name], calls))
    return Table(
        f"Two workers, an echo; as a part of what {off!r} has in the same round",
        ["pool", "calls a second", "", "caller's processor", "", "one call", "", "bytecodes of it", "a waiting call"],
        [_row(name, turns[name], turns[off], *exact[name]) for name in contenders],
    )


def _row(name: str, own: list[Turn], off: list[Turn], executed: float, size: float) -> list[str]:
    rates, processor, times = zip(*own, strict=True)
    off_rates, off_processor, off_times = zip(*off, strict=True)
    return [
        name,
        f"{statistics.median(rates):,.0f}",
        f"{_ratio(rates, off_rates):.2f}",
        f"{statistics.median(processor) * 1e6:.1f} us",
        f"{_ratio(processor, off_processor):.2f}",
        f"{statistics.median(times) * 1e6:.0f} us",
        f"{_ratio(times, off_times):.2f}",
        f"{executed:,.0f}",
        f"{size:.0f} B",
    ]


def _ratio(figures: Sequence[float], others: Sequence[float]) -> float:
    """The median of what they are to each other, round by round."""
    return statistics.median(one / other for one, other in zip(figures, others, strict=True))


def main(arguments: list[str]) -> int:
    """Measure as the arguments say."""
    return compare(CONTENDERS, "policies", __doc__, arguments)


def compare(contenders: Mapping[str, Contender], command: str, what: str | None, arguments: list[str]) -> int:
    """Let these take turns, as the arguments say."""
    parser = argparse.ArgumentParser(prog=f"python -m bench {command}", description=what)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--calls", type=int, default=2_000, help="awaited together, in each round")
    chosen = parser.parse_args(arguments)
    with own_ray(64):
        print(asyncio.run(measure(contenders, chosen.rounds, chosen.calls)).plain())
    return 0
