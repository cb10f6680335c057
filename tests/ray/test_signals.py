"""SIGTERM to a worker's process: it retires, and no call fails."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil

import poise
from tests.gate import Gate, leave_mark, wait_at

OpenPool = Callable[..., poise.Pool[Any]]


class Machine:
    def __init__(self, gate: str) -> None:
        self.gate = gate

    def hold(self, number: int) -> tuple[int, int]:
        wait_at(self.gate, os.getpid())
        return os.getpid(), number

    def close(self) -> None:
        leave_mark(self.gate, f"closed {os.getpid()}")

    def end_a_child(self) -> int:
        """Fork a child that waits, end it politely, and return how it ended."""
        ready, tell = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(tell, b"!")
                time.sleep(60)
            finally:
                os._exit(7)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)


async def gone(pid: int) -> None:
    async with asyncio.timeout(60):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)


async def test_a_worker_that_gets_sigterm_finishes_closes_and_is_replaced(
    open_pool: OpenPool, gate: Gate
) -> None:  # G2, G8
    path = gate.path
    async with open_pool(lambda: Machine(path), size=2) as pool:
        await pool.until_ready()
        calls = [pool.submit(Machine.hold, number) for number in range(20)]
        pid = int((await gate.reached(2))[0])
        before = {worker.id for worker in pool.stats().workers}
        os.kill(pid, signal.SIGTERM)
        async with asyncio.timeout(60):
            while {worker.id for worker in pool.stats().workers} == before:
                await asyncio.sleep(0.01)
        gate.open()
        answers = await asyncio.gather(*calls)
        assert [number for _, number in answers] == list(range(20))
        assert [where for where, _ in answers].count(pid) == 1, "it was given nothing more"
        await gone(pid)
        assert f"closed {pid}" in gate.marks
        await pool.until_ready()
        assert pool.stats().deaths == 0


async def test_an_idle_worker_that_gets_sigterm_is_replaced(open_pool: OpenPool, gate: Gate) -> None:  # G8
    path = gate.path
    gate.open()
    async with open_pool(lambda: Machine(path), size=1) as pool:
        pid, _ = await pool.run(Machine.hold, 1)
        os.kill(pid, signal.SIGTERM)
        await gone(pid)
        after, _ = await pool.run(Machine.hold, 2)
        assert after != pid
        assert f"closed {pid}" in gate.marks


async def test_a_child_of_the_users_ends_by_sigterm(open_pool: OpenPool, gate: Gate) -> None:
    path = gate.path
    async with open_pool(lambda: Machine(path), size=1) as pool:
        assert await pool.run(Machine.end_a_child) == 7
