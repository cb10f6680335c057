"""Ray's own objects: references and handles as arguments and results, and pools over existing actors."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest
import ray

import poise
from tests.gate import Gate, wait_at

OpenPool = Callable[..., poise.Pool[Any]]


class Store:
    def total(self, array: Any) -> float:
        return float(array.sum())

    def kind(self, value: Any) -> str:
        return type(value).__name__

    def inner(self, box: dict[str, Any]) -> float:
        (ref,) = box.values()
        return float(ray.get(ref).sum())

    def put(self, size: int) -> Any:
        return {"ref": ray.put(np.ones(size))}


@ray.remote
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.count = start

    def increment(self, by: int) -> int:
        self.count += by
        return self.count

    def pid(self) -> int:
        return os.getpid()

    def hold(self, gate: str) -> str:
        wait_at(gate)
        return "held"

    def fail(self) -> None:
        raise LookupError("in the actor")

    def pid_unless(self, sick: int) -> int:
        if os.getpid() == sick:
            raise LookupError("this actor is sick")
        return os.getpid()

    def numbers(self, end: int) -> Iterator[int]:
        yield from range(end)


async def test_a_reference_as_an_argument_arrives_as_its_value(open_pool: OpenPool) -> None:
    async with open_pool(Store, size=1) as pool:
        ref = ray.put(np.ones(200_000))
        assert await pool.run(Store.total, ref) == 200_000
        assert await pool.run("total", array=ref) == 200_000


async def test_a_reference_inside_an_argument_arrives_as_a_reference(open_pool: OpenPool) -> None:
    async with open_pool(Store, size=1) as pool:
        assert await pool.run(Store.inner, {"a": ray.put(np.ones(1000))}) == 1000
        assert await pool.run(Store.kind, [ray.put(1)]) == "list"


async def test_a_reference_in_a_result_can_be_read_after_the_worker_is_gone_or_says_why(open_pool: OpenPool) -> None:
    async with open_pool(Store, size=1) as pool:
        box = await pool.run(Store.put, 1000)
        assert (await asyncio.wrap_future(box["ref"].future())).sum() == 1000


async def test_references_are_let_go_of_after_the_call(open_pool: OpenPool) -> None:  # G12
    async with open_pool(Store, size=1) as pool:
        before = _references()
        for _ in range(5):
            await pool.run(Store.total, ray.put(np.ones(200_000)))
            await pool.run(Store.inner, {"a": ray.put(np.ones(200_000))})
            await pool.run(Store.put, 200_000)
        async with asyncio.timeout(30):
            while _references() > before:
                gc.collect()
                await asyncio.sleep(0.05)


def _references() -> int:
    """How many objects this process holds references to."""
    core: Any = ray._private.worker.global_worker.core_worker  # type: ignore[attr-defined]  # noqa: SLF001
    return len(core.get_all_reference_counts())


async def test_the_failure_of_the_task_behind_an_argument_is_the_callers(open_pool: OpenPool) -> None:
    @ray.remote(num_cpus=0)
    def fail() -> None:
        raise LookupError("upstream")

    async with open_pool(Store, size=1) as pool:
        with pytest.raises(LookupError, match="upstream"):
            await pool.run(Store.total, fail.remote())
        assert await pool.run(Store.kind, 1) == "int"
        assert pool.stats().deaths == 0


async def test_a_handle_of_an_actor_is_an_argument_like_any_other(open_pool: OpenPool) -> None:
    counter: Any = Counter.options(num_cpus=0).remote()  # type: ignore[attr-defined]
    async with open_pool(Store, size=1) as pool:
        assert await pool.run(lambda _, handle: ray.get(handle.increment.remote(3)), counter) == 3
    ray.kill(counter)


# ---------------------------------------------------------------------------------------------------------------------
# Pools over existing actors


@pytest.fixture
async def counters() -> AsyncIterator[list[Any]]:
    handles: list[Any] = [Counter.options(num_cpus=0).remote(start) for start in (0, 1000)]  # type: ignore[attr-defined]
    yield handles
    for handle in handles:
        ray.kill(handle)


async def test_existing_actors_are_shared_out_and_left_alive(counters: list[Any]) -> None:
    methods: Any = Counter
    async with poise.Pool.of(counters) as pool:
        results = await asyncio.gather(*(pool.run(methods.increment, 1) for _ in range(50)))
        assert len(set(results)) == 50
        assert len(set(await pool.broadcast("pid"))) == 2
        assert len({await pool.run("pid") for _ in range(20)}) == 2
        assert [x async for x in pool.map("increment", [0, 0, 0])]
        with pytest.raises(LookupError, match="in the actor"):
            await pool.run("fail")
        async with pool.lease() as worker:
            assert len({await worker.run("pid") for _ in range(5)}) == 1
    counts = [await handle.increment.remote(0) for handle in counters]
    assert sum(counts) == 1000 + 50


async def test_existing_actors_run_only_their_own_methods(counters: list[Any]) -> None:
    async with poise.Pool.of(counters) as pool:
        with pytest.raises((poise.PoiseError, TypeError)):
            await pool.run(lambda counter: counter)
        with pytest.raises(AttributeError):
            await pool.run("no_such_method")
        assert await pool.run("increment", 0) in (0, 1000)


async def test_a_dead_actor_is_not_replaced_and_the_others_go_on(counters: list[Any], gate: Gate) -> None:  # G1
    pid = await counters[0].pid.remote()
    async with poise.Pool.of(counters) as pool:
        held = [pool.submit("hold", gate.path) for _ in range(2)]
        await gate.reached(2)
        os.kill(pid, signal.SIGKILL)
        gate.open()
        outcomes = await asyncio.gather(*held, return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["WorkerLost", "str"]
        assert await asyncio.gather(*(pool.run("increment", 0) for _ in range(10)))
        assert len(pool.stats().workers) == 1


async def test_when_all_actors_are_dead_the_pool_is_broken(counters: list[Any]) -> None:  # G8
    async with poise.Pool.of(counters) as pool:
        for pid in await pool.broadcast("pid"):
            os.kill(pid, signal.SIGKILL)
        lost = 0
        with pytest.raises(poise.PoolBroken):
            while True:
                try:
                    await pool.run("increment", 0)
                except poise.WorkerLost:  # the death of an actor is heard with a call
                    lost += 1
        assert lost <= 2
        assert pool.stats().workers == ()
        with pytest.raises(poise.PoolBroken):
            pool.submit("increment", 0)
        with pytest.raises(poise.PoolBroken):
            await pool.broadcast("increment", 0)
        with pytest.raises(poise.ConfigError, match="size"):
            await pool.resize(3)


async def test_a_sick_actor_gets_no_more_than_it_must(counters: list[Any]) -> None:
    sick, healthy = [await counter.pid.remote() for counter in counters]
    async with poise.Pool.of(counters) as pool:
        await pool.until_ready()
        outcomes: list[Any] = []
        for _ in range(20):
            outcomes += await asyncio.gather(pool.run("pid_unless", sick), return_exceptions=True)
        assert outcomes.count(healthy) >= 19
        patient = pool.options(retries=1, retry_on=LookupError, retry_delay=0)
        assert set(await asyncio.gather(*(patient.run("pid_unless", sick) for _ in range(40)))) == {healthy}


async def test_existing_actors_are_not_the_pools_to_kill(counters: list[Any], gate: Gate) -> None:
    async with poise.Pool.of(counters) as pool:
        with pytest.raises(poise.ConfigError, match="kill_on_cancel=True is not allowed: actors that exist already"):
            await pool.options(kill_on_cancel=True).run("pid")
        call = pool.submit("hold", gate.path)
        with pytest.raises(poise.ConfigError, match="not the pool's to kill"):
            call.kill()
        gate.open()
        await call


async def test_what_is_no_handle_is_refused(counters: list[Any]) -> None:
    with pytest.raises(poise.ConfigError):
        poise.Pool.of([])
    with pytest.raises(poise.ConfigError):
        poise.Pool.of([*counters, Counter])
