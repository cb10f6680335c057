"""Deaths around a shared pool: of a client, of a worker, of its owner."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

import poise
from tests.contract.desk import Desk
from tests.shared.conftest import kill, names, owner_of, program, until

if TYPE_CHECKING:
    from tests.gate import Gate


def die(desk: Desk, gate: str) -> None:
    desk.mark(gate, "died")
    os._exit(1)


async def test_a_client_that_dies_leaves_nothing_waiting_nothing_leased_and_no_stream(name: str, gate: Gate) -> None:
    async with poise.Pool.shared(name, Desk, size=3) as pool:
        await pool.until_ready(3)
        async with program(name, 3, "wait_in_line", gate.path) as other:
            await other.said()
            await gate.reached(1)
            stats = pool.stats()
            assert (stats.leased, stats.running, stats.waiting) == (1, 2, 2)
            other.kill()
        # What runs holds its slot until the worker says so (G3).
        await until(lambda: (s := pool.stats()).leased == s.waiting == s.running == 0 and s.abandoned == 1, within=5)
        gate.open()
        await until(lambda: pool.stats().free_slots == 3)
        assert gate.marks == ["theirs 0"]
        assert await pool.run(Desk.echo, 1) == 1


async def test_the_last_client_ends_the_pool_even_if_it_dies(name: str, gate: Gate) -> None:  # G12
    async with program(name, 3, "wait_in_line", gate.path) as other:
        await other.said()
        other.kill()
    await until(lambda: not names())


async def test_a_worker_that_dies_is_replaced_and_calls_are_told_or_tried_again(
    name: str, gate: Gate
) -> None:  # G2, G8
    async with poise.Pool.shared(name, Desk, size=1, poison_after=2) as pool:
        with pytest.raises(poise.WorkerLost):
            await pool.run(die, gate.path)
        with pytest.raises(poise.PoisonCall, match="die was running at each of 2"):
            await pool.options(retries=5, retry_delay=0).run(die, gate.path)
        assert len(gate.marks) == 3
        with pytest.raises(poise.PoisonCall):  # where this side alone knows after what to try again
            await pool.options(retries=5, retry_delay=0, retry_on=OSError).run(die, gate.path)
        assert len(gate.marks) == 5
        assert await pool.run(Desk.echo, 1) == 1


async def test_a_lease_whose_worker_dies_has_expired(name: str, gate: Gate) -> None:
    async with poise.Pool.shared(name, Desk, size=1) as pool, pool.lease() as worker:
        with pytest.raises(poise.WorkerLost):
            await worker.run(die, gate.path)
        with pytest.raises(poise.LeaseExpired) as caught:
            await worker.run(Desk.echo, 1)
        assert caught.value.cause == "lost"


async def test_when_the_owner_dies_what_had_begun_is_in_doubt_and_the_rest_goes_to_the_next_one(
    name: str, gate: Gate
) -> None:  # G1, G2, G8
    async with poise.Pool.shared(name, Desk, size=1) as pool, poise.Pool.shared(name, Desk) as other:
        running = pool.submit(Desk.hold, gate.path, "running")
        await gate.reached()
        again = pool.options(retries=1, retry_delay=0).submit(Desk.mark, gate.path, "again")
        waiting = [each.submit(Desk.echo, n) for n, each in enumerate([pool, other] * 5)]
        stream = aiter(other.stream(lambda desk: iter(range(3))))
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        assert other.stats().waiting == 12
        owner = owner_of(name)
        kill(owner)
        with pytest.raises(poise.WorkerLost, match="the owner of the shared pool") as caught:
            await running
        assert caught.value.started
        assert await asyncio.gather(*waiting) == list(range(10))
        await again
        assert await first == 0
        assert [n async for n in stream] == [1, 2]
        assert owner_of(name) != owner
        assert pool.stats().ready == other.stats().ready == 1
        assert gate.marks == ["running", "again"]


async def test_what_may_run_twice_runs_again_at_the_next_owner(name: str, gate: Gate) -> None:  # G2
    async with poise.Pool.shared(name, Desk, size=1) as pool:
        running = pool.options(retries=1, retry_delay=0).submit(Desk.hold, gate.path, "running")
        await gate.reached()
        kill(owner_of(name))
        await gate.reached(2)
        gate.open()
        await running
        assert gate.marks == ["running", "running"]


async def test_a_lease_ends_with_the_owner(name: str) -> None:
    async with poise.Pool.shared(name, Desk, size=1) as pool:
        async with pool.lease() as worker:
            await worker.run(Desk.echo, 1)
            kill(owner_of(name))
            await until(lambda: pool.stats().ready == 0)
            with pytest.raises(poise.LeaseExpired) as caught:
                await worker.run(Desk.echo, 1)
            assert caught.value.cause == "lost"
        assert await pool.run(Desk.echo, 1) == 1
