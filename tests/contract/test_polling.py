"""Polling: who asks for the next item with a short patience, again and again, loses none of them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.desk import Desk, is_idle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import poise
    from tests.gate import Gate


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def polled(items: AsyncIterator[Any], gate: Gate) -> tuple[list[Any], int]:
    """Take every item, giving up twenty waits on the way; the gate is opened after ten."""
    came: list[Any] = []
    early = 0
    while True:
        poll = asyncio.ensure_future(_next(items))
        if early < 20:
            await asyncio.wait({poll}, timeout=0.001)
            if not poll.done():
                poll.cancel()
                early += 1
            if early == 10:
                gate.open()
        try:
            came.append(await poll)
        except asyncio.CancelledError:
            continue
        except StopAsyncIteration:
            return came, early


async def _next(items: AsyncIterator[Any]) -> Any:
    return await anext(items)


def streams(view: poise.View[Desk], gate: Gate) -> AsyncIterator[Any]:
    return view.stream(Desk.count_then_hold, 40, gate.path)


def loops(view: poise.View[Desk], gate: Gate) -> AsyncIterator[Any]:
    return aiter(view.stream(Desk.count_then_hold, 40, gate.path))


def maps(view: poise.View[Desk], gate: Gate) -> AsyncIterator[Any]:
    return view.map(Desk.hold_at_zero, ((gate.path, n) for n in range(41)))


def maps_unordered(view: poise.View[Desk], gate: Gate) -> AsyncIterator[Any]:
    return view.map_unordered(Desk.hold_at_zero, ((gate.path, n) for n in range(41)))


def maps_of_an_async_source(view: poise.View[Desk], gate: Gate) -> AsyncIterator[Any]:
    async def source() -> AsyncIterator[Any]:
        for n in range(41):
            await asyncio.sleep(0.001)
            yield gate.path, n

    return view.map(Desk.hold_at_zero, source())


def bars(view: poise.View[Desk], gate: Gate) -> AsyncIterator[Any]:
    return view.map(Desk.hold_at_zero, [(gate.path, n) for n in range(41)], progress=True)


WAYS = [streams, loops, maps, maps_unordered, maps_of_an_async_source, bars]


@pytest.mark.parametrize("iterate", WAYS)
@pytest.mark.parametrize("is_leased", [False, True])
async def test_a_wait_that_was_given_up_loses_no_item(
    desks: poise.Pool[Desk], gate: Gate, iterate: Callable[..., AsyncIterator[Any]], is_leased: bool
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        view: Any = await stack.enter_async_context(desks.lease()) if is_leased else desks
        came, early = await polled(iterate(view, gate), gate)
        assert early >= 10
        assert (sorted(came) if iterate is maps_unordered else came) == list(range(41))
    await is_idle(desks)


async def test_a_stream_says_how_it_failed_though_polls_were_early(desks: poise.Pool[Desk], gate: Gate) -> None:
    async with desks.lease() as pool:
        held = pool.submit(Desk.hold, gate.path)
        stream = pool.stream(Desk.count_then_fail, 3)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.001)
        gate.open()
        assert [await anext(stream) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="in the middle"):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        await held


@pytest.mark.parametrize("iterate", [streams, maps])
async def test_a_task_that_is_cancelled_in_its_loop_leaves_nothing_behind(
    desks: poise.Pool[Desk], gate: Gate, iterate: Callable[..., AsyncIterator[Any]]
) -> None:  # G3, G12
    async def read() -> None:
        async for _ in iterate(desks, gate):
            pass

    task = asyncio.ensure_future(read())
    await gate.reached()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open()
    await is_idle(desks)
    assert await desks.run(Desk.echo, 1) == 1


@pytest.mark.parametrize("iterate", [streams, maps])
async def test_two_that_wait_for_the_next_item_are_told(
    desks: poise.Pool[Desk], gate: Gate, iterate: Callable[..., AsyncIterator[Any]]
) -> None:
    async with desks.lease() as pool:
        held = pool.submit(Desk.hold, gate.path)
        items = iterate(pool, gate)
        first = asyncio.ensure_future(_next(items))
        await asyncio.sleep(0)  # it waits now
        with pytest.raises(RuntimeError, match="somebody else"):
            await anext(items)
        gate.open()
        assert await first == 0
        await held
        close: Any = items
        await close.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(items)
    await is_idle(desks)
