"""If poise itself is at fault, nobody waits for ever."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import poise
from poise._core.scheduler import Scheduler
from poise._engine.checks import Checks
from poise.testing import LocalPool
from tests.gate import Gate, wait_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poise._answers import Answer


@pytest.mark.parametrize("method", ["finished", "worker_lost"])
async def test_a_fault_of_the_scheduler_ends_every_call_and_is_logged(
    method: str, gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # G1
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a fault of poise")

    async with LocalPool(size=1) as pool:
        await pool.run(abs, -1)
        with monkeypatch.context() as patched, caplog.at_level(logging.ERROR, "poise"):
            patched.setattr(Scheduler, method, fail)
            calls = [pool.submit(wait_at, gate.path) for _ in range(3)]
            await gate.reached()
            if method == "worker_lost":
                pool.launcher.lanes[0].crash()
            else:
                gate.open()
            ended, waiting = await asyncio.wait(calls, timeout=10)
        assert not waiting
        assert all(isinstance(call.exception(), poise.PoiseError) for call in ended)
        with pytest.raises(poise.PoolClosed):
            await pool.run(abs, -1)
    assert "a fault of poise" in caplog.text


async def test_a_worker_that_dies_as_its_first_check_is_answered_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:  # G1
    """Both are heard at once, before whoever waits for the check has come to it."""
    hear = Checks.on_answers

    def hear_and_lose(checks: Checks, worker_id: int, answers: Sequence[Answer]) -> None:
        hear(checks, worker_id, answers)
        if worker_id == 0 and checks.is_first(worker_id):
            checks.on_lost(worker_id, "it died")

    monkeypatch.setattr(Checks, "on_answers", hear_and_lose)
    async with LocalPool(size=1, health=poise.Health(partial(abs, -1))) as pool:
        assert await asyncio.wait_for(pool.run(abs, -1), 10) == 1
        assert (pool.stats().deaths, [worker.id for worker in pool.stats().workers]) == (1, [1])


async def test_a_worker_that_wants_to_be_replaced_before_it_is_ready_has_not_started() -> None:
    """It gives back what it is sent ahead, so that it would be given the same again and again."""
    asked: list[int] = []

    class Model:
        def check(self) -> None:
            asked.append(len(asked))
            if len(asked) == 1:
                poise.this_worker().retire()

        def triple(self, number: int) -> int:
            return 3 * number

    async with LocalPool(Model, size=1, health=poise.Health(Model.check)) as pool:
        assert await pool.run(Model.triple, 2) == 6
        assert (pool.stats().deaths, [worker.id for worker in pool.stats().workers]) == (1, [1])
