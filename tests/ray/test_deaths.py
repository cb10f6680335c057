"""Deaths that only real processes can die. `kill -9` under load, in a lease, a stream, a broadcast: tests/contract."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

import poise
from tests.gate import Gate, leave_mark, wait_at

OpenPool = Callable[..., poise.Pool[Any]]


class Machine:
    def __init__(self, gate: str = "") -> None:
        if gate:
            wait_at(gate, os.getpid())

    def echo(self, value: Any) -> Any:
        return value

    def pid(self) -> int:
        return os.getpid()

    def exit(self, how: str) -> None:
        if how == "_exit":
            os._exit(3)
        if how == "segfault":
            ctypes.string_at(0)
        if how == "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)

    def hold_the_gil(self, gate: str, seconds: int) -> None:
        leave_mark(gate, os.getpid())
        ctypes.PyDLL(None).sleep(seconds)  # PyDLL keeps the GIL, as bad C extensions do


@pytest.mark.parametrize("how", ["_exit", "segfault", "sigkill"])
async def test_a_method_that_ends_its_process_is_lost_and_the_pool_heals(
    open_pool: OpenPool, how: str
) -> None:  # G1, G8
    async with open_pool(Machine, size=1) as pool:
        before = await pool.run(Machine.pid)
        waiting = [pool.submit(Machine.exit, how), *(pool.submit(Machine.echo, n) for n in range(20))]
        with pytest.raises(poise.WorkerLost) as caught:
            await waiting[0]
        assert caught.value.reason
        assert await asyncio.gather(*waiting[1:]) == list(range(20))
        assert await pool.run(Machine.pid) != before


async def test_a_worker_that_holds_the_gil_is_answered_for_killed_and_replaced(
    open_pool: OpenPool, gate: Gate
) -> None:  # G6
    async with open_pool(Machine, size=1, kill_after=0.3) as pool:
        call = pool.options(timeout=1.0).submit(Machine.hold_the_gil, gate.path, 120)
        (pid,) = map(int, await gate.reached())
        began = time.monotonic()
        behind = pool.submit(Machine.echo, "behind")
        with pytest.raises(poise.DeadlineExceeded) as caught:
            await call
        assert time.monotonic() - began < 8
        assert caught.value.started
        assert await behind == "behind"
        assert await pool.run(Machine.pid) != pid
        await gone(pid)


async def test_closing_does_not_wait_for_a_worker_that_holds_the_gil(open_pool: OpenPool, gate: Gate) -> None:  # G12
    pool = open_pool(Machine, size=1)
    await pool.open()
    call = pool.submit(Machine.hold_the_gil, gate.path, 120)
    (pid,) = map(int, await gate.reached())
    began = time.monotonic()
    await pool.aclose()
    assert time.monotonic() - began < 20
    with pytest.raises(poise.WorkerLost):
        await call
    await gone(pid)


async def test_a_worker_that_dies_while_it_starts_is_replaced(open_pool: OpenPool, gate: Gate) -> None:  # G8
    path = gate.path
    pool = open_pool(lambda: Machine(path), size=1)
    opening = asyncio.ensure_future(pool.open())
    (pid,) = map(int, await gate.reached())
    os.kill(pid, signal.SIGKILL)
    await gate.reached(2)
    gate.open()
    await opening
    assert await pool.run(Machine.echo, 1) == 1
    assert pool.stats().deaths == 1
    await pool.aclose()


async def test_workers_that_keep_dying_while_they_start_break_the_pool(open_pool: OpenPool) -> None:  # G8
    with pytest.raises(poise.PoolBroken) as caught:
        await open_pool(lambda: os._exit(1), size=1).open()
    assert caught.value.failures >= 3


async def test_a_call_that_kills_every_worker_is_named_and_the_others_live(open_pool: OpenPool) -> None:  # G9
    async with open_pool(Machine, size=2, min_ready=2, poison_after=2) as pool:
        poison = pool.options(retries=9).submit(Machine.exit, "_exit")
        others = [pool.options(retries=1).submit(Machine.echo, n) for n in range(50)]
        with pytest.raises(poise.PoisonCall, match="exit"):
            await poison
        assert await asyncio.gather(*others) == list(range(50))


async def test_closing_leaves_no_process(open_pool: OpenPool) -> None:  # G12
    async with open_pool(Machine, size=3, min_ready=3) as pool:
        pids = await pool.broadcast(Machine.pid)
        assert len(set(pids)) == 3
    for pid in pids:
        await gone(pid)


async def gone(pid: int) -> None:
    async with asyncio.timeout(30):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_workers_of_a_pool_that_outlives_its_loop_end_with_it(open_pool: OpenPool) -> None:  # G12
    async def open_it() -> tuple[poise.Pool[Any], list[int]]:
        pool = await open_pool(Machine, size=2, min_ready=2).open()
        return pool, await pool.broadcast(Machine.pid)

    pool, pids = asyncio.run(open_it())
    del pool
    gc.collect()
    psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=60)
    assert not any(psutil.pid_exists(pid) for pid in pids)
