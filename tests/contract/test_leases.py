"""Leases: a whole worker for a while, and nobody else on it. Broadcasts: once on each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import poise
from tests.contract.desk import Desk

if TYPE_CHECKING:
    from tests.contract.conftest import Crash, OpenPool
    from tests.gate import Gate


async def test_a_leased_worker_serves_its_holder_alone(open_pool: OpenPool) -> None:
    async with open_pool(Desk, size=2, min_ready=2) as pool:
        async with pool.lease() as worker:
            mine = await worker.run(Desk.who)
            others = await asyncio.gather(*(pool.run(Desk.who) for _ in range(50)))
            assert mine not in others
            assert {await worker.run(Desk.who) for _ in range(10)} == {mine}
            assert pool.stats().leased == 1
        assert pool.stats().leased == 0
        assert pool.stats().free_slots == 2
        assert len({await pool.run(Desk.who) for _ in range(20)}) == 2


async def test_a_lease_waits_until_a_worker_is_free(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=1) as pool:
        held = pool.submit(Desk.hold, gate.path)
        await gate.reached()
        waiting = asyncio.ensure_future(_who(pool))
        behind = pool.submit(Desk.echo, "behind")
        await asyncio.sleep(0.02)
        assert not waiting.done()
        gate.open()
        await held
        await waiting
        assert await behind == "behind"


async def test_leases_are_given_in_order(open_pool: OpenPool) -> None:  # G5
    order: list[int] = []
    async with open_pool(Desk, size=1) as pool:

        async def take(number: int) -> None:
            async with pool.lease() as worker:
                order.append(number)
                await worker.run(Desk.echo, number)

        await asyncio.gather(*map(take, range(20)))
    assert order == list(range(20))


async def test_a_lease_can_give_up_waiting(open_pool: OpenPool, gate: Gate) -> None:  # G6
    async with open_pool(Desk, size=1) as pool:
        held = pool.submit(Desk.hold, gate.path)
        with pytest.raises(poise.DeadlineExceeded) as caught:
            async with pool.lease(timeout=0.05):
                raise AssertionError("not reached")
        assert not caught.value.started
        await gate.reached()
        gate.open()
        await held
        async with pool.lease(timeout=30) as worker:
            assert await worker.run(Desk.echo, 1) == 1


async def test_the_timeout_of_a_lease_says_nothing_about_its_calls(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=1) as pool, pool.lease(timeout=0.2) as worker:
        call = worker.submit(Desk.hold, gate.path, "x")
        await asyncio.sleep(0.3)
        gate.open()
        assert await call == "x"


async def test_a_cancelled_wait_for_a_lease_takes_no_worker(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=1) as pool:
        held = pool.submit(Desk.hold, gate.path)
        waiting = asyncio.ensure_future(_who(pool))
        await gate.reached()
        waiting.cancel()
        await asyncio.wait({waiting})
        gate.open()
        await held
        assert await pool.run(Desk.echo, 1) == 1
        assert pool.stats().leased == 0


async def test_a_worker_used_after_its_lease_is_refused(open_pool: OpenPool) -> None:
    async with open_pool(Desk, size=1) as pool:
        async with pool.lease() as worker:
            number = worker.id
        with pytest.raises(poise.LeaseExpired) as caught:
            await worker.run(Desk.echo, 1)
        assert caught.value.cause == "released"
        with pytest.raises(poise.LeaseExpired):
            worker.submit(Desk.echo, 1)
        with pytest.raises(poise.LeaseExpired):
            await worker.broadcast(Desk.echo, 1)
        async with pool.lease() as again:
            assert again.id == number
            with pytest.raises(poise.LeaseExpired):
                await worker.run(Desk.echo, 1)


async def test_calls_that_have_not_begun_end_with_the_lease(open_pool: OpenPool, gate: Gate) -> None:  # G1
    async with open_pool(Desk, size=1) as pool:
        async with pool.lease() as worker:
            running = worker.submit(Desk.hold, gate.path, "running")
            waiting = [worker.submit(Desk.hold, gate.path, "waiting") for _ in range(3)]
            await gate.reached()
        for call in waiting:
            with pytest.raises(poise.LeaseExpired):
                await call
        behind = pool.submit(Desk.echo, 1)
        await asyncio.sleep(0.01)
        assert not behind.done()  # the running one keeps the worker busy
        gate.open()
        assert await running == "running"
        assert await behind == 1
    assert gate.marks == ["running"]


async def test_a_lease_whose_worker_dies_is_lost(open_pool: OpenPool, crash: Crash, gate: Gate) -> None:  # G1, G8
    async with open_pool(Desk, size=1) as pool:
        async with pool.lease() as worker:
            running = worker.submit(Desk.hold, gate.path)
            waiting = worker.submit(Desk.echo, 1)
            await gate.reached()
            crash(pool, worker.id)
            with pytest.raises(poise.WorkerLost):
                await running
            with pytest.raises(poise.LeaseExpired) as caught:
                await waiting
            assert caught.value.cause == "lost"
            with pytest.raises(poise.LeaseExpired):
                await worker.run(Desk.echo, 1)
        assert await pool.run(Desk.echo, "fresh") == "fresh"
        assert pool.stats().leased == 0


async def test_a_lease_of_a_worker_with_several_slots_has_all_of_them(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=1, concurrency=3) as pool:
        held = [pool.submit(Desk.hold, gate.path, n) for n in range(2)]
        await gate.reached(2)
        waiting = asyncio.ensure_future(_who(pool))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        gate.open()
        await asyncio.gather(*held, waiting)
        async with pool.lease() as worker:
            other = pool.submit(Desk.echo, "other")
            assert await asyncio.gather(*(worker.run(Desk.echo, n) for n in range(9))) == list(range(9))
            assert not other.done()
        assert await other == "other"


async def test_a_lease_offers_maps_streams_and_options(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=2, min_ready=2) as pool, pool.lease() as worker:
        mine = await worker.run(Desk.who)
        assert {x async for x in worker.map(lambda desk, _: desk.name, range(20))} == {mine}
        assert [x async for x in worker.stream(Desk.count, 40)] == list(range(40))
        assert await worker.broadcast(Desk.who) == [mine]
        with pytest.raises(poise.DeadlineExceeded):
            await worker.options(timeout=0.05).run(Desk.hold, gate.path)
        gate.open()
        assert await worker.options(timeout=30).run(Desk.who) == mine
        with pytest.raises(poise.ConfigError, match="leased"):
            async with worker.lease():
                pass


async def test_an_exception_in_the_block_gives_the_worker_back(open_pool: OpenPool) -> None:
    async with open_pool(Desk, size=1) as pool:
        with pytest.raises(KeyError):
            async with pool.lease() as worker:
                await worker.run(Desk.echo, 1)
                raise KeyError
        assert pool.stats().leased == 0
        assert await pool.run(Desk.echo, 1) == 1


async def test_retries_on_a_lease_stay_on_its_worker(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=2, min_ready=2) as pool, pool.lease() as worker:
        assert await worker.options(retries=3, retry_on=ValueError).run(Desk.fail_first, gate.path, 2) == 3


# ---------------------------------------------------------------------------------------------------------------------
# Broadcasts


async def test_a_broadcast_runs_once_on_every_worker(open_pool: OpenPool) -> None:
    async with open_pool(Desk, size=3) as pool:  # min_ready=1: those that still start are among them
        names = await pool.broadcast(Desk.who)
        assert len(names) == len(set(names)) == 3
        assert [runs for *_, runs in await pool.broadcast(Desk.witness)] == [1, 1, 1]


async def test_a_broadcast_goes_before_what_waits(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=1) as pool:
        held = pool.submit(Desk.hold, gate.path, "held")
        await gate.reached()
        waiting = [pool.submit(Desk.mark, gate.path, n) for n in range(5)]
        broadcast = asyncio.ensure_future(pool.broadcast(Desk.mark, gate.path, "broadcast"))
        await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(held, broadcast, *waiting)
    assert gate.marks == ["held", "broadcast", *"01234"]


async def test_a_failed_broadcast_ends_everywhere_and_says_how_often_it_failed(open_pool: OpenPool) -> None:
    async with open_pool(Desk, size=3, min_ready=3) as pool:
        with pytest.raises(ValueError, match="everywhere") as caught:
            await pool.broadcast(Desk.fail, ValueError("everywhere"))
        assert "failed on 3 of 3" in caught.value.__notes__[0]
        assert pool.stats().in_flight == 0


async def test_a_broadcast_of_coroutines_is_awaited(open_pool: OpenPool) -> None:
    async with open_pool(Desk, size=2) as pool:
        assert await pool.broadcast(Desk.async_echo, 5) == [5, 5]
        assert await pool.broadcast("echo", 6) == [6, 6]


async def test_a_broadcast_meets_its_deadline(open_pool: OpenPool, gate: Gate) -> None:  # G6
    async with open_pool(Desk, size=2, min_ready=2) as pool:
        with pytest.raises(poise.DeadlineExceeded):
            await pool.options(timeout=0.1).broadcast(Desk.hold, gate.path)
        gate.open()


async def test_a_cancelled_broadcast_leaves_nothing_waiting(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=1) as pool:
        held = pool.submit(Desk.hold, gate.path, "held")
        await gate.reached()
        broadcast = asyncio.ensure_future(pool.broadcast(Desk.mark, gate.path, "broadcast"))
        await asyncio.sleep(0)
        broadcast.cancel()
        await asyncio.wait({broadcast})
        gate.open()
        await held
        await pool.run(Desk.echo, 1)
    assert gate.marks == ["held"]


async def test_a_broadcast_waits_for_busy_workers_even_where_nothing_else_may_wait(
    open_pool: OpenPool, gate: Gate
) -> None:  # G7
    async with open_pool(Desk, size=2, min_ready=2, backlog=0) as pool:
        held = pool.submit(Desk.hold, gate.path, "held")
        await gate.reached()
        broadcast = asyncio.ensure_future(pool.broadcast(Desk.hold, gate.path, "broadcast"))
        await gate.reached(2)
        gate.open()
        assert await held == "held"
        assert await broadcast == ["broadcast", "broadcast"]


async def test_the_death_of_a_worker_fails_the_broadcast(open_pool: OpenPool, crash: Crash, gate: Gate) -> None:  # G1
    async with open_pool(Desk, size=2, min_ready=2) as pool:
        broadcast = asyncio.ensure_future(pool.broadcast(Desk.hold, gate.path))
        await gate.reached(2)
        crash(pool, pool.stats().workers[0].id)
        gate.open()
        with pytest.raises(poise.WorkerLost):
            await broadcast
        assert await pool.run(Desk.echo, 1) == 1


async def _who(pool: poise.Pool[Any]) -> str:
    async with pool.lease() as worker:
        return await worker.run(Desk.who)
