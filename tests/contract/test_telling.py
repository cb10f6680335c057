"""What befalls workers is told in the log, the same on every lane."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

import poise
from tests.contract.desk import Desk

if TYPE_CHECKING:
    from tests.contract.conftest import Crash, OpenPool
    from tests.gate import Gate


async def test_a_death_and_its_recovery_are_a_line_each(
    open_pool: OpenPool, crash: Crash, gate: Gate, lane: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "poise"):
        async with open_pool(Desk, size=1) as pool:
            (worker,) = pool.stats().workers
            call = pool.submit(Desk.hold, gate.path)
            await gate.reached()
            crash(pool, worker.id)
            with pytest.raises(poise.WorkerLost) as caught:
                await call
            await pool.until_ready()
            (heir,) = pool.stats().workers
    harm, recovery = [record for record in caplog.records if record.name == "poise"]
    assert (harm.levelname, recovery.levelname) == ("WARNING", "INFO")
    process = "" if lane == "local" else f" (pid {worker.pid})"
    told = harm.getMessage()
    assert f"worker {worker.id}{process} was lost while Desk.hold ran on it: {caught.value.reason}; it is repl" in told
    assert told.endswith("deaths so far: 1")
    process = "" if lane == "local" else f" (pid {heir.pid})"
    assert f"worker {heir.id}{process} is ready, the pool is whole again: 1 of 1" in recovery.getMessage()
