"""Arrays: small ones arrive as copies that may be written to; large ones read-only, unless the pool says otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import poise
    from tests.contract.conftest import SharePool

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMALL = [1, 100, 8191]
LARGE = [8192, 100_000, 2_200_000]
"""Lengths of arrays of 8 bytes an item; the last goes through Ray's object store."""


class Shelf:
    def __init__(self) -> None:
        self.kept: Any = np.zeros(50)

    def is_writable(self, array: Any) -> bool:
        return bool(array.flags.writeable)

    async def is_writable_async(self, array: Any) -> bool:
        return bool(array.flags.writeable)

    def change(self, array: Any) -> Any:
        array += 1
        return array

    def echo(self, value: Any) -> Any:
        return value

    def grow(self, value: bytearray) -> bytearray:
        value += b"!"
        return value

    def are_one(self, first: Any, second: Any) -> bool:
        return first is second

    def make(self, length: int) -> Any:
        return np.arange(length)

    def several(self, lengths: list[int]) -> Iterator[Any]:
        for length in lengths:
            yield np.arange(length)

    async def several_async(self, lengths: list[int]) -> AsyncIterator[Any]:
        for length in lengths:
            yield np.arange(length)

    def beginning(self, array: Any) -> Any:
        return array[:10]

    def keep(self) -> Any:
        return self.kept

    def look(self) -> float:
        return float(self.kept.sum())


async def check(pool: poise.Pool[Shelf], length: int, *, writable: bool) -> None:
    array = np.arange(length)
    assert await pool.run(Shelf.is_writable, array) is writable
    assert await pool.run(Shelf.is_writable_async, array) is writable
    assert await pool.run("is_writable", array=array) is writable
    back = await pool.run(Shelf.make, length)
    assert back.flags.writeable is writable
    assert (back == array).all()
    if writable:
        changed = await pool.run(Shelf.change, array)
        assert (changed == array + 1).all()
        changed += 1
    assert (array == np.arange(length)).all(), "the caller's own is left alone"
    for method in (Shelf.several, Shelf.several_async):
        async for item in pool.stream(method, [length] * 3):
            assert item.flags.writeable is writable
            assert (item == array).all()


async def test_small_arrays_arrive_writable_and_large_ones_do_not(share_pool: SharePool) -> None:
    async with share_pool(Shelf, size=1) as pool:
        for length in SMALL:
            await check(pool, length, writable=True)
        for length in LARGE:
            await check(pool, length, writable=False)


async def test_all_arrays_arrive_writable_if_the_pool_says_so(share_pool: SharePool) -> None:
    async with share_pool(Shelf, size=1, writable=True) as pool:
        for length in SMALL + LARGE:
            await check(pool, length, writable=True)


async def test_a_small_part_of_a_large_array_arrives_writable(share_pool: SharePool) -> None:
    async with share_pool(Shelf, size=1) as pool:
        part = await pool.run(Shelf.beginning, np.arange(100_000))
        part += 1
        assert (part == np.arange(1, 11)).all()


@pytest.mark.parametrize("writable", [False, True])
async def test_what_arrives_shares_nothing_with_what_was_sent(share_pool: SharePool, writable: bool) -> None:
    async with share_pool(Shelf, size=1, writable=writable) as pool:
        kept = await pool.run(Shelf.keep)
        kept += 1
        assert await pool.run(Shelf.look) == 0, "the worker's own is left alone"
        own = bytearray(b"x" * 100_000)
        back = await pool.run(Shelf.echo, own)
        back[0] = 0
        assert own[0] == ord("x")


@pytest.mark.parametrize(
    "make",
    [np.asfortranarray, lambda array: array[:, ::2], lambda array: array.astype("U3")],
    ids=["fortran", "strided", "text"],
)
async def test_arrays_of_any_shape_arrive_writable(share_pool: SharePool, make: Any) -> None:
    array = make(np.arange(600).reshape(20, 30))
    async with share_pool(Shelf, size=1) as pool:
        assert await pool.run(Shelf.is_writable, array)
        back = await pool.run(Shelf.echo, array)
        assert (back == array).all()
        assert back.flags.writeable


@pytest.mark.parametrize("length", [100_000, 3 << 20, 17 << 20])
async def test_a_bytearray_is_its_receivers_own_and_is_taken_as_it_was(share_pool: SharePool, length: int) -> None:
    async with share_pool(Shelf, size=1) as pool:
        sent = bytearray(b"x" * length)
        call = pool.submit(Shelf.echo, sent)
        sent[:] = bytes(length)  # the call is on its way: its worker is idle
        sent.append(1)
        came = await call
        assert came == b"x" * length
        came.append(2)
        grown = await pool.run(Shelf.grow, came)
        assert grown == came + b"!"


@pytest.mark.parametrize("length", [20_000, 1 << 20, 17 << 20])
async def test_an_array_that_is_written_to_after_submit_arrives_whole(share_pool: SharePool, length: int) -> None:
    async with share_pool(Shelf, size=1) as pool:
        sent = np.ones(length, dtype=np.uint8)
        call = pool.submit(Shelf.echo, sent)
        sent[:] = 2
        assert (await call == 1).all()


@pytest.mark.parametrize("kind", [bytes, bytearray, "\ud800".__mul__])
async def test_a_long_string_that_is_there_twice_arrives_as_one_object(share_pool: SharePool, kind: Any) -> None:
    async with share_pool(Shelf, size=1, writable=True) as pool:
        value = kind(100_000)
        first, second = await pool.run(Shelf.echo, [value, value])
        assert first == value
        assert first is second
        assert await pool.run(Shelf.are_one, value, value)
