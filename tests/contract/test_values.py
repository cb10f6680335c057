"""Values: what a call gives back is what it gave back, whatever its shape and whatever the worker does next."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import ray

import poise
from tests.contract.desk import is_idle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.conftest import SharePool

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("shared_ray"),  # for the references
]

BIG = 17 << 20  # bytes; more than express carries


class Ledger:
    """Holds an array, and gives out that array itself."""

    def __init__(self, size: int = 8) -> None:
        self.state = np.zeros(size, dtype=np.uint8)

    def resize(self, size: int) -> None:
        self.state = np.zeros(size, dtype=np.uint8)

    def step(self) -> Any:
        self.state += 1
        return self.state

    def steps(self, count: int) -> Iterator[Any]:
        for _ in range(count):
            yield self.step()

    def refs(self, count: int) -> Iterator[Any]:
        for number in range(count):
            yield [number, ray.put(number)]

    def count(self, count: int, *_: Any) -> Iterator[int]:
        yield from range(count)

    def echo(self, value: Any) -> Any:
        return value

    def twice(self, value: Any) -> Iterator[Any]:
        yield value
        yield value

    def ignore(self, *_: Any) -> int:
        return 1


@pytest.mark.parametrize("size", [70_000, 3 << 20, BIG])
@pytest.mark.parametrize("kind", [bytes, bytearray, "é".__mul__])
async def test_a_long_string_comes_back_as_it_was(share_pool: SharePool, kind: Any, size: int) -> None:
    async with share_pool(Ledger, size=1) as pool:
        value = kind(size)
        for sent in (value, [value, 1], {"key": value}, {"deep": [{"er": value}]}, [value, {1, 2}, value]):
            came = await pool.run(Ledger.echo, sent)
            assert came == sent
            assert type(came) is type(sent)
        assert [item async for item in pool.stream(Ledger.twice, value)] == [value, value]


@pytest.mark.parametrize("size", [8, 100_000])
async def test_a_result_does_not_change_with_the_workers_own_array(share_pool: SharePool, size: int) -> None:
    async with share_pool(Ledger, size=1) as pool:
        await pool.run(Ledger.resize, size)
        results = await asyncio.gather(*[pool.submit(Ledger.step) for _ in range(200)])
        assert [int(result[0]) for result in results] == list(range(1, 201))


async def test_a_big_result_does_not_either(share_pool: SharePool) -> None:
    async with share_pool(Ledger, size=1) as pool:
        await pool.run(Ledger.resize, BIG)
        results = await asyncio.gather(*[pool.submit(Ledger.step) for _ in range(4)])
        assert [int(result[-1]) for result in results] == [1, 2, 3, 4]


@pytest.mark.parametrize("size", [8, BIG])
async def test_items_of_a_stream_do_not_either(share_pool: SharePool, size: int) -> None:
    async with share_pool(Ledger, size=1) as pool:
        await pool.run(Ledger.resize, size)
        assert [int(item[-1]) async for item in pool.stream(Ledger.steps, 6)] == [1, 2, 3, 4, 5, 6]


SHAPES = {
    "no rows": np.empty((0, 3)),
    "no dimensions": np.array(3.0),
    "Fortran order": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "every other column": np.arange(12.0).reshape(3, 4)[:, ::2],
    "read-only": np.broadcast_to(np.arange(3), (2, 3)),
}


@pytest.mark.parametrize("name", SHAPES)
async def test_arrays_of_any_shape_travel_both_ways(share_pool: SharePool, name: str) -> None:
    given = SHAPES[name]
    async with share_pool(Ledger, size=1) as pool:
        calls = [pool.submit(Ledger.echo, given) for _ in range(3)]
        beside = [pool.submit(Ledger.ignore, number) for number in range(10)]
        for result in await asyncio.gather(*calls):
            assert result.shape == given.shape
            assert (result == given).all()
        assert await asyncio.gather(*beside) == [1] * 10
        assert [item.shape async for item in pool.stream(Ledger.echo, [given, given])] == [given.shape] * 2


async def test_values_of_many_buffers_travel_together(share_pool: SharePool) -> None:
    many = [np.full(3, number) for number in range(1500)]
    async with share_pool(Ledger, size=1, concurrency=4) as pool:
        results = await asyncio.gather(*[pool.submit(Ledger.echo, many) for _ in range(8)])
        for result in results:
            assert [int(array[0]) for array in result] == list(range(1500))


@pytest.mark.parametrize("name", ["bad\ud800", "x" * 2000])
async def test_a_name_that_cannot_be_one_hurts_its_own_call_alone(share_pool: SharePool, name: str) -> None:
    async with share_pool(Ledger, size=1) as pool:
        wrong, right = pool.submit(name), pool.submit(Ledger.ignore)
        with pytest.raises(poise.PayloadError, match="name"):
            await wrong
        assert await right == 1


async def test_items_that_only_ray_can_carry_come_in_order(share_pool: SharePool) -> None:
    async with share_pool(Ledger, size=1) as pool:
        assert [item[0] async for item in pool.stream(Ledger.refs, 300)] == list(range(300))


async def test_a_stream_goes_on_beside_calls_with_references_that_wait_for_it(share_pool: SharePool) -> None:
    reference = ray.put(1)
    async with asyncio.timeout(60), share_pool(Ledger, size=1) as pool:
        for _ in range(50):  # a short call, which is sent ahead from now on
            await pool.run(Ledger.ignore, [reference])

        async def read(stream: poise.Stream[Any]) -> int:
            return len([item async for item in stream])

        readers = [
            asyncio.ensure_future(read(pool.stream(Ledger.refs, 60))),
            asyncio.ensure_future(read(pool.stream(Ledger.count, 60, [reference]))),
        ]
        await asyncio.sleep(0)
        calls = [pool.submit(Ledger.ignore, [reference]) for _ in range(8)]
        assert await asyncio.gather(*readers) == [60, 60]
        assert await asyncio.gather(*calls) == [1] * 8


@pytest.mark.parametrize("turns", [0, 1, 3])
async def test_a_stream_that_is_cancelled_on_its_way_leaves_its_worker_free(share_pool: SharePool, turns: int) -> None:
    reference = ray.put(1)
    async with share_pool(Ledger, size=1) as pool:
        for _ in range(10):
            stream = pool.stream(Ledger.count, 10_000, [reference])
            first = asyncio.ensure_future(anext(stream))
            for _ in range(turns):
                await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait({first})
            await stream.aclose()
            await is_idle(pool)
        assert await pool.run(Ledger.ignore) == 1
