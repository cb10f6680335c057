"""When a caller hears of the end of its call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.contract.desk import Desk

if TYPE_CHECKING:
    from tests.contract.conftest import OpenPool
    from tests.gate import Gate


def echo_or_hold(desk: Desk, gate: str, number: int) -> int:
    """One function for both, so that the long call is sent ahead like the quick ones that were measured."""
    if number < 0:
        desk.hold(gate, number)
    return number


async def test_quick_calls_are_answered_while_the_long_one_behind_them_runs(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=1) as pool:
        for _ in range(3):
            await asyncio.gather(*(pool.submit(echo_or_hold, gate.path, number) for number in range(50)))
        quick = [pool.submit(echo_or_hold, gate.path, number) for number in range(50)]
        long = pool.submit(echo_or_hold, gate.path, -1)
        async with asyncio.timeout(30):
            assert await asyncio.gather(*quick) == list(range(50))
        assert not long.done()
        gate.open()
        assert await long == -1
