"""`map` and `map_unordered`: lazy, bounded, in order or as ready, and tidy whatever ends them."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest

import poise
from tests.contract.desk import Desk, is_idle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.contract.conftest import OpenPool
    from tests.gate import Gate

pytestmark = pytest.mark.asyncio(loop_scope="module")

Desks = poise.Pool[Desk]


async def async_range(end: int) -> AsyncIterator[int]:
    for number in range(end):
        await asyncio.sleep(0)
        yield number


@pytest.mark.parametrize("items", [range, async_range], ids=["sync", "async"])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 300])
async def test_map_gives_results_in_order(desks: Desks, items: Callable[[int], Any], count: int) -> None:
    assert [x async for x in desks.map(Desk.echo, items(count))] == list(range(count))


@pytest.mark.parametrize("items", [range, async_range], ids=["sync", "async"])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 300])
async def test_map_unordered_gives_every_result_once(desks: Desks, items: Callable[[int], Any], count: int) -> None:
    assert sorted([x async for x in desks.map_unordered(Desk.echo, items(count))]) == list(range(count))


async def test_map_unordered_gives_what_is_ready_first(desks: Desks, gate: Gate) -> None:
    def first_waits(desk: Desk, path: str | None) -> str:
        return desk.hold(path, "held") if path else "free"

    results = desks.map_unordered(first_waits, [gate.path, None, None, None])
    assert [await anext(results) for _ in range(3)] == ["free"] * 3
    gate.open()
    assert await anext(results) == "held"
    with pytest.raises(StopAsyncIteration):
        await anext(results)


async def test_map_takes_names_lambdas_and_async_methods(desks: Desks) -> None:
    assert [x async for x in desks.map("echo", [1, 2])] == [1, 2]
    assert [x async for x in desks.map(lambda desk, x: -x, [1, 2])] == [-1, -2]
    assert [x async for x in desks.map(Desk.async_echo, [1, 2])] == [1, 2]


@pytest.mark.parametrize("is_ordered", [True, False])
@pytest.mark.parametrize("is_async", [True, False])
async def test_an_endless_source_is_taken_lazily(desks: Desks, is_ordered: bool, is_async: bool) -> None:  # G7
    taken = 0

    def source() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    async def async_source() -> AsyncIterator[int]:
        for number in source():
            await asyncio.sleep(0)
            yield number

    method = desks.map if is_ordered else desks.map_unordered
    given = 0
    async for _ in method(Desk.echo, async_source() if is_async else source(), buffersize=5):
        given += 1
        assert taken <= given + 5
        if given == 50:
            break
    await is_idle(desks)
    assert taken <= 55


async def test_by_default_twice_the_slots_are_taken(desks: Desks, gate: Gate) -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = desks.map(lambda desk, n: desk.hold(gate.path, n), source())
    first = asyncio.ensure_future(anext(results))
    await gate.reached(2)
    assert len(taken) == 4
    gate.open()
    assert await first == 0
    await results.aclose()


@pytest.mark.parametrize("is_ordered", [True, False])
async def test_the_first_error_ends_the_iteration_and_cancels_the_rest(desks: Desks, is_ordered: bool) -> None:
    def fail_at_ten(desk: Desk, number: int) -> int:
        if number == 10:
            raise ValueError(number)
        return number

    method = desks.map if is_ordered else desks.map_unordered
    results = []
    with pytest.raises(ValueError, match="10"):
        async for result in method(fail_at_ten, range(1_000_000)):
            results.append(result)  # noqa: PERF401
    if is_ordered:
        assert results == list(range(10))
    await is_idle(desks)


async def test_several_errors_at_once_are_not_reported_as_forgotten(desks: Desks) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        async for _ in desks.map(Desk.fail, [ValueError(n) for n in range(20)], buffersize=20):
            pass
    await is_idle(desks)
    gc.collect()


async def test_an_error_of_the_source_comes_after_the_calls_are_cancelled(desks: Desks) -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("source")

    with pytest.raises(KeyError, match="source"):
        async for _ in desks.map(Desk.echo, source()):
            pass

    async def async_source() -> AsyncIterator[int]:
        yield 1
        raise KeyError("source")

    with pytest.raises(KeyError, match="source"):
        async for _ in desks.map_unordered(Desk.echo, async_source()):
            pass
    await is_idle(desks)


async def test_results_come_while_an_async_source_is_slow(desks: Desks) -> None:
    more = asyncio.Event()

    async def source() -> AsyncIterator[int]:
        yield 1
        await more.wait()
        yield 2

    results = desks.map(Desk.echo, source())
    assert await anext(results) == 1  # although the source has not said whether there is more
    more.set()
    assert [x async for x in results] == [2]


async def test_breaking_out_cancels_the_calls_and_leaves_the_source(desks: Desks, gate: Gate) -> None:
    closed = False

    async def source() -> AsyncIterator[int]:
        nonlocal closed
        try:
            yield 0
            yield 1
            await asyncio.Event().wait()
        finally:
            closed = True

    async for _ in desks.map(Desk.echo, source()):
        break
    gc.collect()
    await is_idle(desks)
    async with asyncio.timeout(10):
        while not closed:
            await asyncio.sleep(0.001)


async def test_cancelling_the_consumer_cancels_the_calls(desks: Desks, gate: Gate) -> None:
    async def consume() -> None:
        async for _ in desks.map(lambda desk, n: desk.hold(gate.path, n), range(100)):
            pass

    consumer = asyncio.ensure_future(consume())
    await gate.reached(2)
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    gate.open()
    await is_idle(desks)
    assert len(gate.marks) == 2


async def test_map_waits_for_room(open_pool: OpenPool, gate: Gate) -> None:  # G7
    async with open_pool(Desk, size=1, backlog=1) as pool:
        held = pool.submit(Desk.hold, gate.path)
        results = asyncio.ensure_future(_collect(pool.map(Desk.echo, range(50), buffersize=20)))
        await gate.reached()
        gate.open()
        assert await results == list(range(50))
        await held


async def test_map_takes_options_of_its_view(desks: Desks, gate: Gate) -> None:  # G6
    with pytest.raises(poise.DeadlineExceeded):
        async for _ in desks.options(timeout=0.1).map(lambda desk, n: desk.hold(gate.path, n), range(2)):
            pass
    gate.open()
    await is_idle(desks)


async def test_a_progress_bar_changes_no_result(desks: Desks, capsys: pytest.CaptureFixture[str]) -> None:
    assert await _collect(desks.map(Desk.echo, range(30), progress=True)) == list(range(30))
    assert await _collect(desks.map(Desk.echo, async_range(30), progress=True)) == list(range(30))
    assert "Desk.echo" in capsys.readouterr().out
    async for _ in desks.map(Desk.echo, range(30), progress=True):
        break
    gc.collect()
    await is_idle(desks)


def odd_ones_fail(desk: Desk, number: int) -> int:
    if number % 2:
        raise ValueError(number)
    return number


async def test_errors_come_in_the_place_of_results_if_they_are_to_be_returned(desks: Desks) -> None:
    outcomes = await _collect(desks.map(odd_ones_fail, range(20), on_error="return"))
    assert [x if isinstance(x, int) else x.args[0] for x in outcomes] == list(range(20))
    assert [type(x) for x in outcomes] == [int, ValueError] * 10
    outcomes = await _collect(desks.map_unordered(odd_ones_fail, range(20), on_error="return"))
    assert sorted(x if isinstance(x, int) else x.args[0] for x in outcomes) == list(range(20))


@pytest.mark.parametrize("items", [range, async_range], ids=["sync", "async"])
async def test_errors_can_be_skipped(desks: Desks, items: Callable[[int], Any]) -> None:
    assert await _collect(desks.map(odd_ones_fail, items(20), on_error="skip")) == list(range(0, 20, 2))
    assert sorted(await _collect(desks.map_unordered(odd_ones_fail, items(20), on_error="skip"))) == list(
        range(0, 20, 2)
    )
    assert await _collect(desks.map(Desk.fail, [ValueError(n) for n in range(20)], on_error="skip")) == []


async def test_errors_of_poises_own_are_a_calls_outcome_too(desks: Desks, gate: Gate) -> None:
    view = desks.options(timeout=0.05)
    (outcome,) = await _collect(view.map(Desk.hold, [gate.path], on_error="return"))
    assert isinstance(outcome, poise.DeadlineExceeded)
    (outcome,) = await _collect(desks.map(Desk.echo, [(n for n in range(2))], on_error="return"))
    assert isinstance(outcome, poise.PayloadError)
    gate.open()
    await is_idle(desks)


@pytest.mark.parametrize("on_error", ["return", "skip"])
async def test_what_ends_every_call_ends_a_map_that_goes_on_after_errors(
    open_pool: OpenPool, gate: Gate, on_error: Any
) -> None:
    async with open_pool(Desk, size=1) as pool:
        results = pool.map(lambda desk, n: desk.hold(gate.path, n), range(10), on_error=on_error)
        first = asyncio.ensure_future(anext(results))
        await gate.reached()
        gate.open()
        assert await first == 0
        await pool.drain()
        with pytest.raises(poise.PoolClosed):
            await _collect(results)


async def test_an_error_of_the_source_is_not_taken_for_one_of_a_call(desks: Desks) -> None:
    def source() -> Iterator[int]:
        yield 0
        raise LookupError("the source's own")

    with pytest.raises(LookupError):
        await _collect(desks.map(Desk.echo, source(), on_error="return"))


async def test_the_bar_counts_failures(desks: Desks, capsys: pytest.CaptureFixture[str]) -> None:
    await _collect(desks.map(odd_ones_fail, range(20), on_error="skip", progress=True))
    shown = capsys.readouterr().out
    assert "20/20" in shown
    assert "10 failed" in shown


@pytest.mark.parametrize("on_error", ["ignore", None, True])
async def test_a_bad_on_error_is_refused_at_once(desks: Desks, on_error: Any) -> None:
    with pytest.raises(poise.ConfigError, match=r"on_error.*'raise', 'return', 'skip'"):
        desks.map(Desk.echo, [1], on_error=on_error)


async def test_an_option_that_a_map_does_not_have_is_refused(desks: Desks) -> None:
    elsewhere: Any = desks
    with pytest.raises(poise.UnknownOption, match=r"pool\.options\(timeout=\.\.\.\)"):
        elsewhere.map(Desk.echo, [1], timeout=3)
    with pytest.raises(poise.UnknownOption, match="did you mean buffersize="):
        elsewhere.map(Desk.echo, [1], buffer_size=3)


@pytest.mark.parametrize("buffersize", [0, -1, True, 2.5, "many"])
async def test_a_bad_buffersize_is_refused_at_once(desks: Desks, buffersize: Any) -> None:
    with pytest.raises(poise.ConfigError, match="buffersize"):
        desks.map(Desk.echo, [1], buffersize=buffersize)


async def _collect(results: AsyncIterator[Any]) -> list[Any]:
    return [result async for result in results]
