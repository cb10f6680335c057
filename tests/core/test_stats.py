"""The snapshot and the counters."""

import pytest

from tests.core.scene import SHORT, Scene


def test_a_snapshot_counts_where_calls_and_workers_stand() -> None:
    scene = Scene(size=4, ready=3, slots=2, backlog=1, sends_ahead=True)
    scene.learn_pace()
    lease = scene.lease()
    held = [scene.submit() for _ in range(4)]
    scene.submit(SHORT)
    scene.cancel(held[0])
    scene.submit("long")
    scene.submit("long", may_park=True)
    scene.submit(member=scene.worker(3), may_park=True)
    scene.wait(3.0)
    stats = scene.pool.stats(scene.now)
    assert (stats.size, stats.ready, stats.starting, stats.leased) == (4, 3, 1, 1)
    assert (stats.waiting, stats.parked) == (2, 1)
    assert (stats.running, stats.ahead, stats.abandoned, stats.free_slots) == (3, 1, 1, 0)
    assert stats.in_flight == 5
    assert (stats.submitted, stats.completed, stats.cancelled) == (10, 1, 1)
    assert stats.service_time == pytest.approx(0.00001)
    worker = stats.workers[2]
    assert (worker.id, worker.state, worker.slots, worker.age) == (2, "ready", 2, 3.0)
    assert worker.load == 1.0
    assert [worker.leased for worker in stats.workers].count(True) == 1
    assert stats.workers[3].state == "starting"
    scene.release(lease)


def test_the_time_that_calls_wait_is_averaged() -> None:
    scene = Scene(size=1)
    first = scene.submit()
    scene.submit()
    scene.wait(2.0)
    scene.answer(first)
    assert scene.pool.stats(scene.now).wait_time == pytest.approx(0.05 * 2.0)


def test_every_accepted_call_is_counted_by_its_end() -> None:  # G1
    scene = Scene(size=1)
    scene.answer(scene.submit())
    lease = scene.lease()
    scene.release(lease)
    scene.cancel(scene.lease())
    dies = scene.lease()
    scene.submit(lease=dies)
    expires = scene.submit(timeout=1.0)
    scene.wait(1.0)
    scene.lose(0)
    counters = scene.pool.counters
    assert (counters.submitted, counters.completed, counters.cancelled) == (6, 2, 1)
    assert (counters.expired, counters.lost, counters.deaths) == (1, 2, 1)
    assert counters.unsettled == 0
    assert expires in scene.errors


def test_a_pool_is_idle_when_every_caller_has_been_answered() -> None:
    scene = Scene(size=1)
    idle = [scene.pool.is_idle]
    call = scene.submit()
    idle.append(scene.pool.is_idle)
    scene.cancel(call)
    idle.append(scene.pool.is_idle)  # the worker is still busy, but nobody waits
    scene.answer(call)
    lease = scene.lease()
    idle.append(scene.pool.is_idle)
    scene.release(lease)
    idle.append(scene.pool.is_idle)
    assert idle == [True, False, True, False, True]
