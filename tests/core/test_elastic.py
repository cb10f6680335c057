"""A size that follows the load: when a pool grows, to how many, and who leaves when."""

from __future__ import annotations

import pytest

from poise._core.batches import Batching
from poise._core.states import CallState, WorkerState
from poise.errors import DeadlineExceeded, PoolBroken, WorkerLost
from poise.policies import Elastic, Health, Recycle
from tests.core.scene import SHORT, Scene, state


def size(scene: Scene) -> int:
    return scene.pool.stats(scene.now).size


def start(scene: Scene, *, after: float = 1.0) -> None:
    """All workers that start are ready so many seconds later."""
    scene.wait(after)
    for worker_id in list(scene.started):
        if scene.pool.fleet.is_starting(worker_id):
            scene.ready(worker_id)


def learn(scene: Scene, service_time: float, *, start_time: float = 1.0) -> None:
    """Have the start of a worker measured, and a call."""
    call = scene.submit(SHORT)
    if not scene.pool.ready_workers:
        start(scene, after=start_time)
    scene.answer(call, service_time=service_time)


# ---------------------------------------------------------------------------------------------------------------------
# Growing


def test_a_pool_of_none_sleeps_until_the_first_call_which_waits_for_a_worker() -> None:
    scene = Scene(Elastic(0, 4))
    assert (scene.started, size(scene), scene.pool.next_tick()) == ([], 0, float("inf"))
    call = scene.submit()
    assert (scene.started, scene.grown, state(call)) == ([0], [(0, 1)], CallState.WAITING)
    scene.wait(2.0)
    scene.ready(0)
    assert scene.sent[0] == [call]


def test_the_deadline_of_a_call_that_wakes_a_pool_counts_while_it_starts() -> None:  # G6
    scene = Scene(Elastic(0, 4))
    call = scene.submit(timeout=0.5)
    scene.wait(0.5)
    assert isinstance(scene.errors[call], DeadlineExceeded)
    scene.ready(0)
    assert scene.sent[0] == []


def test_a_lease_wakes_a_pool_too() -> None:
    scene = Scene(Elastic(0, 4))
    lease = scene.lease()
    scene.ready(0)
    assert scene.leases == {lease: 0}


def test_it_grows_at_once_to_what_the_waiting_calls_can_use() -> None:
    scene = Scene(Elastic(1, 16), ready=0)
    start(scene, after=1.0)
    learn(scene, 5.0)
    for _ in range(7):
        scene.submit(SHORT)
    assert scene.grown[-1][1] == size(scene) == 7, "all of them run as soon as there is a worker for each"


def test_it_does_not_grow_where_calls_wait_for_less_than_a_start_takes() -> None:
    scene = Scene(Elastic(1, 16), ready=0)
    start(scene, after=2.0)
    learn(scene, 0.1)
    calls = [scene.submit(SHORT) for _ in range(20)]  # 19 wait, for 1.9 s in all
    for call in calls:
        scene.wait(0.1)
        scene.answer(call, service_time=0.1)
    assert scene.grown == []


def test_of_short_calls_it_grows_for_no_more_than_would_be_ready_before_they_are_done() -> None:
    scene = Scene(Elastic(1, 16), ready=0)
    start(scene, after=2.0)
    learn(scene, 0.1)
    for _ in range(61):
        scene.submit(SHORT)
    assert size(scene) == 3, "60 wait for 6 s in all: three workers are done with them in 2 s"


def test_it_never_grows_beyond_the_most_and_asks_for_each_worker_once() -> None:
    scene = Scene(Elastic(0, 3), ready=0)
    learn(scene, 10.0)
    for _ in range(50):
        scene.submit(SHORT)
    assert (size(scene), len(scene.started)) == (3, 3)
    scene.wait(500.0)
    assert (size(scene), len(scene.started)) == (3, 3), "those that wait for room are wanted once"


def test_while_nothing_was_measured_it_grows_when_a_call_has_waited_for_as_long_as_a_start_takes() -> None:
    scene = Scene(Elastic(1, 16), ready=0)
    start(scene, after=4.0)
    for _ in range(5):
        scene.submit()
    scene.wait(3.9)
    assert scene.grown == []
    scene.wait(0.2)
    assert scene.grown == [(1, 5)]


