"""What a waiting call takes: `make bench` weighs it (P5), and here nothing is in it that nobody asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poise.testing import LocalPool
from tests.gate import wait_at

if TYPE_CHECKING:
    from tests.gate import Gate


async def test_a_call_does_not_note_its_own_type(gate: Gate) -> None:  # G7: that would be 180 bytes more for each
    async with LocalPool(size=1) as pool:
        running, waiting = pool.submit(wait_at, gate.path), pool.submit(abs, -1)
        noted = [hasattr(call, "__orig_class__") for call in (running, waiting)]
        gate.open()
        assert await waiting == 1
    assert noted == [False, False]
