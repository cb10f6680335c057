"""A pool that processes share: one scheduler, for whoever calls."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import ray

import poise
from poise.testing import local_pools
from tests.contract.desk import Desk
from tests.shared.conftest import names, owner_of, program

if TYPE_CHECKING:
    from tests.gate import Gate


class Failing:
    def __init__(self) -> None:
        raise LookupError("no weights here")


async def test_processes_that_share_a_pool_call_the_same_workers(name: str) -> None:
    async with poise.Pool.shared(name, Desk, size=2) as pool, program(name, 2, "call", 200) as other:
        await pool.until_ready(2)
        mine = {await pool.run(Desk.who) for _ in range(20)}
        theirs = await other.said()
        assert mine == set(theirs)
        assert names() == {name}
        assert pool.stats().completed >= 220


async def test_eight_that_start_at_once_make_one_pool(name: str) -> None:
    gate = threading.Barrier(8)
    owners: list[int] = []

    async def use() -> None:
        await asyncio.to_thread(gate.wait, 60)
        async with poise.Pool.shared(name, Desk, size=1) as pool:
            assert await pool.run(Desk.echo, 1) == 1
            owners.append(owner_of(name))
            await asyncio.to_thread(gate.wait, 60)

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(8) as threads:
        for _ in range(2):
            await asyncio.gather(*(loop.run_in_executor(threads, asyncio.run, use()) for _ in range(8)))
            assert len(owners) == 8
            assert len(set(owners)) == 1
            owners.clear()
            assert not names()  # the last one waits for the end of it


async def test_who_asks_for_another_pool_than_there_is_hears_so(name: str) -> None:
    async with poise.Pool.shared(name, Desk, size=1, kill_after=2.0) as pool:
        for options in ({"size": 2}, {"backlog": 7}, {"detached": True}):
            with pytest.raises(poise.ConfigError, match=f"opened with {next(iter(options))}="):
                await poise.Pool.shared(name, Desk, **options).open()
        async with poise.Pool.shared(name, Desk, size=1), poise.Pool.shared(name, Desk, kill_after=2.0):
            pass
        assert await pool.run(Desk.echo, 1) == 1


async def test_what_is_not_there_cannot_be_joined(name: str) -> None:
    with pytest.raises(poise.PoolClosed, match="no shared pool"):
        await poise.Pool.join(name).open()
    for joining in ({"size": 2}, {"lane": "express"}):
        with pytest.raises(poise.ConfigError, match="takes the pool as it is"):
            poise.Pool.join(name, **joining)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"logs": "forward"}, "leaves to Ray"),
        ({"health": poise.Health(counts=OSError)}, "unpickles no exception"),
        ({"health": poise.Health(lambda desk: True)}, "a method of the workers' class"),
        ({"detached": 1}, "detached"),
    ],
)
def test_options_that_no_shared_pool_has_are_refused_at_once(options: dict[str, Any], text: str) -> None:
    with pytest.raises(poise.ConfigError, match=text):
        poise.Pool.shared("models", Desk, **options)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 101, 7])
def test_names_that_are_none_are_refused(name: Any) -> None:
    with pytest.raises(poise.ConfigError, match="name="):
        poise.Pool.shared(name, Desk)


async def test_a_pool_that_cannot_start_says_why_to_all(name: str) -> None:  # G8
    pools = [poise.Pool.shared(name, Failing, size=1, start_timeout=30) for _ in range(2)]
    outcomes = await asyncio.gather(*(pool.open() for pool in pools), return_exceptions=True)
    for outcome in outcomes:
        assert isinstance(outcome, poise.PoolBroken)
        assert isinstance(outcome.__cause__, LookupError)
    assert not names()


async def test_a_client_that_only_joins_has_all_that_others_have(name: str, gate: Gate) -> None:
    async with poise.Pool.shared(name, Desk, size=2) as opener, poise.Pool.join(name) as pool:
        assert await pool.run(Desk.echo, 5) == 5
        assert [n async for n in pool.map(Desk.echo, range(5))] == [0, 1, 2, 3, 4]
        with pytest.raises(TypeError) as caught:
            await pool.run("echo")
        assert caught.value.__cause__ is not None
        await pool.until_ready(2)
        assert len(set(await pool.broadcast(Desk.who))) == 2
        async with pool.lease() as worker:
            assert await worker.run(Desk.who) == await worker.run(Desk.who)
            assert opener.stats().leased == 1
        before = {worker.id for worker in pool.stats().workers}
        assert await pool.replace(min(before)) not in before
        await pool.reload(Desk)
        assert pool.stats().generation == 1
        await pool.resize(1)
        assert opener.stats().size == 1
        with pytest.raises(poise.ConfigError):
            await pool.resize(0)


async def test_the_backlog_is_that_of_all_clients(name: str, gate: Gate) -> None:  # G7
    async with poise.Pool.shared(name, Desk, size=1, backlog=2) as pool, poise.Pool.join(name) as other:
        held = pool.submit(Desk.hold, gate.path)
        await gate.reached()
        waiting = [pool.submit(Desk.echo, 0), other.submit(Desk.echo, 1)]
        with pytest.raises(poise.Overloaded) as caught:
            await other.submit(Desk.echo, 2)
        assert (caught.value.depth, caught.value.limit) == (2, 2)
        parked = asyncio.ensure_future(other.run(Desk.echo, 3))  # it waits for room
        gate.open()
        assert await asyncio.gather(*waiting, parked) == [0, 1, 3]
        await held


async def test_clients_share_the_workers_by_time_and_not_by_the_number_of_their_calls(name: str, gate: Gate) -> None:
    async with poise.Pool.shared(name, Desk, size=1) as pool, poise.Pool.join(name) as other:
        held = pool.submit(Desk.hold, gate.path)
        await gate.reached()
        many = [pool.submit(Desk.mark, gate.path, f"many {n}") for n in range(20)]
        await asyncio.sleep(0)
        assert pool.stats().waiting == 20
        few = [other.submit(Desk.mark, gate.path, "few")]
        assert other.stats().waiting == 21
        gate.open()
        await asyncio.gather(held, *many, *few)
        assert gate.marks.index("few") < 5


async def test_a_deadline_that_passes_while_a_call_waits_says_that_it_never_runs(name: str, gate: Gate) -> None:  # G6
    async with poise.Pool.shared(name, Desk, size=1) as pool:
        held = pool.submit(Desk.hold, gate.path)
        await gate.reached()
        with pytest.raises(poise.DeadlineExceeded) as caught:
            await pool.options(timeout=0.05).run(Desk.mark, gate.path, "late")
        assert (caught.value.started, caught.value.timeout) == (False, 0.05)
        gate.open()
        await held
        assert "late" not in gate.marks


async def test_large_values_do_not_pass_through_the_owner(name: str) -> None:
    async with poise.Pool.shared(name, Desk, size=1) as pool:
        owner = psutil.Process(owner_of(name))
        before = owner.memory_full_info().uss
        array = np.arange(8 << 20)
        result = await pool.run(Desk.echo, array)
        assert np.array_equal(result, array)
        assert owner.memory_full_info().uss < before + array.nbytes / 2
        reference = ray.put(3)
        assert await pool.run(Desk.echo, reference) == 3
        assert ray.get((await pool.run(Desk.echo, [reference]))[0]) == 3


async def test_functions_of_this_process_and_their_errors_pass_through_an_owner_that_cannot_import_them(
    name: str,
) -> None:
    class Odd(Exception):
        pass

    def fail(desk: Desk) -> None:
        raise Odd(os.getpid())

    async with poise.Pool.shared(name, Desk, size=1) as pool:
        with pytest.raises(Odd):
            await pool.run(fail)
        with pytest.raises(poise.PayloadError):
            await pool.run(Desk.echo, threading.Lock())


async def test_in_tests_without_ray_each_process_has_its_own() -> None:
    with local_pools():
        async with poise.Pool.shared("models", Desk, size=1) as pool:
            assert await pool.run(Desk.echo, 1) == 1
        with pytest.raises(poise.ConfigError, match="none to join"):
            poise.Pool.join("models")


async def test_many_views_and_clients_leave_in_any_order(name: str) -> None:  # G12
    async with AsyncExitStack() as stack:
        pools = [await stack.enter_async_context(poise.Pool.shared(name, Desk, size=1)) for _ in range(3)]
        await pools[0].aclose()
        assert await pools[2].run(Desk.echo, 1) == 1
        assert names() == {name}
    assert not names()


async def test_large_answers_of_a_batch_come_through(name: str) -> None:  # G1
    async with poise.Pool.shared(name, size=1) as pool:
        answers = await asyncio.gather(*(pool.submit(numbers, count) for count in (1, 20_000, 30_000)))
        assert [len(answer) for answer in answers] == [1, 20_000, 30_000]


@poise.batched(max=8)
def numbers(counts: list[int]) -> list[list[float]]:
    """So many numbers for each, which are one pickle without buffers."""
    return [[number + 0.5 for number in range(count)] for count in counts]


@pytest.mark.parametrize(
    "options",
    [
        {"key": 2**64},
        {"key": "\ud800"},
        {"priority": np.int64(3)},
        {"retries": np.int32(2)},
        {"tenant": "\ud800", "weight": np.float32(2)},
        {"timeout": np.float32(60)},
    ],
)
async def test_what_an_option_may_be_travels(name: str, options: dict[str, Any]) -> None:  # G1
    async with poise.Pool.shared(name, Desk, size=1) as pool:
        async with asyncio.timeout(60):
            assert await pool.options(**options).run(Desk.echo, 1) == 1
        with pytest.raises(poise.ConfigError, match="at most"):
            pool.options(priority=10**20).submit(Desk.echo, 1)


async def test_a_function_that_is_used_is_not_forgotten_for_others(name: str) -> None:
    async with poise.Pool.shared(name, size=1) as pool:
        pid = owner_of(name)
        for first in range(0, 1200, 100):
            calls = [pool.submit(adder(number)[0], 1) for number in range(first, first + 100)]
            assert await pool.run(adder(0)[0], 1) == 1
            assert await asyncio.gather(*calls) == [number + 1 for number in range(first, first + 100)]
        assert owner_of(name) == pid


def adder(number: int) -> list[Any]:
    """A function of its own for each number."""
    return [lambda value: value + number]


async def test_a_pool_that_did_not_open_makes_room_for_one_that_does(name: str) -> None:  # G8
    with pytest.raises(poise.PoolBroken, match="no weights here"):
        await poise.Pool.shared(name, Failing, size=1, detached=True, start_timeout=30).open()
    async with poise.Pool.shared(name, Desk, size=1) as pool:
        assert await pool.run(Desk.echo, 1) == 1
