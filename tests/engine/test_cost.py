"""What a waiting call takes."""

from __future__ import annotations

import gc
import tracemalloc
from typing import TYPE_CHECKING

from poise.testing import LocalPool
from tests.gate import wait_at

if TYPE_CHECKING:
    from tests.gate import Gate

CALLS = 2000
MOST_BYTES = 850
"""670 with CPython 3.11: the record, the future that its caller holds, and its place in the backlog."""


async def test_a_waiting_call_takes_less_than_a_kilobyte_in_all(gate: Gate) -> None:  # G7
    async with LocalPool(size=1) as pool:
        held = pool.submit(wait_at, gate.path)
        calls = [pool.submit(abs, 1) for _ in range(10)]
        gc.collect()
        tracemalloc.start()
        calls += [pool.submit(abs, 1) for _ in range(CALLS)]
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert taken / CALLS < MOST_BYTES
        assert not any(vars(call) for call in calls)
        gate.open()
        await held
        assert [await call for call in calls] == [1] * len(calls)
