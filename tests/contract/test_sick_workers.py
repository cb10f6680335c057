"""One worker is sick: it fails at once, and so is always the first to be free."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.contract.desk import Desk

if TYPE_CHECKING:
    from tests.contract.conftest import OpenPool
    from tests.gate import Gate


class Sick(Exception):
    """What a sick worker answers."""


def fall_sick(desk: Desk) -> str:
    desk.total = -1
    return desk.name


def work(desk: Desk, seconds: float) -> str:
    if desk.total < 0:
        raise Sick(desk.name)
    desk.slow(0, seconds)
    return desk.name


@pytest.mark.parametrize("seconds", [0.0, 0.01])
async def test_with_one_sick_worker_of_three_every_call_with_retries_succeeds(
    open_pool: OpenPool, seconds: float
) -> None:
    async with open_pool(Desk, size=3) as pool:
        await pool.until_ready()
        await asyncio.gather(*(pool.run(work, seconds) for _ in range(30)))
        sick = await pool.run(fall_sick)
        patient = pool.options(retries=3, retry_on=Sick, retry_delay=0.01)
        names = await asyncio.gather(*(patient.run(work, seconds) for _ in range(120)))
        assert sick not in names
        assert pool.stats().failed == 0
        assert pool.stats().retried > 0


async def test_one_caller_at_a_time_meets_a_sick_worker_once(open_pool: OpenPool) -> None:
    async with open_pool(Desk, size=2) as pool:
        await pool.until_ready()
        sick = await pool.run(fall_sick)
        outcomes: list[str] = []
        for _ in range(20):
            with contextlib.suppress(Sick):
                outcomes.append(await pool.run(work, 0.0))
        assert len(outcomes) >= 19
        assert sick not in outcomes


async def test_a_call_that_is_paused_holds_up_nobody_and_can_be_given_up(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=1) as pool:
        slow = pool.options(retries=3, retry_on=ValueError, retry_delay=1e6)
        call = slow.submit(Desk.fail_first, gate.path, 9)
        while not pool.stats().retried:
            assert await pool.run(Desk.echo, 1) == 1
        assert "paused" in repr(call)
        assert pool.stats().waiting == 1
        call.cancel()
        assert pool.stats().waiting == 0
        assert await pool.run(Desk.echo, 2) == 2
        assert len(gate.marks) == 1
