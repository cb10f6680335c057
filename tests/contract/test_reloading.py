"""A rolling reload: new workers first, old ones drained, calls always served, all or none."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import poise
from tests.contract.desk import Desk, until
from tests.gate import Gate, wait_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.conftest import Crash, OpenPool


class Model(Desk):
    """One of a version, whose constructor fails while a file says so."""

    def __init__(self, version: int, broken: str = "") -> None:
        super().__init__()
        if broken and Path(broken).exists():
            raise LookupError(f"no weights of version {version}")
        self.version = version

    def which(self, number: int = 0) -> tuple[int, int]:
        return self.version, number

    def versions(self, gate: str) -> Iterator[int]:
        yield self.version
        wait_at(gate)
        yield self.version


def switch(path: str, *, is_broken: bool) -> str:
    """Let constructors fail, or no longer."""
    broken = Path(f"{path}.broken")
    if is_broken:
        broken.touch()
    else:
        broken.unlink(missing_ok=True)
    return str(broken)


def generations(stats: poise.Stats) -> set[int]:
    return {worker.generation for worker in stats.workers if worker.state != "retiring"}


async def test_calls_are_served_while_the_new_workers_take_over(open_pool: OpenPool) -> None:  # G1, G2
    async with open_pool(lambda: Model(1), size=2, min_ready=2) as pool:
        reloading = asyncio.ensure_future(pool.reload(lambda: Model(2)))
        seen: list[int] = []
        while not reloading.done():
            answers = await asyncio.gather(*(pool.submit(Model.which, n) for n in range(10)))
            assert [number for _, number in answers] == list(range(10))
            seen += [version for version, _ in answers]
            assert pool.stats().ready >= 2, "new ones are ready before old ones leave"
        await reloading
        assert set(seen) == {1, 2} or set(seen) == {1}
        assert {(await pool.run(Model.which))[0] for _ in range(10)} == {2}
        stats = pool.stats()
        assert (stats.generation, generations(stats)) == (1, {1})
        assert (stats.deaths, stats.lost, stats.retried, stats.size) == (0, 0, 0, 2)
        pool_id = stats.workers[0].id
        await pool.replace(pool_id)
        await pool.resize(3)
        await pool.until_ready()
        assert {version for version, _ in await pool.broadcast(Model.which)} == {2}, "later ones are new too"


async def test_the_same_factory_is_asked_anew_where_no_other_is_given(open_pool: OpenPool) -> None:
    async with open_pool(lambda: Model(1), size=1) as pool:
        name = await pool.run(Model.who)
        await pool.reload()
        assert await pool.run(Model.who) != name
        await pool.reload(surge=0)
        assert pool.stats().generation == 2
        assert await pool.run(Model.which) == (1, 0)
        assert pool.stats().deaths == 0


async def test_a_lease_and_a_stream_see_one_generation(open_pool: OpenPool, gate: Gate) -> None:
    path = gate.path
    async with open_pool(lambda: Model(1), size=2, min_ready=2) as pool:
        stream = pool.stream(Model.versions, path)
        assert await anext(stream) == 1
        async with pool.lease() as worker:
            assert (await worker.run(Model.which))[0] == 1
            await pool.reload(lambda: Model(2))
            assert (await worker.run(Model.which))[0] == 1
            assert (await pool.run(Model.which))[0] == 2
            gate.open()
            assert [version async for version in stream] == [1]
        stats = await until(pool, lambda stats: len(stats.workers) == 2)
        assert generations(stats) == {1}


@pytest.mark.parametrize("surge", [0, 1, 2])
async def test_if_a_new_one_cannot_start_the_pool_stays_with_the_old(
    open_pool: OpenPool, gate: Gate, surge: int
) -> None:  # G8
    broken = switch(gate.path, is_broken=True)
    async with open_pool(lambda: Model(1), size=2, min_ready=2) as pool:
        with pytest.raises(poise.ReplaceFailed, match="no weights of version 2") as caught:
            await pool.reload(lambda: Model(2, broken), surge=surge)
        assert isinstance(caught.value.__cause__, LookupError)
        await until(pool, lambda stats: stats.ready == len(stats.workers) == 2)
        assert {(await pool.run(Model.which))[0] for _ in range(10)} == {1}
        assert pool.stats().generation == 0
        switch(gate.path, is_broken=False)
        await pool.reload(lambda: Model(2, broken), surge=surge)
        assert {(await pool.run(Model.which))[0] for _ in range(10)} == {2}
        assert (pool.stats().generation, pool.stats().lost) == (2, 0)


async def test_a_factory_that_cannot_be_used_changes_nothing(open_pool: OpenPool) -> None:
    async with open_pool(lambda: Model(1), size=1) as pool:
        with pytest.raises(poise.ConfigError, match="factory"):
            await pool.reload(Model)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        with pytest.raises(poise.ConfigError, match="surge=-1"):
            await pool.reload(surge=-1)
        assert (pool.stats().generation, await pool.run(Model.which)) == (0, (1, 0))


async def test_a_second_reload_waits_for_the_first(open_pool: OpenPool) -> None:
    async with open_pool(lambda: Model(1), size=1) as pool:
        await asyncio.gather(pool.reload(lambda: Model(2)), pool.reload(lambda: Model(3)))
        assert await pool.run(Model.which) in [(2, 0), (3, 0)]
        assert pool.stats().generation == 2


async def test_of_many_reloads_each_waits_for_those_before_it(open_pool: OpenPool) -> None:
    async with open_pool(lambda: Model(1), size=1) as pool:
        await asyncio.gather(pool.reload(lambda: Model(2)), *(pool.reload() for _ in range(3)))
        assert await pool.run(Model.which, 0) == (2, 0)  # the same one again is the one that the first has brought
        assert pool.stats().generation == 4


async def test_a_broken_pool_is_mended_by_a_reload(open_pool: OpenPool, gate: Gate, crash: Crash) -> None:  # G8
    broken = switch(gate.path, is_broken=False)
    async with open_pool(lambda: Model(1, broken), size=1) as pool:
        assert await pool.run(Model.which) == (1, 0)
        switch(gate.path, is_broken=True)
        crash(pool, pool.stats().workers[0].id)
        await until(pool, lambda stats: stats.deaths >= 2)
        await pool.reload(lambda: Model(2))
        assert await pool.run(Model.which) == (2, 0)


async def test_a_reload_ends_with_its_pool(open_pool: OpenPool) -> None:  # G1, G12
    pool = await open_pool(lambda: Model(1), size=1).open()
    reloading = asyncio.ensure_future(pool.reload(lambda: Model(2)))
    await asyncio.sleep(0)
    await pool.aclose()
    with pytest.raises(poise.PoolClosed):
        await reloading
    with pytest.raises(poise.PoolClosed):
        await pool.reload()
