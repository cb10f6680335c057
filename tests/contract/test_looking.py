"""What users see and say: views, options, snapshots, `repr`, and the loop that a pool belongs to."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import os
import pickle
import re
from typing import TYPE_CHECKING, Any

import pytest

import poise
from poise.testing import LocalPool
from poise.view import engine_of
from tests.contract.desk import Desk

if TYPE_CHECKING:
    from tests.contract.conftest import OpenPool, SharePool
    from tests.gate import Gate

shared = pytest.mark.asyncio(loop_scope="module")
"""On the loop of the shared pool."""


@shared
async def test_options_make_a_view_and_change_nothing_else(share_pool: SharePool, gate: Gate) -> None:
    async with share_pool(Desk, size=1) as pool:
        hurried = pool.options(timeout=0.05)
        urgent = hurried.options(priority=3)
        patient = urgent.options(timeout=None)
        held = patient.submit(Desk.hold, gate.path)
        await gate.reached()
        for view in (hurried, urgent):
            with pytest.raises(poise.DeadlineExceeded):
                await view.run(Desk.echo, 1)
        waiting = pool.submit(Desk.echo, 2)
        await asyncio.sleep(0.1)
        assert not waiting.done()
        gate.open()
        await held
        assert await waiting == 2


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": "soon"},
        {"timeout": float("nan")},
        {"timeout": True},
        {"priority": 1.5},
        {"priority": None},
        {"retries": -1},
        {"tenant": ["a", "list"]},
        {"weight": 0},
        {"key": 1.5},
        {"key": True},
        {"key": ("a", "tuple")},
        {"key": type("Text", (str,), {"__hash__": None})("a")},
        {"patience": -1},
        {"patience": None},
        {"patience": 0.5},
        {"patience": float("nan")},
        {"weight": float("inf")},
        {"retries": True},
        {"retry_on": "ValueError"},
        {"retry_on": (ValueError, 3)},
        {"retry_on": KeyboardInterrupt},
    ],
    ids=repr,
)
async def test_a_bad_option_is_refused_at_once(open_pool: OpenPool, options: dict[str, Any]) -> None:
    pool = open_pool(Desk)
    with pytest.raises(poise.ConfigError) as caught:
        pool.options(**options)
    assert caught.value.option == next(iter(options))
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"size": 1.5},
        {"concurrency": 0},
        {"concurrency": 1001},
        {"backlog": -1},
        {"min_ready": -1},
        {"min_ready": 3, "size": 2},
        {"start_timeout": 0},
        {"link_timeout": 0.5},
        {"link_timeout": float("inf")},
        {"kill_after": -1},
        {"poison_after": 0},
        {"backlog_per_tenant": 0},
        {"retry_budget": -0.1},
        {"retry_budget": 1.5},
        {"retry_budget": True},
        {"ray_options": ["num_cpus"]},
    ],
    ids=repr,
)
async def test_a_bad_option_of_the_pool_is_refused_at_once(open_pool: OpenPool, options: dict[str, Any]) -> None:
    with pytest.raises(poise.ConfigError, match=next(iter(options))):
        open_pool(Desk, **options)


async def test_a_lane_that_does_not_exist_is_refused() -> None:
    with pytest.raises(poise.ConfigError, match="lane"):
        poise.Pool(Desk, lane="pigeon")  # type: ignore[call-overload]


async def test_stats_are_a_frozen_snapshot(open_pool: OpenPool, lane: str, gate: Gate) -> None:
    async with open_pool(Desk, size=2, min_ready=2) as pool:
        before = pool.stats()
        await asyncio.gather(*(pool.run(Desk.echo, n) for n in range(10)))
        held = pool.submit(Desk.hold, gate.path)
        await gate.reached()
        stats = pool.stats()
        assert (before.submitted, before.completed) == (0, 0)
        assert (stats.submitted, stats.completed, stats.running) == (11, 10, 1)
        assert stats.service_time is not None
        assert stats.wait_time is not None
        with pytest.raises(dataclasses.FrozenInstanceError):
            stats.running = 3  # type: ignore[misc]
        assert pickle.loads(pickle.dumps(stats)) == stats
        assert [worker.lane for worker in stats.workers] == ["express" if lane == "tls" else lane] * 2
        assert sum(worker.finished for worker in stats.workers) == 10
        assert sorted(worker.load for worker in stats.workers) == [0.0, 1.0]
        assert all(worker.state == "ready" for worker in stats.workers)
        if lane != "local":
            assert {worker.pid for worker in stats.workers} == set(await _pids(pool, gate, held))
            assert all(worker.node for worker in stats.workers)
        gate.open()
        await held


async def _pids(pool: poise.Pool[Desk], gate: Gate, held: poise.Call[Any]) -> list[int]:
    gate.open()
    await held
    return await pool.broadcast(lambda desk: os.getpid())


async def test_the_repr_of_a_pool_says_what_it_does(open_pool: OpenPool, gate: Gate) -> None:
    pool = open_pool(Desk, size=1)
    assert re.fullmatch(r"<Pool of \w+, not open>", repr(pool))
    async with pool:
        calls = [pool.submit(Desk.hold, gate.path) for _ in range(3)]
        await gate.reached()
        assert re.fullmatch(r"<Pool of Desk, open: 1/1 workers ready, 1 running, 2 waiting>", repr(pool))
        gate.open()
        await asyncio.gather(*calls)
    assert "closed" in repr(pool)


async def test_the_repr_of_a_call_says_where_it_stands(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=1) as pool:  # which does not know `echo` as short
        running, waiting = pool.submit(Desk.hold, gate.path), pool.submit(Desk.echo, 1)
        failing = pool.submit(Desk.fail, ValueError("x"))
        await gate.reached()
        assert re.fullmatch(r"<Call \d+ Desk\.hold running on worker \d+>", repr(running))
        assert re.fullmatch(r"<Call \d+ Desk\.echo waiting>", repr(waiting))
        gate.open()
        await asyncio.wait({running, waiting, failing})
        assert re.fullmatch(r"<Call \d+ Desk\.hold done>", repr(running))
        assert re.fullmatch(r"<Call \d+ Desk\.fail failed>", repr(failing))
        assert failing.exception()
        waiting = pool.submit("echo", 2)
        waiting.cancel()
        assert re.fullmatch(r"<Call \d+ echo cancelled>", repr(waiting))


@shared
async def test_the_repr_of_a_worker_says_whether_its_lease_holds(share_pool: SharePool) -> None:
    async with share_pool(Desk, size=1) as pool:
        async with pool.lease() as worker:
            assert repr(worker) == f"<Worker {worker.id} leased>"
        assert repr(worker) == f"<Worker {worker.id} lease ended>"


@shared
async def test_the_repr_of_a_stream_shows_its_call(share_pool: SharePool) -> None:
    async with share_pool(Desk, size=1) as pool:
        stream = pool.stream(Desk.count, 2)
        assert repr(stream) == "<Stream not begun>"
        await anext(stream)
        assert "Desk.count" in repr(stream)
        assert [x async for x in stream] == [1]


@shared
async def test_a_function_whose_repr_fails_can_be_called_and_shown(share_pool: SharePool) -> None:
    async with share_pool(Desk, size=1) as pool:
        call = pool.submit(Shy())
        assert "Shy" in repr(call)
        assert await call == "called"


class Shy:
    def __call__(self, desk: Desk) -> str:
        return "called"

    def __repr__(self) -> str:
        raise RuntimeError("not to be shown")


# ---------------------------------------------------------------------------------------------------------------------
# Loops and threads


@shared
async def test_another_thread_is_refused_at_once(share_pool: SharePool, gate: Gate) -> None:
    async with share_pool(Desk, size=1) as pool:
        call = pool.submit(Desk.hold, gate.path)
        await gate.reached()

        def misuse() -> list[BaseException]:
            errors: list[BaseException] = []
            for use in (
                lambda: pool.submit(Desk.echo, 1),
                lambda: pool.map(Desk.echo, [1]),
                call.cancel,
                lambda: asyncio.run(pool.run(Desk.echo, 1)),
                lambda: asyncio.run(_next(pool.stream(Desk.count, 1))),
                lambda: asyncio.run(_lease(pool)),
                lambda: asyncio.run(pool.broadcast(Desk.echo, 1)),
                lambda: asyncio.run(pool.drain()),
                lambda: asyncio.run(pool.resize(3)),
                lambda: asyncio.run(pool.aclose()),
            ):
                try:
                    use()
                except BaseException as error:  # noqa: BLE001
                    errors.append(error)
            return errors

        errors = await asyncio.to_thread(misuse)
        assert [type(error) for error in errors] == [poise.WrongLoop] * 10
        assert all("event loop" in str(error) for error in errors)
        gate.open()
        await call
        assert await pool.run(Desk.echo, 1) == 1


@shared
async def test_a_call_handed_over_from_another_thread_is_served(share_pool: SharePool) -> None:
    async with share_pool(Desk, size=1) as pool:
        loop = asyncio.get_running_loop()

        def use() -> Any:
            return asyncio.run_coroutine_threadsafe(pool.run(Desk.echo, 5), loop).result(timeout=30)

        assert await asyncio.to_thread(use) == 5


async def test_a_loop_that_is_closed_over_an_open_pool_cancels_its_waiters(lane: str) -> None:
    if lane != "local":
        pytest.skip("the actors would stay until the pool is collected")
    outcomes: list[str] = []

    async def wait() -> None:
        try:
            await pool.run(Desk.slow, 1, 0.05)
        except asyncio.CancelledError:
            outcomes.append("cancelled")
            raise

    async def leave_it_open() -> None:
        await pool.open()
        waiters.append(asyncio.ensure_future(wait()))
        await asyncio.sleep(0)

    waiters: list[asyncio.Future[None]] = []
    pool = LocalPool(Desk, size=1)
    await asyncio.to_thread(asyncio.run, leave_it_open())
    assert outcomes == ["cancelled"]
    with pytest.raises(poise.WrongLoop):
        await pool.aclose()
    for lane_ in list(pool.launcher.lanes.values()):
        lane_.crash()
    engine_of(pool)._dispatcher = None  # it warns of nothing then  # noqa: SLF001


async def test_nothing_is_logged_by_asyncio(open_pool: OpenPool, caplog: pytest.LogCaptureFixture) -> None:
    asyncio.get_running_loop().slow_callback_duration = math.inf  # how long a callback takes is the machine's affair
    with caplog.at_level(logging.WARNING, "asyncio"):
        async with open_pool(Desk, size=2) as pool:
            await asyncio.gather(*(pool.run(Desk.echo, n) for n in range(1000)))
            for call in [pool.submit(Desk.slow, n, 0.001) for n in range(200)]:
                call.cancel()
            with pytest.raises(ValueError, match="x"):
                await pool.broadcast(Desk.fail, ValueError("x"))
    assert not [record for record in caplog.records if record.name == "asyncio"]


async def _next(stream: Any) -> Any:
    return await anext(stream)


async def _lease(pool: poise.Pool[Any]) -> None:
    async with pool.lease():
        pass
