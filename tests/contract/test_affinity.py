"""Calls with a key go where that was served last, on every lane."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

import poise
from tests.contract.desk import Desk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.contract.conftest import Crash, OpenPool, SharePool
    from tests.gate import Gate

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Cache(Desk):
    """Keeps what it has loaded, as a worker does that keys are for."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: dict[str, int] = {}

    def load(self, name: str) -> tuple[str, int]:
        """Who has it, and how often it was asked for there."""
        with self.busy():
            self.loaded[name] = self.loaded.get(name, 0) + 1
            return self.name, self.loaded[name]

    @poise.batched(max=4)
    def load_together(self, names: list[str]) -> list[str]:
        return [self.name for _ in names]

    def fail_here(self, worker: str) -> str:
        """Fail on one worker."""
        if self.name == worker:
            raise ValueError("not here")
        return self.name


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def caches(share_pool: SharePool) -> AsyncIterator[poise.Pool[Cache]]:
    """Three workers for all cases here."""
    async with share_pool(Cache, size=3) as pool:
        yield pool


async def test_each_key_keeps_its_worker(caches: poise.Pool[Cache]) -> None:
    before = caches.stats()
    names = [f"keeps {number}" for number in range(6)]
    for count in range(1, 6):
        for name in names:
            assert (await caches.options(key=name).run(Cache.load, name))[1] == count
    stats = caches.stats()
    assert (stats.at_home - before.at_home, stats.away - before.away) == (24, 0)


async def test_a_key_is_text_a_number_or_bytes(caches: poise.Pool[Cache]) -> None:
    for key in ("kind", 7, b"kind"):
        view = caches.options(key=key)
        assert len({await view.run(Cache.who) for _ in range(5)}) == 1


async def test_a_call_goes_elsewhere_at_once_or_waits_as_long_as_it_has_patience(
    caches: poise.Pool[Cache], gate: Gate
) -> None:  # G4
    view = caches.options(key="patience")
    home = await view.run(Cache.who)
    held = view.submit(Cache.hold, gate.path, "held")
    await gate.reached()
    patient = view.options(patience=math.inf).submit(Cache.who)
    impatient = view.options(patience=0.01).submit(Cache.who)
    assert await impatient != home
    assert await caches.run(Cache.who) != home  # nobody else waits for the patient one
    assert not patient.done()
    gate.open()
    assert await patient == home
    assert await held == "held"


async def test_a_patient_call_can_be_cancelled_and_expires(caches: poise.Pool[Cache], gate: Gate) -> None:  # G6
    view = caches.options(key="given up", patience=60.0)
    await view.run(Cache.who)
    held = view.submit(Cache.hold, gate.path, "held")
    await gate.reached()
    given_up = view.submit(Cache.mark, gate.path, "never")
    late = view.options(timeout=0.02).submit(Cache.mark, gate.path, "never")
    given_up.cancel()
    with pytest.raises(poise.DeadlineExceeded) as caught:
        await late
    assert not caught.value.started
    gate.open()
    await held
    assert gate.marks == ["held"]


async def test_a_retry_goes_to_another_worker_and_the_key_with_it(caches: poise.Pool[Cache]) -> None:
    view = caches.options(key="retried", retries=1, retry_on=ValueError, retry_delay=0)
    home = await view.run(Cache.who)
    elsewhere = await view.run(Cache.fail_here, home)
    assert elsewhere != home
    assert await view.run(Cache.who) == elsewhere


async def test_a_lease_takes_the_worker_of_its_key(caches: poise.Pool[Cache]) -> None:
    view = caches.options(key="leased")
    home = await view.run(Cache.who)
    async with view.lease() as worker:
        assert await worker.run(Cache.who) == home


async def test_batches_streams_and_maps_have_keys_too(caches: poise.Pool[Cache]) -> None:
    view = caches.options(key="many", patience=60.0)
    home = await view.run(Cache.who)
    together = await asyncio.gather(*(view.run(Cache.load_together, str(n)) for n in range(8)))
    assert set(together) == {home}
    assert {name async for name, _ in view.map(Cache.load, ["a"] * 10)} == {home}
    assert [n async for n in view.stream(Cache.count, 3)] == [0, 1, 2]
    assert await view.run(Cache.who) == home
    assert len(set(await caches.options(key="many").broadcast(Cache.who))) == 3
    assert await view.run(Cache.who) == home


async def test_short_calls_sent_ahead_stay_at_home(caches: poise.Pool[Cache]) -> None:
    for _ in range(20):
        await caches.run(Cache.who)
    view = caches.options(key="short", patience=60.0)
    home = await view.run(Cache.who)
    assert set(await asyncio.gather(*(view.run(Cache.who) for _ in range(100)))) == {home}


async def test_the_key_of_a_worker_that_dies_goes_to_another(open_pool: OpenPool, crash: Crash) -> None:
    async with open_pool(Cache, size=2) as pool:
        await pool.until_ready()
        view = pool.options(key="a", patience=math.inf)
        home = await view.run(Cache.who)
        (worker,) = [worker.id for worker in pool.stats().workers if worker.finished]
        crash(pool, worker)
        async with asyncio.timeout(60):
            while worker in {each.id for each in pool.stats().workers}:
                await asyncio.sleep(0.002)
        elsewhere = await view.run(Cache.who)
        assert elsewhere != home
        assert {await view.run(Cache.who) for _ in range(5)} == {elsewhere}


async def test_a_reload_forgets_the_old_workers(open_pool: OpenPool) -> None:
    async with open_pool(Cache, size=2) as pool:
        view = pool.options(key="a", patience=math.inf)
        home = await view.run(Cache.who)
        await pool.reload()
        new = {await view.run(Cache.who) for _ in range(5)}
        assert len(new) == 1
        assert home not in new
