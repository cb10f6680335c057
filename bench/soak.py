"""Mixed load for minutes, then a look at what has grown: `python -m bench soak --minutes 10`.

The load is stopped from time to time, so that everything is counted with nothing under way. It exits non-zero if
memory, threads, file descriptors, asyncio tasks or the pool's own counts at the end are not what they were after
warm-up.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import psutil

import poise
from bench.report import Table
from poise.testing import LocalPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

CLIENTS: Final = 40
"""Coroutines that call, each one call after the other."""
MEMORY_GROWTH: Final = 0.05
"""The part by which memory may grow between warm-up and end..."""
MEMORY_SLACK: Final = 8 << 20
"""...and so many bytes more: what an allocator keeps differs from one moment to the next."""
BLOCKS_SLACK: Final = 20_000
"""Python's allocated blocks that may come and go: caches of the interpreter and of Ray, and what an inbox remembers of
recalls and cancellations that came too late, two blocks for each of at most 4,096."""
COUNT_SLACK: Final = 4
"""Threads and file descriptors, in each process, that Ray may have more or fewer of."""


class Wrong(Exception):
    """What `Mixed.fail` raises."""


class Mixed:
    """Does a bit of everything."""

    def echo(self, value: Any) -> Any:
        """A tiny call, or a big one."""
        return value

    def sleep(self, seconds: float) -> None:
        """A long call."""
        time.sleep(seconds)

    async def nap(self, seconds: float) -> None:
        """An asynchronous call."""
        await asyncio.sleep(seconds)

    def fail(self) -> None:
        """Raise, from a frame that holds something."""
        ballast = bytearray(1 << 16)
        raise Wrong("as asked", len(ballast))

    async def keep(self, value: Any, seconds: float) -> int:
        """Hold an argument for a while."""
        await asyncio.sleep(seconds)
        return len(value)

    def hold(self, value: Any, seconds: float) -> int:
        """The same for a call that cannot be stopped."""
        time.sleep(seconds)
        return len(value)

    def trickle(self, items: int) -> Iterator[bytes]:
        """A stream that is slower than whoever reads it."""
        for item in range(items):
            time.sleep(0.002)
            yield bytes(1000 + item)

    def count(self, items: int) -> Iterator[int]:
        """A stream."""
        yield from range(items)

    async def acount(self, items: int) -> AsyncIterator[int]:
        """An asynchronous stream."""
        for item in range(items):
            await asyncio.sleep(0)
            yield item

    def census(self) -> Census:
        """Count what this process holds."""
        return Census.take()


@dataclass(frozen=True, slots=True)
class Census:
    """What one process holds, with nothing under way."""

    pid: int
    memory: int
    """Resident bytes that belong to this process alone."""
    blocks: int
    """Python's allocated memory blocks."""
    threads: int
    descriptors: int

    @classmethod
    def take(cls) -> Census:
        """Count, after giving back what is free."""
        gc.collect()
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        process = psutil.Process()
        memory = process.memory_info()
        own = memory.rss - getattr(memory, "shared", 0)
        return cls(os.getpid(), own, sys.getallocatedblocks(), threading.active_count(), process.num_fds())


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The caller, its workers on average, and the pool."""

    at: float
    """Seconds since the start."""
    calls: int
    caller: Census
    worker_memory: float
    worker_blocks: float
    worker_threads: float
    worker_descriptors: float
    tasks: int
    """Asyncio tasks of the caller."""
    unsettled: int
    """Calls that the pool believes to be under way."""


@dataclass(frozen=True, slots=True)
class Growth:
    """One figure after warm-up and at the end."""

    what: str
    first: float
    last: float
    slack: float

    @property
    def is_fine(self) -> bool:
        """Whether it has not grown by more than it may."""
        return self.last <= self.first + self.slack


class Soak:
    """One pool under mixed load."""

    def __init__(self, pool: poise.Pool[Mixed], *, kills: bool, big: int, seed: int = 0) -> None:
        """Load this pool, which is open.

        Args:
            pool: its workers hold a `Mixed`.
            kills: whether to kill a worker with SIGKILL now and then.
            big: bytes of the big arrays.
            seed: of the choices.
        """
        self.pool = pool
        self.kills = kills
        self.outcomes: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self._array = np.zeros(big, dtype=np.uint8)
        self._chance = random.Random(seed)
        self._start = time.monotonic()

    async def phase(self, seconds: float) -> None:
        """Load the pool for so long, and wait for everything to end."""
        until = time.monotonic() + seconds
        killer = asyncio.create_task(self._kill(until)) if self.kills else None
        await asyncio.gather(*[self._client(until) for _ in range(CLIENTS)])
        if killer is not None:
            await killer
        while self.pool.stats().in_flight or self.pool.stats().ready < self.pool.stats().size:  # noqa: ASYNC110 (no event)
            await asyncio.sleep(0.05)

    async def snapshot(self) -> Snapshot:
        """Count everything."""
        workers: list[Census] = await self.pool.broadcast(Mixed.census)
        stats = self.pool.stats()
        unsettled = stats.submitted - stats.completed - stats.cancelled - stats.expired - stats.lost

        def mean(name: str) -> float:
            return float(sum(getattr(each, name) for each in workers)) / len(workers)

        return Snapshot(
            at=time.monotonic() - self._start,
            calls=sum(self.outcomes.values()),
            caller=Census.take(),
            worker_memory=mean("memory"),
            worker_blocks=mean("blocks"),
            worker_threads=mean("threads"),
            worker_descriptors=mean("descriptors"),
            tasks=len(asyncio.all_tasks()),
            unsettled=unsettled,
        )

    async def _client(self, until: float) -> None:
        kinds = [
            (self._tiny, 40),
            (self._long, 4),
            (self._asynchronous, 10),
            (self._stream, 6),
            (self._broken_stream, 4),
            (self._big, 3),
            (self._exception, 8),
            (self._timeout, 8),
            (self._timeout_with_value, 6),
            (self._cancelled, 12),
            (self._cancelled_with_value, 6),
            (self._polled, 3),
            (self._polled_map, 3),
            (self._map, 3),
            (self._lease, 2),
        ]
        actions, weights = zip(*kinds, strict=True)
        while time.monotonic() < until:
            action: Callable[[], Awaitable[object]] = self._chance.choices(actions, weights)[0]
            try:
                await action()
            except poise.WorkerLost as lost:
                self.outcomes["lost"] += 1
                if not self.kills:
                    self.unexpected.append(repr(lost))
            except Exception as error:  # noqa: BLE001 - counted, and it fails the soak
                self.unexpected.append(f"{action.__name__}: {error!r}")
            else:
                self.outcomes[action.__name__.lstrip("_")] += 1

    async def _tiny(self) -> None:
        calls = [self.pool.submit(Mixed.echo, number) for number in range(self._chance.randrange(1, 60))]
        results = await asyncio.gather(*calls, return_exceptions=True)
        for number, result in enumerate(results):
            if isinstance(result, BaseException):
                raise result
            if result != number:
                self.unexpected.append(f"sent {number}, got {result}")

    async def _long(self) -> None:
        await self.pool.run(Mixed.sleep, self._chance.uniform(0.02, 0.08))

    async def _asynchronous(self) -> None:
        await self.pool.run(Mixed.nap, self._chance.uniform(0, 0.01))

    async def _stream(self) -> None:
        items = self._chance.randrange(50)
        method = self._chance.choice(["count", "acount"])
        got = [item async for item in self.pool.stream(method, items)]
        if got != list(range(items)):
            self.unexpected.append(f"a stream of {items} gave {got}")

    async def _broken_stream(self) -> None:
        stream = self.pool.stream(Mixed.count, 1000)
        last = self._chance.randrange(40)
        async for item in stream:
            if item == last:
                break
        await stream.aclose()

    async def _big(self) -> None:
        result = await self.pool.run(Mixed.echo, self._array)
        if result.nbytes != self._array.nbytes:
            self.unexpected.append(f"sent {self._array.nbytes} bytes, got {result.nbytes}")

    async def _exception(self) -> None:
        with suppress(Wrong):
            await self.pool.run(Mixed.fail)

    async def _timeout(self) -> None:
        with suppress(poise.DeadlineExceeded):
            await self.pool.options(timeout=self._chance.uniform(0.001, 0.02)).run(Mixed.nap, 0.01)

    async def _cancelled(self) -> None:
        method = self._chance.choice(["echo", "sleep", "nap"])
        calls = [self.pool.submit(method, 0.005) for _ in range(self._chance.randrange(1, 6))]
        await asyncio.sleep(self._chance.choice([0, 0, 0.001, 0.01]))
        for call in calls:
            call.cancel()
        for result in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _timeout_with_value(self) -> None:
        method = self._chance.choice(["keep", "hold"])
        with suppress(poise.DeadlineExceeded):
            await self.pool.options(timeout=self._chance.uniform(0.001, 0.02)).run(method, self._value(), 0.01)

    async def _cancelled_with_value(self) -> None:
        method = self._chance.choice(["keep", "hold"])
        with suppress(TimeoutError):
            async with asyncio.timeout(self._chance.choice([0, 0.001, 0.01])):
                await self.pool.run(method, self._value(), 0.01)

    async def _polled(self) -> None:
        items = self._chance.randrange(10)
        got = await _polled(self.pool.stream(Mixed.trickle, items))
        if [len(each) for each in got] != list(range(1000, 1000 + items)):
            self.unexpected.append(f"a polled stream of {items} gave {len(got)}")

    async def _polled_map(self) -> None:
        items = self._chance.randrange(10)
        got = await _polled(self.pool.map(Mixed.echo, range(items)))
        if got != list(range(items)):
            self.unexpected.append(f"a polled map over {items} gave {got}")

    def _value(self) -> bytes:
        return bytes(self._chance.choice([100, 10_000, 300_000]))

    async def _map(self) -> None:
        items = self._chance.randrange(30)
        got = [item async for item in self.pool.map(Mixed.echo, range(items))]
        if got != list(range(items)):
            self.unexpected.append(f"a map over {items} gave {got}")

    async def _lease(self) -> None:
        async with self.pool.lease() as worker:
            for number in range(3):
                await worker.run(Mixed.echo, number)

    async def _kill(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, self._chance.uniform(5, 25)))
            workers = [worker for worker in self.pool.stats().workers if worker.pid and worker.pid != os.getpid()]
            if workers:
                pid = self._chance.choice(workers).pid
                assert pid is not None
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.outcomes["kills"] += 1


async def _polled(items: AsyncIterator[Any]) -> list[Any]:
    """Everything, though most waits for it are given up."""
    got: list[Any] = []
    while True:
        try:
            got.append(await asyncio.wait_for(anext(items), 0.001))
        except TimeoutError:
            continue
        except StopAsyncIteration:
            return got


def growths(first: Snapshot, last: Snapshot) -> list[Growth]:
    """What must not have grown."""

    def memory(what: str, before: float, after: float) -> Growth:
        return Growth(what, before, after, before * MEMORY_GROWTH + MEMORY_SLACK)

    return [
        memory("caller: memory", first.caller.memory, last.caller.memory),
        Growth("caller: Python blocks", first.caller.blocks, last.caller.blocks, BLOCKS_SLACK),
        Growth("caller: threads", first.caller.threads, last.caller.threads, COUNT_SLACK),
        Growth("caller: descriptors", first.caller.descriptors, last.caller.descriptors, COUNT_SLACK),
        Growth("caller: asyncio tasks", first.tasks, last.tasks, 0),
        memory("worker: memory", first.worker_memory, last.worker_memory),
        Growth("worker: Python blocks", first.worker_blocks, last.worker_blocks, BLOCKS_SLACK),
        Growth("worker: threads", first.worker_threads, last.worker_threads, COUNT_SLACK),
        Growth("worker: descriptors", first.worker_descriptors, last.worker_descriptors, COUNT_SLACK),
        Growth("pool: calls that have no outcome", 0, last.unsettled, 0),
    ]


def table(found: list[Growth]) -> Table:
    """Show what has grown."""
    rows = [
        [each.what, f"{each.first:,.0f}", f"{each.last:,.0f}", f"{each.slack:,.0f}", "ok" if each.is_fine else "GROWN"]
        for each in found
    ]
    return Table("After warm-up and at the end", ["", "after warm-up", "at the end", "may grow by", ""], rows)


async def run(seconds: float, *, is_local: bool, lane: Any = "auto", kills: bool = False, big: int = 1 << 20) -> int:
    """Soak for so long after warm-up; return 0 if nothing has grown and nothing went wrong."""
    pool: poise.Pool[Mixed] = (LocalPool if is_local else poise.Pool)(Mixed, size=2, lane=lane)
    async with pool:
        soak = Soak(pool, kills=kills, big=big)
        _say(f"warm-up, {min(60.0, seconds / 3):.0f} s")
        await soak.phase(min(60.0, seconds / 3))
        first = last = await soak.snapshot()
        phases = max(1, round(seconds / 60))
        for number in range(phases):
            await soak.phase(seconds / phases)
            last = await soak.snapshot()
            caller, worker = last.caller.memory / 2**20, last.worker_memory / 2**20
            _say(
                f"{number + 1} of {phases}: {last.calls:,} rounds of calls, caller {caller:.1f} MiB and "
                f"{last.caller.blocks:,} blocks, workers {worker:.1f} MiB each, {last.tasks} tasks"
            )
    found = growths(first, last)
    print(table(found).plain())
    print("outcomes: " + ", ".join(f"{name} {count:,}" for name, count in sorted(soak.outcomes.items())))
    for trouble in soak.unexpected[:10]:
        print(f"unexpected: {trouble}")
    return 0 if all(each.is_fine for each in found) and not soak.unexpected else 1


def main(arguments: list[str]) -> int:
    """Soak as the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m bench soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="after warm-up")
    parser.add_argument("--lane", choices=["auto", "express", "freight"], default="auto")
    parser.add_argument("--kill", action="store_true", help="kill -9 a worker every quarter of a minute or so")
    parser.add_argument("--big", type=int, default=1 << 20, help="bytes of the big arrays")
    parser.add_argument("--local", action="store_true", help="workers in threads of this process, without Ray")
    chosen = parser.parse_args(arguments)
    seconds = chosen.minutes * 60
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns of a change of its own to come
    return asyncio.run(run(seconds, is_local=chosen.local, lane=chosen.lane, kills=chosen.kill, big=chosen.big))


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)
