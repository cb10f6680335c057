"""P6: arrays of 1 KB to 100 MB there and back, by each lane, and by a plain Ray call; and other large values."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import ray

import poise
from bench import kinds
from bench.samples import quantile
from bench.session import Absent, Session
from bench.targets import Finding, at_most
from bench.worker import Worker
from poise._protocol import frames, messages

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Echo = Callable[[Any], Awaitable[Any]]
    _Seconds = dict[str, dict[str, dict[int, float]]]
    """Of one call: by the way, the bytes and the turn."""

SIZES: Final = (1_000, 10_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000, 60_000_000, 100_000_000)
QUICK_SIZES: Final = (1_000, 100_000, 1_000_000, 10_000_000, 60_000_000, 100_000_000)
NO_LIMIT: Final = 1 << 40

_ray: Any = ray


def _worker_that_deposits_nothing() -> Worker:
    """Runs in the worker: every result goes over the socket, however large."""
    vars(messages)["DEPOSIT"] = NO_LIMIT
    return Worker()


class _ByRay:
    """Opens the four ways and measures one value on each."""

    def __init__(self) -> None:
        self.express = poise.Pool(Worker, size=1, lane="express")
        self.socket = poise.Pool(_worker_that_deposits_nothing, size=1, lane="express")
        self.freight = poise.Pool(Worker, size=1, lane="freight")
        self.actor: Any = None

    async def open(self) -> dict[str, Echo]:
        """Open them; `close` ends whatever was opened."""
        for pool in (self.express, self.socket, self.freight):
            await pool.open()
        self.actor = _ray.remote(Worker).remote()
        await self.actor.echo.remote(0)

        async def plain(value: Any) -> Any:
            return await self.actor.echo.remote(value)

        async def socket_only(value: Any) -> Any:
            limit = messages.DEPOSIT
            vars(messages)["DEPOSIT"] = NO_LIMIT
            try:
                return await self.socket.run(Worker.echo, value)
            finally:
                vars(messages)["DEPOSIT"] = limit

        return {
            "express": lambda value: self.express.run(Worker.echo, value),
            "socket": socket_only,
            "freight": lambda value: self.freight.run(Worker.echo, value),
            "ray": plain,
        }

    async def close(self) -> None:
        """End everything."""
        if self.actor is not None:
            _ray.kill(self.actor)
        await asyncio.gather(*[pool.aclose() for pool in (self.express, self.socket, self.freight)])


async def measure(session: Session) -> dict[str, Any]:
    """Each size on each way in turn, in short blocks: arrays first, then other kinds of large values."""
    session.start_ray()
    sizes = SIZES if not session.quick else QUICK_SIZES
    seconds: _Seconds = {}
    others: dict[str, _Seconds] = {}
    by_ray = _ByRay()
    try:
        ways = await by_ray.open()
        for size in sizes:
            some = {name: echo for name, echo in ways.items() if name != "socket" or size < frames.MOST_BYTES}
            await _in_turn(session, some, np.arange(size, dtype=np.uint8), f"{size:11,} bytes", str(size), seconds)
        some = {name: ways[name] for name in ("express", "freight", "ray")}
        for kind, make in kinds.kinds().items():
            for size in kinds.SIZES if not session.quick else kinds.QUICK_SIZES:
                found = others.setdefault(kind, {})
                await _in_turn(session, some, make(size), f"{kind} of {size:,} bytes", str(size), found)
    except (OSError, poise.PoiseError) as error:
        session.trouble("P6", f"failed: {type(error).__name__}: {error}")
        raise Absent from error
    finally:
        await by_ray.close()
    return {"seconds": seconds, "others": others, "deposit": messages.DEPOSIT, "crossover": crossover(seconds)}


async def _in_turn(
    session: Session, ways: dict[str, Echo], value: Any, what: str, size: str, seconds: _Seconds
) -> None:
    """Measure one value on each of these ways, and say what came of it."""
    for echo in ways.values():
        for _ in range(3):
            await echo(value)
    for turn in range(session.choose(5, 3)):
        for name in sorted(ways, reverse=bool(turn % 2)):
            took = await _one_at_a_time(ways[name], value, session.choose(100, 20), 0.15)
            seconds.setdefault(name, {}).setdefault(size, {})[turn] = took
    line = "  ".join(f"{name} {quantile(list(seconds[name][size].values()), 0.5) * 1e3:.3g}" for name in ways)
    session.say(f"P6: {what}, ms: {line}")


async def _one_at_a_time(echo: Echo, value: Any, most: int, seconds: float) -> float:
    """Seconds of one call, the median of a block."""
    took: list[float] = []
    until = time.perf_counter() + seconds
    while len(took) < most and (len(took) < 3 or time.perf_counter() < until):
        began = time.perf_counter()
        result = await echo(value)
        took.append(time.perf_counter() - began)
        # Plain Ray gives `bytes` for a `bytearray`; a pool must not.
        assert type(result) is type(value) or (type(value) is bytearray and type(result) is bytes)
        assert len(result) == len(value)
        del result
    return quantile(took, 0.5)


def crossover(seconds: _Seconds) -> float | None:
    """The size from which on freight is faster than the socket; None if it never is.

    Between two measured sizes both are taken to be straight lines on logarithmic axes.
    """
    sizes = sorted(map(int, seconds.get("socket", {})))
    # Above 0 where the socket is slower.
    excess = [
        math.log(quantile(list(seconds["socket"][str(size)].values()), 0.5))
        - math.log(quantile(list(seconds["freight"][str(size)].values()), 0.5))
        for size in sizes
    ]
    if not excess or excess[-1] <= 0:
        return None
    last_faster = max((place for place, value in enumerate(excess) if value <= 0), default=None)
    if last_faster is None:
        return float(sizes[0])
    low, high = sizes[last_faster], sizes[last_faster + 1]
    part = -excess[last_faster] / (excess[last_faster + 1] - excess[last_faster])
    return float(low * (high / low) ** part)


def findings(result: dict[str, Any]) -> list[Finding]:
    """P6: one line for each size, of arrays and of other kinds."""
    return [
        at_most("P6", f"echo of {what}{int(size):,} bytes against a Ray call", 1.05, against_ray)
        for what, seconds in [
            ("", result["seconds"]),
            *((f"{kind} of ", seconds) for kind, seconds in result.get("others", {}).items()),
        ]
        for size, against_ray in _against_ray(seconds)
    ]


def _against_ray(seconds: _Seconds) -> Iterator[tuple[str, list[float]]]:
    for size, by_turn in seconds.get("express", {}).items():
        yield size, [took / seconds["ray"][size][turn] for turn, took in by_turn.items()]
