"""Looking at a pool from other threads than its loop's own."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

import poise
from poise._engine import looking
from poise.testing import LocalPool
from tests.contract.desk import Desk

if TYPE_CHECKING:
    from tests.contract.conftest import OpenPool


def _faults(stats: poise.Stats) -> list[str]:
    outcomes = stats.completed + stats.cancelled + stats.expired + stats.lost
    at_hand = stats.waiting + stats.parked + stats.running + stats.ahead + stats.leased
    return [
        text
        for text, is_wrong in {
            "accepted calls have an outcome or are somewhere": stats.submitted - outcomes != at_hand,
            "the workers' calls are the pool's": sum(w.running + w.ahead for w in stats.workers) != stats.in_flight,
            "no worker runs more than it has slots": any(w.running > w.slots for w in stats.workers),
            "ready workers are listed": sum(w.state == "ready" for w in stats.workers) != stats.ready,
        }.items()
        if is_wrong
    ]


async def test_snapshots_from_threads_add_up_while_the_pool_is_busy(open_pool: OpenPool) -> None:
    taken: list[poise.Stats] = []
    is_over = threading.Event()
    async with open_pool(Desk, size=2) as pool:

        def scrape() -> None:
            while not is_over.is_set():
                taken.append(pool.stats())
                assert repr(pool).startswith("<Pool of ")
                assert pool.state == "open"

        scrapes = [asyncio.create_task(asyncio.to_thread(scrape)) for _ in range(2)]
        for size in (3, 1, 2):
            await asyncio.gather(*(pool.submit(Desk.echo, n) for n in range(300)))
            await pool.resize(size)
        while len(taken) < 20:
            await pool.run(Desk.echo, 0)
        is_over.set()
        await asyncio.gather(*scrapes)
    assert [fault for stats in taken for fault in _faults(stats)] == []


async def test_a_thread_is_told_when_the_loop_is_blocked() -> None:
    loop, ident = asyncio.get_running_loop(), threading.get_ident()
    loop.slow_callback_duration = 60.0
    async with LocalPool(Desk, size=1) as pool:
        shown: list[str] = []

        def see() -> None:
            with pytest.raises(poise.LoopBlocked, match=r"0\.05 s") as caught:
                looking.look(loop, ident, pool.stats, 0.05)
            assert isinstance(caught.value, TimeoutError)
            assert pool.state == "open"
            shown.append(repr(pool))

        thread = threading.Thread(target=see)
        thread.start()
        thread.join()  # blocks the loop for as long as the thread asks
        assert shown == ["<Pool of Desk, open: its loop is blocked>"]
        assert pool.stats().ready == 1


def test_a_thread_sees_a_pool_whose_loop_stands_still_or_has_ended() -> None:
    loop = asyncio.new_event_loop()
    pool = loop.run_until_complete(LocalPool(Desk, size=2).open())
    seen: list[poise.Stats] = []

    def see_from_a_thread() -> None:
        thread = threading.Thread(target=lambda: seen.append(pool.stats()))
        thread.start()
        thread.join()

    see_from_a_thread()
    loop.run_until_complete(pool.run(Desk.echo, 1))
    loop.run_until_complete(pool.aclose())
    loop.close()
    see_from_a_thread()
    assert [stats.completed for stats in seen] == [0, 1]
    assert seen[-1].workers == ()
    assert pool.state == "closed"


async def test_a_fault_of_the_snapshot_reaches_the_thread_that_asked() -> None:
    loop, thread = asyncio.get_running_loop(), threading.get_ident()

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(looking.look, loop, thread, fail)
