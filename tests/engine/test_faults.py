"""If poise itself is at fault, nobody waits for ever."""

import asyncio
import logging
from typing import Any

import pytest

import poise
from poise._core.scheduler import Scheduler
from poise.testing import LocalPool
from tests.gate import Gate, wait_at


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