def test_it_grows_where_others_hold_the_workers_than_those_that_wait() -> None:
    scene = Scene(Elastic(1, 16), ready=0)
    start(scene, after=1.0)
    learn(scene, 0.001)
    scene.submit("for ever")
    for _ in range(10):
        scene.submit(SHORT)
    scene.wait(0.9)
    assert scene.grown == []
    scene.wait(0.2)
    assert scene.grown == [(1, 2)], "one more is enough for so little"
    scene.wait(0.5)
    assert scene.grown == [(1, 2)], "and it is not there yet"
    scene.ready(scene.started[-1])
    assert len(scene.sent[scene.started[-1]]) == 1


def test_it_goes_on_growing_if_what_has_started_is_held_too() -> None:
    scene = Scene(Elastic(1, 3), ready=0)
    start(scene, after=1.0)
    learn(scene, 0.001)
    for _ in range(2):
        scene.submit("for ever")
    scene.submit(SHORT)
    scene.wait(1.0)
    assert size(scene) == 2 + (size(scene) == 3)
    start(scene)
    scene.wait(1.0)
    assert size(scene) == 3


def test_nothing_is_awaited_any_more_when_no_call_waits() -> None:
    scene = Scene(Elastic(1, 4))
    running, waiting = scene.submit(), scene.submit()
    scene.cancel(waiting)
    scene.wait(10.0)
    scene.answer(running)
    assert scene.grown == []
    assert scene.pool.next_tick() > scene.now


def test_the_time_of_a_start_is_the_median_of_the_last_ones() -> None:
    scene = Scene(Elastic(0, 1, idle=1.0))
    for seconds in (2.0, 2.0, 300.0, 2.0, 2.0):
        learn(scene, 0.1, start_time=seconds)
        scene.wait(1.0)
        assert size(scene) == 0
    assert scene.pool.sizing._policy is not None  # noqa: SLF001
    assert scene.pool.sizing._policy.start_time == 2.0  # noqa: SLF001


def test_a_waiting_lease_counts_as_a_whole_worker_and_one_that_is_held_too() -> None:
    scene = Scene(Elastic(1, 8), slots=4)
    scene.lease()
    leases = [scene.lease() for _ in range(3)]
    scene.wait(1.0)
    assert scene.grown == [(1, 4)]
    for worker_id in scene.started[1:]:
        scene.ready(worker_id)
    assert set(leases) <= scene.leases.keys()


def test_slots_are_filled_before_there_are_more_workers() -> None:
    scene = Scene(Elastic(1, 8), slots=4, ready=0)
    start(scene, after=1.0)
    learn(scene, 100.0)
    for _ in range(9):
        scene.submit(SHORT)
    assert size(scene) == 3


def test_calls_of_a_batch_count_as_one() -> None:
    scene = Scene(Elastic(1, 8), ready=0)
    start(scene, after=1.0)
    batched = Batching(10, 0.0)
    scene.answer(scene.submit(batched), service_time=20.0)
    scene.submit("other")
    for _ in range(20):
        scene.submit(batched)
    assert size(scene) == 3


def test_a_call_that_waits_for_company_wakes_a_pool_and_keeps_it_awake() -> None:
    scene = Scene(Elastic(0, 2, idle=1.0), ready=0)
    patient = scene.submit(Batching(10, 5.0))
    assert scene.started == [0]
    scene.ready(0)
    scene.wait(4.9)
    assert scene.shrunk == []
    scene.wait(0.2)
    assert scene.sent[0] == [patient]


def test_a_few_of_many_waiting_calls_stand_for_all() -> None:
    scene = Scene(Elastic(1, 100), ready=0)
    start(scene, after=1.0)
    learn(scene, 0.01)
    scene.resize(1)
    for _ in range(2001):
        scene.submit(SHORT)
    scene.resize(Elastic(1, 100))
    assert size(scene) == 20


# ---------------------------------------------------------------------------------------------------------------------
# Shrinking


def busy(scene: Scene, workers: int) -> None:
    """Have an elastic pool grow to so many workers, and each run a call."""
    calls = [scene.submit() for _ in range(workers)]
    scene.wait(1.0)
    start(scene)
    for call in calls:
        scene.answer(call, service_time=2.0)


