"""Errors let go: whoever has handled one keeps neither it nor the frames that it went through."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.desk import Desk, is_idle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    import poise
    from tests.contract.conftest import Crash, OpenPool
    from tests.gate import Gate

    Way = Callable[[poise.Pool[Desk], str], Awaitable[object]]


pytestmark = pytest.mark.asyncio(loop_scope="module")


class Ballast:
    """What a caller's frame holds."""


class Trouble(Exception):
    """Unlike the exceptions that are built in it can be watched."""


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """What is in a cycle stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def run(pool: poise.Pool[Desk], gate: str) -> None:
    await pool.run(Desk.fail, Trouble("x"))


async def submitted(pool: poise.Pool[Desk], gate: str) -> None:
    await pool.submit(Desk.fail, Trouble("x"))


async def streamed(pool: poise.Pool[Desk], gate: str) -> None:
    async for _ in pool.stream(Desk.count_then_fail, 3):
        pass


async def streamed_by_name(pool: poise.Pool[Desk], gate: str) -> None:
    stream = pool.stream(Desk.count_then_fail, 3)
    while True:
        await anext(stream)


async def mapped(pool: poise.Pool[Desk], gate: str) -> None:
    async for _ in pool.map(Desk.fail, [Trouble("x"), Trouble("y")]):
        pass


async def mapped_by_name(pool: poise.Pool[Desk], gate: str) -> None:
    results = pool.map_unordered(Desk.fail, [Trouble("x"), Trouble("y")])
    async for _ in results:
        pass


async def broadcast(pool: poise.Pool[Desk], gate: str) -> None:
    await pool.broadcast(Desk.fail, Trouble("x"))


async def leased(pool: poise.Pool[Desk], gate: str) -> None:
    async with pool.lease() as worker:
        await worker.run(Desk.fail, Trouble("x"))


async def gathered(pool: poise.Pool[Desk], gate: str) -> None:
    runs = [asyncio.ensure_future(pool.run(Desk.fail, Trouble(n))) for n in range(3)]
    try:
        await asyncio.gather(*runs)
    finally:
        await asyncio.wait(runs)  # each that is not done yet holds what all of them have ended with
        del runs


async def expired(pool: poise.Pool[Desk], gate: str) -> None:
    await pool.options(timeout=0.05).run(Desk.async_hold, gate)


async def expired_for_a_lease(pool: poise.Pool[Desk], gate: str) -> None:
    held = [pool.submit(Desk.hold, gate) for _ in range(2)]
    try:
        async with pool.lease(timeout=0.05):
            pass
    finally:
        for call in held:
            call.cancel()


async def refused(pool: poise.Pool[Desk], gate: str) -> None:
    for _ in range(9):
        pool.submit(Desk.hold, gate).cancel()
        pool.options(timeout=5).submit(Desk.hold, gate)


async def cannot_travel(pool: poise.Pool[Desk], gate: str) -> None:
    await pool.run(Desk.echo, (n for n in range(3)))


async def cannot_come_back(pool: poise.Pool[Desk], gate: str) -> None:
    await pool.run(lambda desk: desk.lock)


async def cancelled(pool: poise.Pool[Desk], gate: str) -> None:
    async with asyncio.timeout(0.05):
        await pool.run(Desk.async_hold, gate)


async def closed(pool: poise.Pool[Desk], gate: str) -> None:
    call = asyncio.ensure_future(pool.run(Desk.hold, gate))
    try:
        await asyncio.sleep(0)
        await pool.aclose()
        await call
    finally:
        del call


WAYS: list[Any] = [
    run,
    submitted,
    streamed,
    streamed_by_name,
    mapped,
    mapped_by_name,
    broadcast,
    leased,
    gathered,
    expired,
    expired_for_a_lease,
    cannot_travel,
    cannot_come_back,
    cancelled,
]


async def suffer(way: Way, pool: poise.Pool[Desk], gate: str) -> list[weakref.ref[Any]]:
    """Let a call fail, and say what must be gone when this has returned."""
    ballast = Ballast()
    try:
        await way(pool, gate)
    except Exception as error:  # noqa: BLE001 - whichever it is
        if type(error).__module__ == "builtins":
            return [weakref.ref(ballast)]
        return [weakref.ref(ballast), weakref.ref(error)]
    raise AssertionError("nothing has failed")


@pytest.mark.parametrize("way", WAYS)
async def test_an_error_dies_with_its_last_name(desks: poise.Pool[Desk], gate: Gate, way: Way) -> None:
    watched = await suffer(way, desks, gate.path)
    gate.open()
    await is_idle(desks)
    await asyncio.sleep(0)  # the loop itself holds the future that has woken this task until its next turn
    for each in watched:
        assert each() is None, gc.get_referrers(each())


@pytest.mark.parametrize("way", [refused, closed])
async def test_the_error_of_a_pool_that_is_full_or_closed_does_so_too(
    open_pool: OpenPool, gate: Gate, way: Way
) -> None:
    async with open_pool(Desk, size=1, backlog=6) as pool:
        watched = await suffer(way, pool, gate.path)
        gate.open()
        await asyncio.sleep(0)
        for each in watched:
            assert each() is None, gc.get_referrers(each())


async def test_the_error_of_a_lost_worker_dies_with_its_last_name(
    open_pool: OpenPool, crash: Crash, gate: Gate
) -> None:
    async def lose(pool: poise.Pool[Desk], path: str) -> None:
        call = asyncio.ensure_future(pool.run(Desk.hold, path))
        try:
            await gate.reached()
            (busy,) = [worker.id for worker in pool.stats().workers if worker.running]
            crash(pool, busy)
            await call
        finally:
            del call

    async with open_pool(Desk, size=2) as pool:
        watched = await suffer(lose, pool, gate.path)
        gate.open()
        assert await pool.run(Desk.echo, 1) == 1
        for each in watched:
            assert each() is None, gc.get_referrers(each())
