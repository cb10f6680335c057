"""A worker that cannot answer, being stopped or with an interpreter that is kept, keeps only what has begun (G4)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

import poise
from poise._core.pace import UNFENCED_CALLS
from tests.contract.desk import Desk

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from tests.contract.conftest import OpenPool

PATIENCE = 60.0


@pytest.fixture(autouse=True)
def _needs_a_process(lane: str) -> None:
    if lane == "local":
        pytest.skip("its workers live in the process of the test: see tests/lanes/test_local_lane.py")


async def until_left(calls: Sequence[poise.Call[Any]], count: int) -> list[poise.Call[Any]]:
    """Wait until at most so many are not done, and say which."""
    async with asyncio.timeout(PATIENCE):
        while len(left := [call for call in calls if not call.done()]) > count:
            await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
    return left


async def learn(pool: poise.Pool[Desk]) -> int:
    """Let both workers run the function that is short, until much of it is sent ahead; say how many calls it took."""
    await pool.until_ready()
    await asyncio.gather(*[pool.submit(Desk.pass_or_keep, number, None) for number in range(1000)])
    return 1000


async def runs(pool: poise.Pool[Desk]) -> int:
    return sum(count for _, _, count in await pool.broadcast(Desk.witness))


@contextlib.contextmanager
def stopped(pool: poise.Pool[Desk]) -> Generator[int]:
    """One worker does nothing and says nothing. Gives its process."""
    pid = pool.stats().workers[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def test_calls_behind_one_that_keeps_the_interpreter_are_done_by_the_other(
    open_pool: OpenPool, lane: str, tmp_path: Path
) -> None:  # G2, G4
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    pipe = os.open(fifo, os.O_RDWR)
    async with open_pool(Desk) as pool:
        count = await learn(pool)
        calls = [pool.submit(Desk.pass_or_keep, number, fifo if number == 100 else None) for number in range(600)]
        left = await until_left(calls, 1 if lane != "tls" else 1 + 2 * UNFENCED_CALLS)
        assert calls[100] in left
        os.write(pipe, b"!")
        assert await asyncio.gather(*calls) == list(range(600))
        assert await runs(pool) == count + 600
    os.close(pipe)


async def test_calls_sent_ahead_to_a_worker_that_is_stopped_are_done_by_the_other(
    open_pool: OpenPool, lane: str
) -> None:  # G2, G4
    async with open_pool(Desk) as pool:
        count = await learn(pool)
        with stopped(pool):
            calls = [pool.submit(Desk.pass_or_keep, number, None) for number in range(300)]
            await until_left(calls, 1 if lane != "tls" else 1 + UNFENCED_CALLS)
            assert await pool.run(Desk.pass_or_keep, "later", None) == "later"
        assert await asyncio.gather(*calls) == list(range(300))
        assert await pool.run(Desk.pass_or_keep, "at last", None) == "at last"
        assert await runs(pool) == count + 302


async def test_a_worker_that_is_killed_while_it_is_stopped_is_replaced(
    open_pool: OpenPool, lane: str
) -> None:  # G2, G8
    async with open_pool(Desk) as pool:
        await learn(pool)
        most = 1 if lane != "tls" else 1 + UNFENCED_CALLS
        with stopped(pool) as pid:
            calls = [pool.submit(Desk.pass_or_keep, number, None) for number in range(300)]
            await until_left(calls, most)
            os.kill(pid, signal.SIGKILL)
            outcomes = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), PATIENCE)
        lost = [outcome for outcome in outcomes if isinstance(outcome, poise.WorkerLost)]
        assert len(lost) <= most, "the others had not begun"
        assert sum(isinstance(outcome, int) for outcome in outcomes) == 300 - len(lost)
        await asyncio.wait_for(pool.until_ready(2), PATIENCE)
        assert await asyncio.gather(*[pool.submit(Desk.echo, number) for number in range(100)]) == list(range(100))
