"""Streams: items as they come, bounded, and stopped when nobody wants more."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import TYPE_CHECKING, Any

import pytest

import poise
from tests.contract.desk import Desk, is_idle
from tests.gate import Gate, leave_mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.contract.conftest import Crash, OpenPool

pytestmark = pytest.mark.asyncio(loop_scope="module")

Desks = poise.Pool[Desk]

WINDOW = 16


@pytest.mark.parametrize("count", [0, 1, 5, WINDOW, WINDOW + 1, 1000])
@pytest.mark.parametrize("function", [Desk.count, Desk.async_count, Desk.numbers, Desk.async_numbers])
async def test_every_item_comes_once_and_in_order(desks: Desks, function: Callable[..., Any], count: int) -> None:
    assert [item async for item in desks.stream(function, count)] == list(range(count))


async def test_many_streams_at_once_keep_apart(desks: Desks) -> None:
    async def take(count: int) -> list[int]:
        return [item async for item in desks.stream(Desk.count, count)]

    counts = [1, 50, 7, 100, 33, 64, 0, 2]
    assert await asyncio.gather(*map(take, counts)) == [list(range(count)) for count in counts]


async def test_what_is_no_iterable_is_an_error_that_names_run(desks: Desks) -> None:
    with pytest.raises(TypeError, match=r"run\(\)"):
        await anext(desks.stream(lambda desk: 3))  # type: ignore[call-overload]
    assert [item async for item in desks.stream("numbers", 3)] == [0, 1, 2]  # a name serves as well


@pytest.mark.parametrize("function", [Desk.endless, Desk.async_endless])
async def test_the_producer_is_at_most_a_window_ahead(
    desks: Desks, gate: Gate, function: Callable[..., Any]
) -> None:  # G7
    stream = desks.stream(function, gate.path)
    for taken in range(1, 3 * WINDOW):
        await anext(stream)
        assert len(gate.marks) <= taken + WINDOW
    await gate.reached(3 * WINDOW)
    await asyncio.sleep(0.05)  # time to run away in
    assert len(gate.marks) <= 3 * WINDOW - 1 + WINDOW
    await stream.aclose()
    assert (await closed(gate))[-1] == "closed"
    await is_idle(desks)


async def closed(gate: Gate) -> list[str]:
    async with asyncio.timeout(30):
        while "closed" not in gate.marks:
            await asyncio.sleep(0.002)
    return gate.marks


@pytest.mark.parametrize("function", [Desk.endless, Desk.async_endless])
async def test_breaking_out_closes_the_generator_and_frees_the_slot(
    desks: Desks, gate: Gate, function: Callable[..., Any]
) -> None:  # G3, G12
    async for item in desks.stream(function, gate.path):
        if item == 3:
            break
    await closed(gate)
    await is_idle(desks)


@pytest.mark.parametrize("function", [Desk.endless, Desk.async_endless])
async def test_cancelling_the_consumer_stops_the_producer(
    desks: Desks, gate: Gate, function: Callable[..., Any]
) -> None:
    async def consume() -> None:
        async for _ in desks.stream(function, gate.path):
            pass

    consumer = asyncio.ensure_future(consume())
    await gate.reached(3 * WINDOW)
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    del consumer
    gc.collect()
    await closed(gate)
    await is_idle(desks)


async def test_closing_a_stream_whose_wait_was_given_up_stops_the_producer(desks: Desks, gate: Gate) -> None:
    stream = desks.stream(Desk.count_then_hold, 2, gate.path)
    assert [await anext(stream), await anext(stream)] == [0, 1]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(stream)
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    gate.open()
    await closed(gate)
    await is_idle(desks)


async def test_an_exception_of_the_consumer_stops_the_producer(desks: Desks, gate: Gate) -> None:
    with pytest.raises(KeyError):
        async for _ in desks.stream(Desk.endless, gate.path):
            raise KeyError
    await closed(gate)


@pytest.mark.parametrize("function", [Desk.count_then_fail, Desk.async_count_then_fail])
@pytest.mark.parametrize("count", [0, 3, 40])
async def test_an_error_comes_after_the_items_before_it(
    desks: Desks, function: Callable[..., Any], count: int
) -> None:  # G10
    items: list[int] = []
    with pytest.raises(ValueError, match="in the middle") as caught:
        async for item in desks.stream(function, count):
            items.append(item)  # noqa: PERF401
    assert items == list(range(count))
    assert "count_then_fail" in str(caught.value.__cause__)


async def test_an_error_that_nobody_gets_to_see_is_not_reported(desks: Desks) -> None:
    async for _ in desks.stream(Desk.count_then_fail, 1):
        await is_idle(desks)  # the error is there
        break
    gc.collect()


async def test_an_item_that_cannot_be_pickled_ends_the_stream_after_those_before_it(desks: Desks, gate: Gate) -> None:
    def produce(desk: Desk) -> Iterator[Any]:
        try:
            yield 1
            yield desk.lock
            yield 3
        finally:
            leave_mark(gate.path, "closed")

    items = []
    with pytest.raises(poise.PayloadError, match="item"):
        async for item in desks.stream(produce):
            items.append(item)  # noqa: PERF401
    assert items == [1]
    await closed(gate)


async def test_an_item_that_fails_to_unpickle_ends_the_stream_after_those_before_it(desks: Desks, gate: Gate) -> None:
    def produce(desk: Desk) -> Iterator[Any]:
        try:
            yield 1
            yield Trojan()
            while True:
                yield 3
        finally:
            leave_mark(gate.path, "closed")

    items = []
    with pytest.raises(poise.PayloadError, match="item"):
        async for item in desks.stream(produce):
            items.append(item)  # noqa: PERF401
    assert items == [1]
    await closed(gate)
    await is_idle(desks)


async def test_a_stream_is_submitted_by_its_first_item(desks: Desks) -> None:
    submitted = desks.stats().submitted
    stream = desks.stream(Desk.count, 2)
    assert desks.stats().submitted == submitted
    assert await anext(stream) == 0
    assert desks.stats().submitted == submitted + 1
    await stream.aclose()


async def test_a_stream_that_was_never_begun_leaves_nothing(desks: Desks) -> None:
    stream = desks.stream(Desk.count, 2)
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_stream_ends_only_once(desks: Desks) -> None:
    stream = desks.stream(Desk.count, 1)
    assert await anext(stream) == 0
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_two_consumers_of_one_stream_are_told_so(desks: Desks, gate: Gate) -> None:
    stream = desks.stream(Desk.count_then_hold, 0, gate.path)
    first = asyncio.ensure_future(anext(stream))
    await gate.reached()
    with pytest.raises(RuntimeError, match="iterated"):
        await anext(stream)
    gate.open()
    assert await first == 0
    await stream.aclose()


async def test_big_items_arrive(desks: Desks) -> None:
    sizes = [len(item) async for item in desks.stream(lambda desk: (bytes(n * 300_000) for n in range(8)))]
    assert sizes == [n * 300_000 for n in range(8)]


async def test_a_stream_meets_its_deadline(desks: Desks, gate: Gate) -> None:  # G6
    items = []
    with pytest.raises(poise.DeadlineExceeded) as caught:
        async for item in desks.options(timeout=0.5).stream(Desk.count_then_hold, 2, gate.path):
            items.append(item)  # noqa: PERF401
    assert items == [0, 1]
    assert caught.value.started
    gate.open()
    await closed(gate)
    await is_idle(desks)


async def test_the_death_of_the_worker_ends_the_stream_after_the_items_before_it(
    open_pool: OpenPool, crash: Crash, gate: Gate
) -> None:  # G1, G2
    async with open_pool(Desk, size=1) as pool:
        stream = pool.options(retries=3).stream(Desk.count_then_hold, 3, gate.path)
        items = [await anext(stream), await anext(stream)]
        await gate.reached()
        crash(pool, pool.stats().workers[0].id)
        with pytest.raises(poise.WorkerLost):  # never repeated: the caller has seen a part of it
            while True:
                items.append(await anext(stream))
        assert items == [0, 1, 2]
        gate.open()
        assert [item async for item in pool.stream(Desk.count, 3)] == [0, 1, 2]


async def test_a_stream_of_which_nothing_was_seen_may_be_retried(
    open_pool: OpenPool, crash: Crash, gate: Gate
) -> None:  # G2
    async with open_pool(Desk, size=1) as pool:

        async def take() -> list[int]:
            return [item async for item in pool.options(retries=1).stream(Desk.count_then_hold, 0, gate.path)]

        taken = asyncio.ensure_future(take())
        await gate.reached(1)
        crash(pool, pool.stats().workers[0].id)
        async with asyncio.timeout(30):
            while gate.marks.count("held") < 2:
                await asyncio.sleep(0.002)
        gate.open()
        assert await taken == [0]


async def test_closing_the_pool_ends_a_stream(open_pool: OpenPool, gate: Gate) -> None:  # G1
    async with open_pool(Desk, size=1) as pool:
        stream = pool.stream(Desk.count_then_hold, 1, gate.path)
        assert await anext(stream) == 0
        waiting = asyncio.ensure_future(anext(stream))
        await gate.reached()
        if pool.stats().workers[0].lane == "local":
            gate.open()  # a thread cannot be killed
        await pool.aclose()
        with contextlib.suppress(StopAsyncIteration, poise.WorkerLost):
            await waiting


class Trojan:
    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


# ---------------------------------------------------------------------------------------------------------------------
# A stream that has a name, and outlives the loop over it


@pytest.mark.parametrize("leave", ["break", "raise"])
async def test_leaving_the_loop_stops_the_producer_of_a_named_stream_too(
    desks: Desks, gate: Gate, leave: str
) -> None:  # G3
    stream = desks.stream(Desk.endless, gate.path)
    with contextlib.suppress(ZeroDivisionError):
        async for item in stream:
            if leave == "break":
                break
            item / 0
    assert (await closed(gate))[-1] == "closed"
    await is_idle(desks)
    assert [item async for item in stream] == []
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_consumers_own_error_leaves_the_pool_through_a_named_stream(open_pool: OpenPool, gate: Gate) -> None:
    async def consume() -> None:
        async with open_pool(Desk, size=1) as pool:
            stream = pool.stream(Desk.endless, gate.path)
            async for item in stream:
                item / 0

    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(consume(), 30)


async def test_leaving_the_pool_ends_a_stream_of_which_nobody_is_about_to_take_an_item(
    open_pool: OpenPool, gate: Gate
) -> None:  # G1
    async with asyncio.timeout(30), open_pool(Desk, size=1) as pool:
        stream = pool.stream(Desk.endless, gate.path)
        assert await anext(stream) == 0
    with pytest.raises(poise.PoolClosed, match="nobody was about to take"):
        while True:  # what had arrived is still there
            await anext(stream)


async def test_leaving_the_pool_waits_for_a_loop_that_goes_on(open_pool: OpenPool) -> None:
    taken: list[int] = []

    async def consume(stream: poise.Stream[int]) -> None:
        async for item in stream:
            await asyncio.sleep(0)
            taken.append(item)

    async with open_pool(Desk, size=1) as pool:
        stream = pool.stream(Desk.count, 100)
        consumer = asyncio.ensure_future(consume(stream))
        while not taken:
            await asyncio.sleep(0.001)
    await consumer
    assert taken == list(range(100))


async def test_closing_a_stream_ends_a_wait_for_its_next_item(desks: Desks, gate: Gate) -> None:
    stream = desks.stream(Desk.count_then_hold, 0, gate.path)
    waiting = asyncio.ensure_future(anext(stream))
    await gate.reached()
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await waiting
    gate.open()
    await is_idle(desks)
