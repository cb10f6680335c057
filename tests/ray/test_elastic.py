"""Real workers that come and go with the load, where Ray has room for only some of them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psutil

import poise
from tests.conftest import ROOM
from tests.gate import Gate, wait_at

if TYPE_CHECKING:
    import pytest

OpenPool = Callable[..., poise.Pool[Any]]


class Model:
    def hold(self, gate: str) -> int:
        wait_at(gate, os.getpid())
        return os.getpid()


async def test_a_start_that_waits_for_room_is_wanted_once_is_told_of_and_is_given_up_when_nobody_needs_it(
    open_pool: OpenPool, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:  # G1, G12
    options = {"resources": {"room": ROOM / 2}, "num_cpus": 0}
    size = poise.Elastic(0, 4, idle=1.0)
    with caplog.at_level(logging.INFO, "poise"):
        async with open_pool(Model, size=size, ray_options=options) as pool:
            calls = [pool.submit(Model.hold, gate.path) for _ in range(4)]
            pids = {int(mark) for mark in await gate.reached(2)}
            async with asyncio.timeout(60):
                while "the others cannot start: room: each worker needs" not in caplog.text:
                    await asyncio.sleep(0.01)
            stats = pool.stats()
            assert stats.ready == 2
            assert stats.size == len(stats.workers) <= 4
            gate.open()
            assert {await call for call in calls} == pids
            async with asyncio.timeout(60):
                while pool.stats().workers:
                    await asyncio.sleep(0.01)
            stats = pool.stats()
            assert (stats.size, stats.deaths, stats.lost, stats.retried) == (0, 0, 0, 0)
            async with asyncio.timeout(60):
                while any(psutil.pid_exists(pid) for pid in pids):
                    await asyncio.sleep(0.01)
            assert await pool.run(Model.hold, gate.path) not in pids
