"""User code that forks: the child holds nothing of its parent's connection, and a death is seen although one lives."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import poise
from poise._lanes import host_lane
from tests.contract.conftest import tls_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NEVER = 3600.0


def by_multiprocessing() -> int | None:
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(NEVER,))
    child.start()
    return child.pid


def by_os_fork() -> int:
    pid = os.fork()
    if not pid:
        time.sleep(NEVER)
        os._exit(0)
    return pid


def by_c_code() -> int:
    """Without a word to Python, so that the child keeps the sockets."""
    library = ctypes.PyDLL(None)
    pid: int = library.fork()
    if not pid:
        library.pause()
        os._exit(0)
    return pid


def echo(value: Any) -> Any:
    return value


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Who is to be ended after the test. Nobody waits for an end of file that a child may withhold."""
    monkeypatch.setattr(host_lane, "LAST_WORDS", NEVER)
    pids: list[int] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def stop(pid: int) -> None:
    """Halt the process, and wait until all of its threads stand still."""
    os.kill(pid, signal.SIGSTOP)
    while not stands_still(pid):
        await asyncio.sleep(0.01)


def stands_still(pid: int) -> bool:
    stats = [task.joinpath("stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


async def lose_a_worker_that_has_forked(pool: poise.Pool[None], fork: Callable[[], int | None]) -> tuple[int, int]:
    """Kill it while calls lie there; return the child's pid and how many of the calls were lost."""
    for _ in range(50):  # so that echo is known to be short, and sent ahead
        await pool.run(echo, 0)
    child = await pool.run(fork)
    (worker,) = pool.stats().workers
    assert worker.pid is not None
    assert child is not None
    await stop(worker.pid)
    calls = [pool.submit(echo, number) for number in range(200)]
    await asyncio.sleep(0)
    os.kill(worker.pid, signal.SIGKILL)
    outcomes = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 60)
    answers = [outcome for outcome in outcomes if not isinstance(outcome, poise.WorkerLost)]
    assert answers == [number for number in range(200) if not isinstance(outcomes[number], poise.WorkerLost)]
    return child, 200 - len(answers)


@pytest.mark.parametrize("fork", [by_multiprocessing, by_os_fork, by_c_code])
async def test_only_what_held_the_slot_is_lost_with_a_worker_that_has_forked(
    fork: Callable[[], int | None], children: list[int]
) -> None:  # G2
    async with poise.Pool(size=1, lane="express") as pool:
        child, lost = await lose_a_worker_that_has_forked(pool, fork)
        children.append(child)
        assert lost == 1


@pytest.mark.parametrize("fork", [by_multiprocessing, by_os_fork])
async def test_a_death_between_nodes_is_seen_although_a_child_lives(
    fork: Callable[[], int | None], children: list[int]
) -> None:  # G1
    async with tls_pool(size=1) as pool:
        child, lost = await lose_a_worker_that_has_forked(pool, fork)
        children.append(child)
        assert lost >= 1  # all of them, if the connection was reset because the worker had not read them
