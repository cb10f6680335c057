"""Opening, closing, draining, resizing, and workers that cannot start."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import poise
from poise.view import engine_of
from tests.contract.desk import Desk
from tests.gate import Gate, leave_mark, wait_at

if TYPE_CHECKING:
    from tests.contract.conftest import OpenPool, SharePool


async def test_a_pool_that_was_not_opened_says_so(open_pool: OpenPool) -> None:
    pool = open_pool(Desk)
    with pytest.raises(poise.PoolClosed, match="async with"):
        pool.submit(Desk.echo, 1)
    with pytest.raises(poise.PoolClosed):
        await pool.run(Desk.echo, 1)
    with pytest.raises(poise.PoolClosed):
        pool.map(Desk.echo, [1])
    with pytest.raises(poise.PoolClosed):
        await anext(pool.stream(Desk.count, 1))
    with pytest.raises(poise.PoolClosed):
        await pool.broadcast(Desk.echo, 1)
    with pytest.raises(poise.PoolClosed):
        async with pool.lease():
            pass
    with pytest.raises(poise.PoolClosed):
        pool.stats()
    assert "not open" in repr(pool)
    await pool.aclose()


async def test_a_closed_pool_refuses_everything(open_pool: OpenPool) -> None:
    async with open_pool(Desk, size=1) as pool:
        await pool.run(Desk.echo, 1)
    with pytest.raises(poise.PoolClosed):
        pool.submit(Desk.echo, 1)
    with pytest.raises(poise.PoolClosed):
        await pool.run(Desk.echo, 1)
    with pytest.raises(poise.PoolClosed):
        await anext(pool.map(Desk.echo, [1]))
    with pytest.raises(poise.PoolClosed):
        await anext(pool.stream(Desk.count, 1))
    with pytest.raises(poise.PoolClosed):
        await pool.broadcast(Desk.echo, 1)
    with pytest.raises(poise.PoolClosed):
        async with pool.lease():
            pass
    with pytest.raises(poise.PoolClosed):
        await pool.resize(3)
    with pytest.raises(poise.PoolClosed):
        await pool.open()
    await pool.aclose()
    assert "closed" in repr(pool)
    assert pool.stats().ready == 0


async def test_leaving_the_block_finishes_what_was_accepted(open_pool: OpenPool) -> None:  # G1
    async with open_pool(Desk, size=2) as pool:
        calls = [pool.submit(Desk.slow, n, 0.002) for n in range(100)]
        parked = [asyncio.ensure_future(pool.run(Desk.echo, n)) for n in range(10)]
        await asyncio.sleep(0)
    assert all(call.done() for call in calls)
    assert [call.result()[1] for call in calls] == list(range(100))
    assert [await run for run in parked] == list(range(10))


async def test_leaving_by_an_exception_refuses_what_has_not_begun(open_pool: OpenPool, gate: Gate) -> None:  # G1
    pool = open_pool(Desk, size=1)
    with pytest.raises(KeyError):
        async with pool:
            running = pool.submit(Desk.hold, gate.path, "running")
            waiting = [pool.submit(Desk.hold, gate.path, "waiting") for _ in range(5)]
            lease = asyncio.ensure_future(_lease(pool))
            await gate.reached()
            asyncio.get_running_loop().call_later(0.05, gate.open)
            raise KeyError
    assert running.result() == "running"
    for call in waiting:
        assert isinstance(call.exception(), poise.PoolClosed)
    with pytest.raises(poise.PoolClosed):
        await lease
    assert gate.marks == ["running"]


async def test_leaving_by_a_cancellation_gives_up_what_runs_too(open_pool: OpenPool, gate: Gate) -> None:  # G1
    calls: list[poise.Call[Any]] = []

    async def work() -> None:
        async with open_pool(Desk, size=1) as pool:
            calls.extend(pool.submit(Desk.hold, gate.path) for _ in range(3))
            await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await gate.reached()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(calls[0].exception(), poise.WorkerLost)
    assert all(isinstance(call.exception(), poise.PoolClosed) for call in calls[1:])


async def test_aclose_ends_every_future(open_pool: OpenPool, gate: Gate) -> None:  # G1
    async with open_pool(Desk, size=2, concurrency=2, backlog=50) as pool:
        calls = [pool.submit(Desk.hold, gate.path, n) for n in range(50)]
        others = [
            asyncio.ensure_future(work)
            for work in (
                *(pool.run(Desk.hold, gate.path) for _ in range(10)),
                _lease(pool),
                pool.broadcast(Desk.echo, 1),
                _collect(pool.map(Desk.echo, range(100))),
                _collect(pool.stream(Desk.count, 1000)),
            )
        ]
        calls[5].cancel()
        await gate.reached(4)
        await pool.aclose()
        assert all(call.done() for call in calls)
        done, pending = await asyncio.wait(others, timeout=10)
        assert not pending
        for outcome in (*calls, *done):
            if not outcome.cancelled():
                assert isinstance(outcome.exception(), poise.PoolClosed | poise.WorkerLost)
        stats = pool.stats()
        assert stats.in_flight == stats.waiting == stats.parked == stats.ready == 0
        await pool.aclose()


async def test_aclose_may_be_called_by_many_at_once(open_pool: OpenPool) -> None:
    pool = open_pool(Desk, size=1)
    await pool.open()
    await asyncio.gather(*(pool.aclose() for _ in range(5)))
    assert pool.stats().ready == 0


async def test_cancelling_aclose_does_not_stop_the_closing(open_pool: OpenPool) -> None:  # G12
    pool = open_pool(Desk, size=1)
    await pool.open()
    closing = asyncio.ensure_future(pool.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    await pool.aclose()
    assert pool.stats().workers == ()


async def test_drain_refuses_new_calls_and_finishes_old_ones(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=1) as pool:
        calls = [pool.submit(Desk.hold, gate.path, n) for n in range(5)]
        draining = asyncio.ensure_future(pool.drain())
        await asyncio.sleep(0)
        await gate.reached()
        with pytest.raises(poise.PoolClosed):
            pool.submit(Desk.echo, 1)
        assert not draining.done()
        gate.open()
        await draining
        assert [call.result() for call in calls] == list(range(5))
        await pool.drain()


async def test_drain_waits_for_leases(open_pool: OpenPool) -> None:
    async with open_pool(Desk, size=1) as pool:
        async with pool.lease():
            draining = asyncio.ensure_future(pool.drain())
            await asyncio.sleep(0.02)
            assert not draining.done()
        await draining


async def test_draining_does_not_wait_for_abandoned_calls(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=1) as pool:
        call = pool.submit(Desk.hold, gate.path)
        await gate.reached()
        call.cancel()
        async with asyncio.timeout(10):
            await pool.drain()


async def test_a_stream_that_was_left_does_not_keep_the_pool_open(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=1) as pool:
        async for _ in pool.stream(Desk.endless, gate.path):
            break


# ---------------------------------------------------------------------------------------------------------------------
# Size


async def test_resize_up_starts_workers(open_pool: OpenPool) -> None:  # G8
    async with open_pool(Desk, size=1) as pool:
        await pool.resize(3)
        assert len(set(await pool.broadcast(Desk.who))) == 3
        assert pool.stats().size == pool.stats().ready == 3


async def test_resize_down_ends_idle_workers_first_and_finishes_what_runs(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=2, min_ready=2) as pool:
        held = pool.submit(Desk.hold, gate.path, "held")
        await gate.reached()
        (busy,) = [worker.id for worker in pool.stats().workers if worker.running]
        await pool.resize(1)
        async with asyncio.timeout(10):
            while len(pool.stats().workers) > 1:
                await asyncio.sleep(0.002)
        assert [worker.id for worker in pool.stats().workers] == [busy]
        gate.open()
        assert await held == "held"
        assert await pool.run(Desk.echo, 1) == 1


async def test_resizing_under_load_loses_nothing(open_pool: OpenPool) -> None:  # G1, G2
    async with open_pool(Desk, size=2) as pool:
        calls = [pool.submit(Desk.slow, n, 0.002) for n in range(400)]
        for size in (3, 1, 2):
            await pool.resize(size)
            await asyncio.sleep(0.05)
        outcomes = await asyncio.gather(*calls)
        assert [outcome[1] for outcome in outcomes] == list(range(400))
        assert pool.stats().size == 2
        assert pool.stats().lost == pool.stats().retried == 0


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "two", None])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_bad_size_is_refused_and_changes_nothing(share_pool: SharePool, size: Any) -> None:
    async with share_pool(Desk, size=2) as pool:
        with pytest.raises(poise.ConfigError, match="size"):
            await pool.resize(size)
        assert await pool.run(Desk.echo, 1) == 1


async def test_until_ready_waits_for_so_many_workers_or_for_all(open_pool: OpenPool) -> None:
    async with open_pool(Desk, size=2, min_ready=0) as pool:
        await pool.until_ready(1)
        assert pool.stats().ready >= 1
        await pool.until_ready()
        assert pool.stats().ready == 2
        await pool.resize(3)
        await pool.until_ready(3)
        assert pool.stats().ready == 3


@pytest.mark.parametrize("workers", [5, 0, "x"])
@pytest.mark.asyncio(loop_scope="module")
async def test_workers_that_the_pool_never_has_are_not_waited_for(share_pool: SharePool, workers: Any) -> None:
    async with share_pool(Desk, size=2) as pool:
        with pytest.raises(poise.ConfigError, match="workers"):
            await pool.until_ready(workers)
        assert await pool.run(Desk.echo, 1) == 1


# ---------------------------------------------------------------------------------------------------------------------
# Starting


class Faulty:
    def __init__(self) -> None:
        raise LookupError("no such model")


class Flaky(Desk):
    """Its constructor raises as often as the gate says."""

    def __init__(self, gate: str, failures: int) -> None:
        leave_mark(gate, os.getpid())
        if len(Path(gate + ".marks").read_text().splitlines()) <= failures:
            raise ConnectionError("not yet")
        super().__init__()


@pytest.mark.parametrize("size", [1, 2])
async def test_a_constructor_that_raises_breaks_the_pool_with_its_traceback(
    open_pool: OpenPool, size: int
) -> None:  # G8
    with pytest.raises(poise.PoolBroken) as caught:
        async with open_pool(Faulty, size=size, start_timeout=math.inf):
            raise AssertionError("not reached")
    assert "no such model" in str(caught.value)
    assert caught.value.failures >= 3
    cause = caught.value.__cause__
    assert isinstance(cause, LookupError)
    assert "test_life.py" in str(cause.__cause__)


@pytest.mark.parametrize("exit_", [SystemExit, KeyboardInterrupt])
async def test_a_constructor_that_exits_breaks_the_pool(open_pool: OpenPool, exit_: type[BaseException]) -> None:  # G8
    def leave() -> Desk:
        raise exit_("leaving")

    with pytest.raises(poise.PoolBroken, match="leaving"):
        await open_pool(leave, size=1).open()


async def test_a_factory_that_cannot_be_pickled_is_named(open_pool: OpenPool, lane: str) -> None:
    if lane == "local":
        pytest.skip("the factory stays in this process")
    lock = threading.Lock()
    with pytest.raises(poise.PoiseError, match="the factory"):
        await open_pool(lambda: lock, size=1).open()


@pytest.mark.parametrize("failures", [1, 2])
async def test_a_constructor_that_fails_at_first_is_tried_again(
    open_pool: OpenPool, gate: Gate, failures: int
) -> None:  # G8
    path = gate.path
    async with open_pool(lambda: Flaky(path, failures), size=1) as pool:
        assert await pool.run(Desk.echo, 1) == 1
        assert len(gate.marks) == failures + 1


async def test_a_slow_constructor_exceeds_start_timeout_and_leaves_nothing(
    open_pool: OpenPool, gate: Gate
) -> None:  # G12
    path = gate.path

    def slow() -> Desk:
        desk = Desk()
        desk.hold(path)
        return desk

    pool = open_pool(slow, size=1, start_timeout=1.0)
    with pytest.raises(poise.PoolBroken, match="start_timeout"):
        await pool.open()
    assert pool.stats().workers == ()
    gate.open()


async def test_cancelling_open_leaves_nothing(open_pool: OpenPool, gate: Gate) -> None:  # G12
    path = gate.path

    def slow() -> Desk:
        desk = Desk()
        desk.hold(path)
        return desk

    pool = open_pool(slow, size=1)
    opening = asyncio.ensure_future(pool.open())
    await gate.reached(1)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert pool.stats().workers == ()
    gate.open()


async def test_a_pool_opens_with_min_ready_and_the_rest_follow(open_pool: OpenPool, gate: Gate) -> None:
    path = gate.path

    def second_waits() -> Desk:
        try:
            Path(path + ".first").touch(exist_ok=False)
        except FileExistsError:
            wait_at(path)
        return Desk()

    async with open_pool(second_waits, size=2, min_ready=1) as pool:
        assert pool.stats().ready == 1
        assert await pool.run(Desk.echo, 1) == 1
        await gate.reached()
        gate.open()
        async with asyncio.timeout(20):
            while pool.stats().ready < 2:
                await asyncio.sleep(0.002)


async def test_min_ready_of_none_opens_at_once_and_calls_wait(open_pool: OpenPool) -> None:
    async with open_pool(Desk, size=1, min_ready=0) as pool:
        assert await pool.run(Desk.echo, 1) == 1


async def test_a_pool_that_was_forgotten_open_says_so(open_pool: OpenPool) -> None:
    pool = open_pool(Desk, size=1)
    await pool.open()
    engine = engine_of(pool)
    with pytest.warns(ResourceWarning, match="was not closed"):  # noqa: PT031
        del pool
        gc.collect()
    await engine.aclose()


class Closed(Desk):
    def __init__(self, gate: str) -> None:
        super().__init__()
        self.gate = gate

    def close(self) -> None:
        leave_mark(self.gate, "closed")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_pool_that_nobody_has_any_more_finishes_and_closes(open_pool: OpenPool, gate: Gate) -> None:  # G12
    path = gate.path
    pool = open_pool(lambda: Closed(path), size=1)
    view = (await pool.open()).options(priority=1)
    del pool
    gc.collect()
    assert await view.run(Desk.echo, 1) == 1  # a view is enough to keep it
    call = view.submit(Desk.hold, path)
    await gate.reached()
    del view
    gc.collect()
    gate.open()
    await call
    assert (await gate.reached(2))[1] == "closed"
    while others := asyncio.all_tasks() - {asyncio.current_task()}:  # until nothing of it is left
        await asyncio.wait(others)


async def _lease(pool: poise.Pool[Any]) -> None:
    async with pool.lease() as worker:
        await worker.run(Desk.echo, 1)


async def _collect(results: Any) -> list[Any]:
    return [result async for result in results]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_bound_method_of_another_instance_is_refused(share_pool: SharePool) -> None:
    async with share_pool(Desk, size=2) as pool:
        with pytest.raises(poise.PayloadError, match=r"bound to an object of this process.*give Desk\.add"):
            await pool.run(Desk().add, 1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
        assert await pool.run(Desk.add, 1) == 1


async def test_an_async_factory_is_refused(open_pool: OpenPool) -> None:
    async def factory() -> Desk:
        return Desk()

    with pytest.raises(poise.PoolBroken) as caught:
        async with open_pool(factory, size=1):
            pass
    assert isinstance(caught.value.__cause__, TypeError)
    assert "async function" in str(caught.value.__cause__)


async def test_what_a_closing_pool_refuses_is_not_reported_by_asyncio(
    open_pool: OpenPool, caplog: pytest.LogCaptureFixture, gate: Gate
) -> None:
    with caplog.at_level(logging.ERROR, "asyncio"):
        with pytest.raises(ZeroDivisionError):
            async with open_pool(Desk, size=1) as pool:
                for _ in range(50):
                    pool.submit(Desk.hold, gate.path)
                await gate.reached()
                gate.open()
                raise ZeroDivisionError
        gc.collect()
    assert not caplog.records


async def test_closing_a_pool_that_is_still_opening_leaves_nothing(open_pool: OpenPool, gate: Gate) -> None:  # G12
    path = gate.path

    def slow() -> Desk:
        leave_mark(path, "constructing")
        wait_at(path)
        return Desk()

    pool = open_pool(slow, size=1, start_timeout=30)
    opening = asyncio.ensure_future(pool.open())
    await gate.reached()
    gate.open()  # a thread cannot be killed
    await pool.aclose()
    with pytest.raises(poise.PoolClosed, match="while it was being opened"):
        await opening
    assert pool.state == "closed"
    assert pool.stats().workers == ()


async def test_closing_a_pool_at_the_first_moment_of_its_opening_leaves_nothing(open_pool: OpenPool) -> None:  # G12
    pool = open_pool(Desk, size=1)
    opening = asyncio.ensure_future(pool.open())
    await asyncio.sleep(0)
    await pool.aclose()
    with pytest.raises(poise.PoolClosed, match="while it was being opened"):
        await opening
    assert pool.stats().workers == ()
