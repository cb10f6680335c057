"""Calls that are given up: having the worker back, and code that sees by itself that it should stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING, Any

import pytest

import poise
from poise.testing import LocalPool
from tests.contract.desk import Desk
from tests.gate import leave_mark

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.contract.conftest import OpenPool, SharePool
    from tests.gate import Gate

pytestmark = pytest.mark.asyncio(loop_scope="module")


def until_cancelled(desk: Desk, gate: str) -> None:
    leave_mark(gate, "reached")
    while not poise.cancelled():
        desk.slow(0, 0.001)
    leave_mark(gate, "stopped")


async def until_cancelled_async(desk: Desk, gate: str) -> None:
    leave_mark(gate, "reached")
    while not poise.cancelled():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.001)
    leave_mark(gate, "stopped")


def items_until_cancelled(desk: Desk, gate: str) -> Iterator[int]:
    yield 0
    until_cancelled(desk, gate)


async def async_items_until_cancelled(desk: Desk, gate: str) -> AsyncIterator[int]:
    yield 0
    await until_cancelled_async(desk, gate)


def is_cancelled(desk: Desk) -> bool:
    return poise.cancelled()


# ---------------------------------------------------------------------------------------------------------------------
# Having the worker back


async def test_killing_a_running_call_gives_the_worker_back(share_pool: SharePool, gate: Gate) -> None:  # G3
    async with share_pool(Desk, size=1, concurrency=1, kill_after=None, kills=True) as pool:
        before, counted = await pool.run(Desk.who), pool.stats()
        call = pool.submit(Desk.hold, gate.path)
        await gate.reached()
        assert call.kill()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await pool.run(Desk.who) != before
        assert not call.kill(), "it has ended with its worker"
        stats = pool.stats()
        assert (stats.deaths - counted.deaths, stats.cancelled - counted.cancelled) == (1, 1)
        assert (stats.abandoned, stats.failed) == (0, counted.failed)


async def test_a_call_that_was_given_up_can_be_killed_later(share_pool: SharePool, gate: Gate) -> None:
    async with share_pool(Desk, size=1, concurrency=1, kill_after=None, kills=True) as pool:
        call = pool.submit(Desk.hold, gate.path)
        await gate.reached()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 0.01)
        assert pool.stats().abandoned == 1
        assert call.kill()
        assert await pool.run(Desk.echo, 1) == 1


async def test_a_call_that_has_timed_out_can_be_killed_before_its_time(share_pool: SharePool, gate: Gate) -> None:
    async with share_pool(Desk, size=1, concurrency=1, kill_after=None, kills=True) as pool:
        call = pool.options(timeout=0.5).submit(Desk.hold, gate.path)
        with pytest.raises(poise.DeadlineExceeded):
            await call
        assert call.kill()
        assert await pool.run(Desk.echo, 1) == 1


async def test_killing_a_call_that_waits_harms_nobody(share_pool: SharePool, gate: Gate) -> None:
    async with share_pool(Desk, size=1) as pool:
        before = await pool.run(Desk.who)
        running, waiting = pool.submit(Desk.hold, gate.path), pool.submit(Desk.echo, 1)
        await gate.reached()
        assert waiting.kill()
        assert waiting.cancelled()
        assert not waiting.kill()
        gate.open()
        await running
        assert not running.kill()
        assert await pool.run(Desk.who) == before


@pytest.mark.parametrize("how", ["cancel", "wait_for", "map", "name"])
async def test_with_kill_on_cancel_giving_up_gives_the_worker_back(share_pool: SharePool, gate: Gate, how: str) -> None:
    async with share_pool(Desk, size=1, kill_after=0.01, kills=True) as pool:
        before = await pool.run(Desk.who)
        view = pool.options(kill_on_cancel=True)
        work: Any = Desk.hold if how != "name" else "hold"

        async def over_map() -> None:
            results: Any = view.map(work, [gate.path])
            async with contextlib.aclosing(results):
                async for _ in results:
                    pass

        task = asyncio.create_task(over_map()) if how == "map" else asyncio.create_task(view.run(work, gate.path))
        await gate.reached()
        if how == "wait_for":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(task, 0.01)
        else:
            task.cancel()
            await asyncio.wait({task})
        assert await pool.run(Desk.who) != before


async def test_calls_beside_a_killed_one_are_lost_or_retried(open_pool: OpenPool, gate: Gate) -> None:  # G9
    async with open_pool(Desk, size=1, concurrency=3) as pool:
        before = await pool.run(Desk.who)
        call = pool.submit(Desk.hold, gate.path)
        lost = pool.submit(Desk.hold, gate.path)
        await gate.reached(2)
        again = pool.options(retries=1, retry_delay=0).submit(Desk.hold, gate.path)
        await gate.reached(3)
        call.kill()
        with pytest.raises(poise.WorkerLost, match="had given it up"):
            await lost
        gate.open()
        await again
        assert await pool.run(Desk.who) != before


async def test_a_coroutine_that_stops_when_told_costs_no_worker(share_pool: SharePool, gate: Gate) -> None:
    async with share_pool(Desk, size=1) as pool:
        before = await pool.run(Desk.who)
        call = pool.options(kill_on_cancel=True).submit(until_cancelled_async, gate.path)
        await gate.reached()
        call.cancel()
        assert await pool.run(Desk.who) == before


async def test_a_stream_that_stops_when_left_costs_no_worker(share_pool: SharePool) -> None:
    async with share_pool(Desk, size=1) as pool:
        before = await pool.run(Desk.who)
        async for _ in pool.options(kill_on_cancel=True).stream(Desk.count, 10**9):
            break
        assert await pool.run(Desk.who) == before


async def test_a_plain_call_that_is_cancelled_costs_no_worker_without_leave(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=1, kill_after=0) as pool:  # G3
        before = await pool.run(Desk.who)
        call = pool.submit(Desk.hold, gate.path)
        await gate.reached()
        call.cancel()
        waiting = pool.submit(Desk.who)
        await asyncio.sleep(0.05)
        assert pool.stats().abandoned == 1
        gate.open()
        assert await waiting == before


@pytest.mark.parametrize("function", [Desk.hold, functools.partial(Desk.hold)])
async def test_plain_code_is_known_as_such(gate: Gate, function: Any) -> None:
    async with LocalPool(Desk, size=1, kill_after=None) as pool:
        call = pool.options(kill_on_cancel=True).submit(function, gate.path)
        await gate.reached()
        call.cancel()
        assert await pool.run(Desk.echo, 1) == 1


async def test_without_kill_after_what_can_be_told_to_stop_has_all_the_time(gate: Gate) -> None:
    async with LocalPool(Desk, size=1, kill_after=None) as pool:
        call = pool.options(kill_on_cancel=True).submit("hold", gate.path)
        await gate.reached()
        call.cancel()
        gate.open()
        assert await pool.run(Desk.echo, 1) == 1
        assert pool.stats().deaths == 0


# ---------------------------------------------------------------------------------------------------------------------
# Seeing it


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("work", [until_cancelled, until_cancelled_async])
async def test_a_call_can_see_that_its_caller_is_gone(
    share_pool: SharePool, gate: Gate, work: Any, concurrency: int
) -> None:
    async with share_pool(Desk, size=1, concurrency=concurrency, kill_after=None) as pool:
        before = await pool.run(Desk.who)
        call = pool.submit(work, gate.path)
        await gate.reached()
        call.cancel()
        await gate.reached(2)
        assert await pool.run(Desk.who) == before
        assert await pool.run(is_cancelled) is False


async def test_a_call_can_see_that_its_deadline_has_passed(share_pool: SharePool, gate: Gate) -> None:  # G6
    async with share_pool(Desk, size=1, concurrency=1, kill_after=None) as pool:
        with pytest.raises(poise.DeadlineExceeded):
            await pool.options(timeout=0.3).run(until_cancelled, gate.path)
        await gate.reached(2)
        assert await pool.run(Desk.echo, 1) == 1


@pytest.mark.parametrize("produce", [items_until_cancelled, async_items_until_cancelled])
async def test_a_stream_can_see_that_it_was_left(share_pool: SharePool, gate: Gate, produce: Any) -> None:
    async with share_pool(Desk, size=1, concurrency=1, kill_after=None) as pool:
        async for _ in pool.stream(produce, gate.path):
            await gate.reached()
            break
        await gate.reached(2)
        assert await pool.run(Desk.echo, 1) == 1


async def test_only_the_call_that_was_given_up_sees_it(share_pool: SharePool, gate: Gate) -> None:
    async with share_pool(Desk, size=1, concurrency=2, kill_after=None) as pool:
        call = pool.submit(until_cancelled, gate.path)
        await gate.reached()
        assert await pool.run(is_cancelled) is False
        call.cancel()
        await gate.reached(2)


async def test_outside_a_call_nothing_is_cancelled() -> None:
    assert poise.cancelled() is False
