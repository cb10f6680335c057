"""Real workers that are replaced: where Ray has room for both, and where it has not."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psutil

import poise
from tests.conftest import ROOM
from tests.gate import Gate, leave_mark

if TYPE_CHECKING:
    import pytest

OpenPool = Callable[..., poise.Pool[Any]]


class Leaky:
    def __init__(self, gate: str) -> None:
        self.gate = gate
        self.leaked: list[bytes] = []

    def leak(self, number: int) -> tuple[int, int]:
        self.leaked.append(os.urandom(1 << 20) * 30)
        return os.getpid(), number

    def close(self) -> None:
        leave_mark(self.gate, f"closed {os.getpid()}")


async def test_a_worker_that_leaks_is_replaced_again_and_again_and_no_call_fails(
    open_pool: OpenPool, gate: Gate
) -> None:  # G1, G2, G12
    path = gate.path
    async with open_pool(lambda: Leaky(path), size=2, recycle=poise.Recycle(memory="600MiB")) as pool:
        await pool.until_ready()
        pids: set[int] = set()
        number = 0
        while pool.stats().recycled < 3:
            answers = await asyncio.gather(*(pool.submit(Leaky.leak, n) for n in range(number, number + 4)))
            assert [n for _, n in answers] == list(range(number, number + 4))
            pids |= {pid for pid, _ in answers}
            number += 4
        stats = pool.stats()
        assert (stats.deaths, stats.lost, stats.retried) == (0, 0, 0)
        assert len(pids) >= 4
    for mark in await gate.reached(3):
        assert not psutil.pid_exists(int(mark.split()[1]))


async def test_where_ray_has_no_room_for_both_the_old_worker_leaves_first(
    open_pool: OpenPool, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    path = gate.path
    options = {"resources": {"room": ROOM}, "num_cpus": 0}
    with caplog.at_level(logging.INFO, "poise"):
        recycle = poise.Recycle(calls=1, jitter=0)
        async with open_pool(lambda: Leaky(path), size=1, recycle=recycle, ray_options=options) as pool:
            first, _ = await pool.run(Leaky.leak, 1)
            async with asyncio.timeout(60):
                while pool.stats().recycled < 1:
                    await asyncio.sleep(0.01)
            second, _ = await pool.run(Leaky.leak, 2)
            assert first != second
            assert pool.stats().deaths == pool.stats().lost == 0
            assert f"closed {first}" in gate.marks
    assert "because Ray has no room for both: room: each worker needs" in caplog.text