def test_a_worker_leaves_when_it_has_had_nothing_to_do_for_a_while() -> None:
    scene = Scene(Elastic(1, 4, idle=30.0))
    busy(scene, 3)
    assert size(scene) == 3
    scene.wait(29.9)
    assert scene.shrunk == []
    scene.wait(0.2)
    assert (size(scene), len(scene.closed)) == (1, 2)
    scene.wait(1000.0)
    assert size(scene) == 1


def test_the_last_one_leaves_too_if_none_is_the_least() -> None:
    scene = Scene(Elastic(0, 4, idle=30.0))
    learn(scene, 0.1)
    scene.wait(30.0)
    assert (size(scene), scene.closed, scene.pool.next_tick()) == (0, [0], float("inf"))
    call = scene.submit()
    scene.ready(1)
    assert scene.sent[1] == [call]


def test_a_worker_that_just_became_ready_stays_though_it_has_run_nothing() -> None:
    scene = Scene(Elastic(0, 4, idle=30.0), ready=0)
    scene.cancel(scene.submit())
    scene.wait(25.0)
    scene.ready(0)
    scene.wait(29.0)
    assert scene.shrunk == []
    scene.wait(1.0)
    assert scene.shrunk == [0]


def test_what_runs_or_is_leased_stays_however_long_that_takes() -> None:
    scene = Scene(Elastic(0, 4, idle=1.0))
    lease, call = scene.lease(), scene.submit()
    start(scene)
    scene.wait(1.0)
    start(scene)
    scene.wait(100.0)
    assert size(scene) == 2
    scene.release(lease)
    scene.wait(0.9)
    assert size(scene) == 2
    scene.wait(0.2)
    assert (size(scene), scene.shrunk) == (1, [scene.leases[lease]])
    scene.answer(call)
    scene.wait(1.0)
    assert size(scene) == 0


def test_one_caller_after_the_other_keeps_one_worker_only() -> None:
    scene = Scene(Elastic(1, 4, idle=10.0))
    busy(scene, 4)
    for _ in range(12):
        scene.wait(0.5)
        call = scene.submit()
        scene.wait(0.5)
        scene.answer(call, service_time=0.5)
    assert size(scene) == 1, "whoever was busy last gets the next call"
    assert scene.pool.stats(scene.now).ready == 1


def test_workers_with_several_slots_that_are_not_needed_have_nothing_to_do() -> None:
    scene = Scene(Elastic(1, 8, idle=10.0), slots=4)
    busy(scene, 12)
    assert size(scene) == 3
    calls = [scene.submit() for _ in range(4)]
    for _ in range(12):
        scene.wait(1.0)
        scene.answer(calls.pop(0), service_time=4.0)
        calls.append(scene.submit())
    assert size(scene) == 1, "there were never more than four at a time"


def test_calls_are_spread_over_workers_that_stay_anyway() -> None:
    scene = Scene(Elastic(2, 8, idle=10.0), slots=2)
    calls = [scene.submit() for _ in range(2)]
    assert {call.worker.id for call in calls if call.worker is not None} == {0, 1}
    scene.resize(2)
    scene.resize(Elastic(1, 8))
    scene.answer(*calls[:1])
    assert scene.submit().worker is calls[1].worker
    scene.resize(2)
    scene.answer(calls[1])
    assert sorted(len(worker.running) for worker in scene.pool.members()) == [0, 1]
    scene.submit()
    assert [len(worker.running) for worker in scene.pool.members()] == [1, 1]


def test_a_lease_finds_an_empty_worker_among_those_that_are_packed() -> None:
    scene = Scene(Elastic(1, 8), slots=2)
    busy(scene, 4)
    running = scene.submit()
    lease = scene.lease()
    assert running.worker is not None
    assert scene.leases[lease] != running.worker.id
    suspect = scene.submit(retries=1)
    claimed = scene.lease()
    assert (suspect.worker, claimed.worker) == (running.worker, None)


def test_a_lease_that_waits_for_a_worker_to_be_empty_makes_a_pool_grow() -> None:
    scene = Scene(Elastic(1, 8), slots=2)
    scene.submit("for ever")
    lease = scene.lease()
    assert scene.worker(0).claim is lease
    scene.wait(1.0)
    assert scene.grown == [(1, 2)]
    scene.ready(1)
    assert scene.leases[lease] == 1


