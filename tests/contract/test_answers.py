"""When a caller hears of the end of its call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.contract.desk import Desk

if TYPE_CHECKING:
    from tests.contract.conftest import OpenPool
    from tests.gate import Gate


async def test_quick_calls_are_answered_while_the_long_one_behind_them_runs(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Desk, size=1) as pool:
        for _ in range(3):  # the first round measures them, so that the others are sent ahead
            await asyncio.gather(*(pool.submit(Desk.echo, number) for number in range(50)))
        quick = [pool.submit(Desk.echo, number) for number in range(50)]
        long = pool.submit(Desk.hold, gate.path, "long")
        async with asyncio.timeout(60):
            assert await asyncio.gather(*quick) == list(range(50))
        assert not long.done()
        gate.open()
        assert await long == "long"
