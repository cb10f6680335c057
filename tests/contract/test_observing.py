"""What observers hear is the same over every lane."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import poise
from poise import events
from tests.contract.desk import Desk
from tests.hearing import Everything

if TYPE_CHECKING:
    from tests.contract.conftest import Crash, OpenPool, SharePool
    from tests.gate import Gate

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_every_kind_of_call_is_told_once_and_adds_up(share_pool: SharePool) -> None:
    async with share_pool(Desk, size=2) as pool:
        ear = Everything()
        before = pool.stats()
        pool.add_observer(ear)
        await asyncio.gather(*(pool.submit(Desk.echo, number) for number in range(200)))
        assert [value async for value in pool.map(Desk.async_echo, range(20))] == list(range(20))
        assert [item async for item in pool.stream(Desk.count, 20)] == list(range(20))
        async with pool.lease() as worker:
            await worker.run(Desk.echo, 1)
        with pytest.raises(ValueError, match="no"):
            await pool.run(Desk.fail, ValueError("no"))
        assert len(await pool.broadcast(Desk.echo, 1)) == 2
        await pool.run(Desk.slow, 1, 0.05)
        pool.remove_observer(ear)
        after = pool.stats()
    ends = ear.of(events.CallEnded)
    assert len(ends) == len({end.call for end in ends}) == after.submitted - before.submitted
    assert len(ear.of(events.CallAdmitted)) == len(ends)
    outcomes = [end.outcome for end in ends]
    assert outcomes.count("returned") + outcomes.count("raised") == after.completed - before.completed
    assert outcomes.count("raised") == after.failed - before.failed == 1
    assert {end.worker for end in ends} <= {worker.id for worker in after.workers}
    admitted = {event.call: event.at for event in ear.of(events.CallAdmitted)}
    for end in ends:
        parts = end.waiting, end.travelling, end.running
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(end.at - admitted[end.call], abs=0.01)
    (slow,) = [end for end in ends if end.function == "Desk.slow"]
    assert 0.05 <= slow.running <= slow.at - admitted[slow.call]
    worked = sum(end.running for end in ends if end.function != "lease")
    busy = sum(worker.busy for worker in after.workers) - sum(worker.busy for worker in before.workers)
    assert worked == pytest.approx(busy, rel=0.01, abs=0.01)


async def test_a_death_and_what_follows_are_told(open_pool: OpenPool, crash: Crash, gate: Gate) -> None:
    ear = Everything()
    async with open_pool(Desk, size=1, observers=[ear]) as pool:
        (worker,) = pool.stats().workers
        call = pool.submit(Desk.hold, gate.path)
        await gate.reached()
        crash(pool, worker.id)
        with pytest.raises(poise.WorkerLost):
            await call
        await pool.until_ready()
    ready, again = ear.of(events.WorkerReady)
    assert (ready.worker, ready.pid, ready.node, ready.lane) == (worker.id, worker.pid, worker.node, worker.lane)
    (death,) = ear.of(events.WorkerDied)
    assert (death.worker, death.pid, death.cause, death.functions) == (worker.id, worker.pid, "crash", ("Desk.hold",))
    (end,) = ear.of(events.CallEnded)
    assert (end.outcome, end.error, end.worker, end.attempt) == ("lost", poise.WorkerLost, worker.id, 1)
    assert end.running > 0
    assert [gone.worker for gone in ear.of(events.WorkerRetired)] == [again.worker]
    assert ear.kinds()[0] == "PoolOpening"
    assert ear.kinds()[-1] == "PoolEnded"
    assert len(ear.of(events.PoolWhole)) == 2