def test_a_start_that_is_not_needed_any_more_is_given_up() -> None:
    scene = Scene(Elastic(0, 4, idle=10.0), ready=0)
    learn(scene, 10.0)
    calls = [scene.submit(SHORT) for _ in range(3)]
    assert size(scene) == 3
    scene.wait(15.0)
    assert size(scene) == 3, "they are awaited still"
    for call in calls[1:]:
        scene.cancel(call)
    scene.wait(10.0)
    assert size(scene) == 1
    assert len(scene.killed) == 2


def test_what_is_to_run_on_a_worker_that_starts_keeps_it() -> None:
    scene = Scene(Elastic(0, 4, idle=1.0), ready=0)
    scene.cancel(scene.submit())
    call = scene.submit(member=scene.worker(0))
    scene.wait(5.0)
    assert scene.errors == {}
    scene.ready(0)
    scene.answer(call)
    scene.wait(1.0)
    assert size(scene) == 0


def test_resizing_within_bounds_fails_no_call_that_a_worker_holds() -> None:
    scene = Scene(Elastic(1, 4))
    busy(scene, 3)
    running = [scene.submit() for _ in range(3)]
    scene.resize(Elastic(1, 2))
    assert size(scene) == 2
    for call in running:
        scene.answer(call)
    assert not scene.errors


# ---------------------------------------------------------------------------------------------------------------------
# Deaths, and workers that cannot start


def test_the_death_of_a_worker_is_no_reason_to_grow() -> None:  # G8
    scene = Scene(Elastic(1, 4))
    call = scene.submit()
    scene.lose(0)
    assert isinstance(scene.errors[call], WorkerLost)
    scene.wait(5.0)
    scene.ready(scene.started[-1])
    assert (size(scene), scene.grown) == (1, [])


def test_the_heir_of_a_worker_that_was_not_needed_leaves_when_that_would_have() -> None:
    scene = Scene(Elastic(0, 4, idle=10.0))
    learn(scene, 0.1)
    scene.wait(9.0)
    scene.lose(0)
    scene.wait(2.0)
    assert size(scene) == 0


def test_if_no_worker_can_start_the_call_that_has_woken_the_pool_is_told_so() -> None:  # G1, G8
    scene = Scene(Elastic(0, 8, idle=5.0), ready=0)
    call = scene.submit()
    for _ in range(3):
        assert call not in scene.errors
        scene.lose(scene.started[-1], "no such model")
        scene.wait(0.5)
    assert isinstance(scene.errors[call], PoolBroken)
    with pytest.raises(PoolBroken, match="no such model"):
        scene.submit()
    scene.wait(100.0)
    assert size(scene) == 1, "one goes on trying, or the pool would stay broken"
    scene.ready(scene.started[-1])
    scene.answer(scene.submit())
    scene.wait(5.0)
    assert size(scene) == 0


def test_of_those_that_cannot_start_one_goes_on_trying() -> None:
    scene = Scene(Elastic(0, 8, idle=5.0), ready=0)
    learn(scene, 10.0)
    calls = [scene.submit(SHORT) for _ in range(5)]
    for _ in range(200):
        starting = [worker.id for worker in scene.pool.members() if worker.state is WorkerState.STARTING]
        for worker_id in starting:
            scene.lose(worker_id)
        scene.wait(0.1)
    assert size(scene) > 1
    scene.answer(calls[0])
    for call in calls[1:]:
        if call in scene.sent[0]:
            scene.answer(call)
    scene.wait(60.0)
    assert size(scene) == 0


# ---------------------------------------------------------------------------------------------------------------------
# Together with the rest


