"""An idle worker, and an idle caller, keep nothing of the last call."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.desk import Desk, is_idle
from tests.gate import leave_mark, wait_at

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    import poise
    from tests.contract.conftest import Crash, OpenPool
    from tests.gate import Gate

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG = 200_000


def kept_by_threads() -> list[str]:
    """Which functions of this process's other threads hold something long in their variables. Runs anywhere."""
    own = threading.get_ident()
    found = []
    for thread, top in sys._current_frames().items():  # noqa: SLF001 - the only way there is
        frame = top if thread != own else None
        while frame is not None:
            found += [f"{frame.f_code.co_qualname}: {name}" for name, value in frame.f_locals.items() if is_long(value)]
            frame = frame.f_back
    return found


def is_long(value: Any, depth: int = 4) -> bool:
    if isinstance(value, bytes | bytearray | memoryview):
        return len(value) >= LONG and not isinstance(value, memoryview)
    if depth and isinstance(value, list | tuple | deque):
        return any(is_long(each, depth - 1) for each in value)
    return bool(depth) and isinstance(value, dict) and any(is_long(each, depth - 1) for each in value.values())


def chunks(size: int) -> Iterator[bytes]:
    yield bytes(size)


def watch(_: Desk, gate: str) -> None:
    """Have a thread of the worker look around once the gate is open: a call would be the last one itself."""

    def look() -> None:
        wait_at(gate, "watching")
        until = time.monotonic() + 20  # the thread that has written the answer may not have come back from that
        while (kept := kept_by_threads()) and time.monotonic() < until:
            time.sleep(0.01)
        leave_mark(gate, kept)

    threading.Thread(target=look, daemon=True).start()


async def echo(pool: poise.Pool[Desk], size: int) -> None:
    await pool.run(Desk.echo, bytes(size))


async def take(pool: poise.Pool[Desk], size: int) -> None:
    await pool.run(lambda _, value: len(value), bytearray(size))


async def give(pool: poise.Pool[Desk], size: int) -> None:
    await pool.run(lambda _, size: bytes(size), size)


async def stream(pool: poise.Pool[Desk], size: int) -> None:
    assert [len(chunk) async for chunk in pool.stream(lambda _, n: chunks(n), size)] == [size]


async def cancel(pool: poise.Pool[Desk], size: int) -> None:
    calls = [pool.submit(Desk.echo, bytes(size)) for _ in range(3)]
    calls[-1].cancel()
    await asyncio.gather(*calls[:-1])


@pytest.mark.parametrize("size", [LONG, 17 << 20])
@pytest.mark.parametrize("last", [echo, take, give, stream, cancel])
async def test_no_thread_that_waits_keeps_the_last_value(
    desks: poise.Pool[Desk], gate: Gate, last: Callable[[poise.Pool[Desk], int], Awaitable[None]], size: int
) -> None:
    await desks.broadcast(watch, gate.path)
    await gate.reached(2)
    await asyncio.gather(last(desks, size), last(desks, size))
    await is_idle(desks)
    assert kept_by_threads() == []
    gate.open()
    assert await gate.reached(4) == ["watching", "watching", "[]", "[]"]


async def test_deaths_leave_no_descriptor(open_pool: OpenPool, crash: Crash, lane: str) -> None:  # G12
    if lane == "local" or not os.path.exists("/proc/self/fd"):  # noqa: ASYNC240
        pytest.skip("no descriptors to count")
    async with open_pool(Desk, size=1) as pool:
        counts = []
        for _ in range(6):
            await pool.run(Desk.echo, 1)
            gc.collect()
            counts.append(len(os.listdir("/proc/self/fd")))
            (worker,) = pool.stats().workers
            crash(pool, worker.id)
            await pool.options(retries=3).run(Desk.who)
        assert counts[-1] <= counts[1], counts