def test_a_number_of_workers_ends_it_and_bounds_begin_it_again() -> None:
    scene = Scene(3)
    assert (scene.pool.stats(0.0).least, scene.pool.stats(0.0).most) == (3, 3)
    scene.resize(Elastic(1, 8, idle=10.0))
    stats = scene.pool.stats(0.0)
    assert (stats.least, stats.size, stats.most) == (1, 3, 8)
    assert scene.pool.sizing.most == 8
    scene.wait(10.0)
    assert size(scene) == 1
    scene.resize(Elastic(2, 4))
    assert size(scene) == 2
    start(scene, after=5.0)
    scene.resize(2)
    for _ in range(100):
        scene.submit()
    stats = scene.pool.stats(0.0)
    assert (stats.least, stats.size, stats.most) == (2, 2, 2)
    assert scene.pool.sizing.most == 2
    scene.wait(3.0)
    scene.resize(Elastic(1, 6))
    assert size(scene) == 2
    scene.wait(1.9)
    assert size(scene) == 2, "how long a start takes is known from before"
    scene.wait(0.2)
    assert size(scene) == 6


def test_a_pool_that_sleeps_starts_a_worker_to_show_that_a_reload_can_succeed() -> None:
    scene = Scene(Elastic(0, 4, idle=10.0))
    reload, effects = scene.pool.reloading.begin(1, scene.now)
    scene.act(effects)
    assert (scene.started, reload.is_over) == ([0], False)
    scene.ready(0)
    assert reload.is_over
    assert scene.worker(0).generation == 1
    scene.wait(10.0)
    assert size(scene) == 0
    scene.submit()
    assert scene.worker(1).generation == 1


def test_a_reload_of_a_pool_that_sleeps_can_fail() -> None:
    scene = Scene(Elastic(0, 4, idle=10.0))
    reload, effects = scene.pool.reloading.begin(1, scene.now)
    scene.act(effects)
    scene.lose(0, "no such model")
    assert reload.failure == "no such model"
    call = scene.submit()
    scene.wait(1.0)
    scene.ready(scene.started[-1])
    assert call.worker is not None
    assert call.worker.generation == 0


def test_nobody_leaves_while_workers_are_being_reloaded() -> None:
    scene = Scene(Elastic(1, 4, idle=10.0))
    busy(scene, 2)
    reload, effects = scene.pool.reloading.begin(1, scene.now)
    scene.act(effects)
    scene.wait(50.0)
    assert (size(scene), scene.shrunk) == (2, [])
    while not reload.is_over:
        start(scene, after=0.0)
    scene.wait(25.0)
    assert size(scene) == 1


def test_an_old_worker_that_is_not_needed_is_not_replaced() -> None:
    scene = Scene(Elastic(0, 4, idle=10.0), recycle=Recycle(calls=1))
    learn(scene, 0.1)
    assert scene.replacing == [(0, 1)]
    scene.wait(10.0)
    assert (size(scene), scene.closed) == (0, [0])
    assert scene.killed == [1, 0]


def test_a_check_of_a_worker_is_no_use_of_it() -> None:
    scene = Scene(Elastic(0, 2, idle=10.0), health=Health("check", every=3.0, timeout=2.0), chance=lambda: 1.0)
    learn(scene, 0.1)
    for _ in range(12):
        checks = len(scene.checks)
        scene.wait(1.0)
        if len(scene.checks) > checks and scene.now < 9.0:
            scene.answer_check(0)
    assert size(scene) == 0
    assert len(scene.checks) >= 3


def test_a_pool_that_is_closed_neither_grows_nor_shrinks() -> None:
    scene = Scene(Elastic(1, 4, idle=1.0), ready=0)
    start(scene)
    learn(scene, 10.0)
    calls = [scene.submit(SHORT), scene.submit(SHORT)]
    grown = len(scene.grown)
    scene.close(reject_waiting=False)
    scene.wait(100.0)
    scene.lose(scene.started[-1])
    scene.answer(calls[0])
    scene.answer(calls[1])
    scene.wait(100.0)
    assert (len(scene.grown), scene.shrunk) == (grown, [])
    scene.stop()
    assert scene.pool.next_tick() == float("inf")


def test_a_call_that_is_tried_again_after_a_death_makes_a_pool_grow() -> None:
    scene = Scene(Elastic(1, 4), ready=0)
    start(scene)
    learn(scene, 100.0)
    scene.submit(SHORT, retries=1)
    scene.resize(Elastic(1, 1))
    calls = [scene.submit(SHORT) for _ in range(3)]
    scene.resize(Elastic(1, 4))
    assert size(scene) == 4
    assert all(state(call) is CallState.WAITING for call in calls)
