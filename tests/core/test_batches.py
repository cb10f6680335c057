"""Batches: how they form, share a slot, and are taken apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from poise._answers import NOT_BEGUN, RETRYABLE
from poise._core.batches import Batching
from poise._core.states import CallState
from poise.errors import DeadlineExceeded, LeaseExpired, Overloaded, PoisonCall, PoolClosed, WorkerLost
from tests.core.scene import Scene, state

if TYPE_CHECKING:
    from poise._core.calls import CallRecord

FOURS = Batching(4, 0.0)
OTHERS = Batching(4, 0.0)
MANY = Batching(32, 0.0)
PATIENT = Batching(4, 0.5)


def held(scene: Scene) -> None:
    """Keep a worker busy."""
    scene.submit("hold")


def let_go(scene: Scene) -> None:
    """Let it answer."""
    scene.answer(*[call for calls in scene.sent.values() for call in calls if call.name == "hold"])


# ---------------------------------------------------------------------------------------------------------------------
# Forming


def test_a_free_worker_takes_a_call_at_once() -> None:
    scene = Scene()
    call = scene.submit(FOURS)
    assert state(call) is CallState.RUNNING
    assert scene.sent[0] == [call]
    assert scene.batches == []


def test_a_free_slot_takes_all_that_wait_up_to_the_most() -> None:
    scene = Scene()
    held(scene)
    calls = [scene.submit(FOURS) for _ in range(9)]
    let_go(scene)
    assert scene.batches == [calls[:4]]
    assert scene.counts == {"running": 4, "waiting": 5}
    scene.answer(*calls[:4])
    scene.answer(*calls[4:8])
    assert scene.batches == [calls[:4], calls[4:8]]
    assert scene.sent[0][-1] is calls[8]
    scene.answer(calls[8])
    assert len(scene.results) == 10
    stats = scene.pool.stats(0.0)
    assert (stats.batches, stats.batched, stats.completed) == (2, 8, 10)


def test_two_functions_and_two_priorities_are_apart() -> None:
    scene = Scene()
    held(scene)
    first, other, urgent = scene.submit(FOURS), scene.submit(OTHERS), scene.submit(FOURS, priority=1)
    second, plain, other_too = scene.submit(FOURS), scene.submit("f"), scene.submit(OTHERS)
    let_go(scene)
    assert scene.sent[0][1:] == [urgent]
    scene.answer(urgent)
    assert scene.batches == [[first, second]]
    scene.answer(first, second)
    assert scene.batches[1:] == [[other, other_too]]
    scene.answer(other, other_too)
    assert state(plain) is CallState.RUNNING


def test_batched_calls_are_never_sent_ahead() -> None:
    scene = Scene(sends_ahead=True)
    scene.answer(scene.submit(FOURS), service_time=0.00001)
    scene.submit(FOURS)
    scene.submit(FOURS)
    assert scene.counts == {"running": 1, "waiting": 1}


def test_parked_calls_go_along() -> None:
    scene = Scene(backlog=1)
    held(scene)
    calls = [scene.submit(FOURS, may_park=True) for _ in range(6)]
    assert scene.counts == {"running": 1, "waiting": 1, "parked": 5}
    let_go(scene)
    assert scene.batches == [calls[:4]]
    assert scene.counts == {"running": 4, "waiting": 1, "parked": 1}


def test_nothing_waits_and_yet_they_go_together() -> None:
    scene = Scene(backlog=0)
    held(scene)
    calls = [scene.submit(FOURS, may_park=True) for _ in range(3)]
    let_go(scene)
    assert scene.batches == [calls]


def test_what_has_expired_does_not_go_along() -> None:  # G6
    scene = Scene()
    held(scene)
    first, late, third = scene.submit(FOURS), scene.submit(FOURS, timeout=1.0), scene.submit(FOURS)
    scene.now = 2.0  # the timer is late
    let_go(scene)
    assert scene.batches == [[first, third]]
    assert isinstance(scene.errors[late], DeadlineExceeded)


def test_a_lease_gathers_its_own() -> None:
    scene = Scene()
    lease = scene.lease()
    first = scene.submit(FOURS, lease=lease)
    mine = [scene.submit(FOURS, lease=lease) for _ in range(2)]
    other = scene.submit(FOURS)
    scene.answer(first)
    assert scene.batches == [mine]
    scene.release(lease)
    assert state(other) is CallState.WAITING
    scene.answer(*mine)
    assert state(other) is CallState.RUNNING


def test_calls_of_a_lease_that_has_ended_are_refused() -> None:
    scene = Scene()
    lease = scene.lease()
    scene.submit(FOURS, lease=lease)
    waiting = [scene.submit(FOURS, lease=lease) for _ in range(2)]
    scene.release(lease)
    assert all(isinstance(scene.errors[call], LeaseExpired) for call in waiting)


# ---------------------------------------------------------------------------------------------------------------------
# Waiting for company


def test_a_new_call_waits_for_company_though_a_worker_is_free() -> None:
    scene = Scene()
    first = scene.submit(PATIENT)
    assert scene.counts == {"waiting": 1, "free_slots": 1}
    scene.wait(0.3)
    second = scene.submit(PATIENT)
    scene.wait(0.19)
    assert scene.counts == {"waiting": 2, "free_slots": 1}
    scene.wait(0.02)
    assert scene.batches == [[first, second]]
    assert scene.pool.next_tick() == math.inf


def test_a_full_batch_waits_no_longer() -> None:
    scene = Scene()
    calls = [scene.submit(PATIENT) for _ in range(5)]
    assert scene.batches == [calls[:4]]
    assert state(calls[4]) is CallState.WAITING
    scene.wait(0.6)
    assert state(calls[4]) is CallState.WAITING
    scene.answer(*calls[:4])
    assert state(calls[4]) is CallState.RUNNING


def test_one_whose_time_is_up_takes_the_others_along() -> None:
    scene = Scene()
    held(scene)
    first = scene.submit(PATIENT)
    scene.wait(0.6)
    second = scene.submit(PATIENT)
    let_go(scene)
    assert scene.batches == [[first, second]]


def test_the_first_that_waits_for_company_leaves() -> None:
    scene = Scene()
    first = scene.submit(PATIENT)
    scene.wait(0.3)
    second, urgent = scene.submit(PATIENT), scene.submit(PATIENT, priority=1)
    scene.cancel(first)
    scene.wait(0.3)
    assert scene.counts == {"waiting": 2, "free_slots": 1}
    scene.wait(0.3)
    assert scene.sent[0] == [urgent]
    scene.answer(urgent)
    assert scene.sent[0] == [urgent, second]


def test_a_deadline_before_the_company_comes() -> None:  # G6
    scene = Scene()
    call = scene.submit(PATIENT, timeout=0.1)
    scene.wait(0.2)
    error = scene.errors[call]
    assert isinstance(error, DeadlineExceeded)
    assert not error.started


def test_where_nothing_may_wait_nobody_waits_for_company() -> None:  # G7
    scene = Scene(backlog=2)
    calls = [scene.submit(PATIENT) for _ in range(3)]
    assert scene.batches == [calls]
    with pytest.raises(Overloaded):
        for _ in range(3):
            scene.submit(PATIENT)
    assert scene.counts == {"running": 3, "waiting": 2}
    none = Scene(backlog=0)
    assert state(none.submit(PATIENT)) is CallState.RUNNING
    with pytest.raises(Overloaded):
        none.submit(PATIENT)


def test_a_lease_does_not_wait_for_company() -> None:
    scene = Scene()
    lease = scene.lease()
    assert state(scene.submit(PATIENT, lease=lease)) is CallState.RUNNING


def test_a_pool_that_closes_refuses_those_that_wait_for_company_or_lets_them_finish() -> None:  # G1
    scene = Scene()
    call = scene.submit(PATIENT)
    scene.close(reject_waiting=True)
    assert isinstance(scene.errors[call], PoolClosed)
    scene = Scene()
    call = scene.submit(PATIENT)
    scene.close(reject_waiting=False)
    scene.wait(1.0)
    assert state(call) is CallState.RUNNING


# ---------------------------------------------------------------------------------------------------------------------
# Sharing a slot


def batch(scene: Scene, function: Batching = FOURS, count: int = 4, **fields: Any) -> list[CallRecord]:
    """A batch that runs."""
    held(scene)
    calls = [scene.submit(function, **fields) for _ in range(count)]
    let_go(scene)
    assert scene.batches[-1] == calls
    return calls


def test_the_slot_is_free_when_the_last_was_answered() -> None:  # G3
    scene = Scene()
    calls = batch(scene)
    waiting = scene.submit("f")
    for call in (calls[0], calls[2], calls[1]):
        scene.answer(call)
        assert state(waiting) is CallState.WAITING
    scene.answer(calls[3])
    assert state(waiting) is CallState.RUNNING


def test_a_call_that_is_given_up_keeps_the_slot_with_the_others() -> None:  # G3
    scene = Scene()
    calls = batch(scene)
    scene.cancel(calls[0])
    assert scene.cancels == [(0, calls[0].id)]
    assert scene.counts == {"running": 3, "abandoned": 1}
    worker = scene.pool.stats(0.0).workers[0]
    assert (worker.running, worker.shared, worker.load) == (4, 3, 1.0)
    scene.answer(*calls)
    assert scene.counts == {"free_slots": 1}
    assert len(scene.results) == 4


def test_one_that_was_not_sent_waits_again() -> None:
    scene = Scene()
    calls = batch(scene)
    scene.answer(calls[0], ending=NOT_BEGUN)
    assert scene.counts == {"running": 3, "waiting": 1}
    scene.answer(*calls[1:])
    assert state(calls[0]) is CallState.RUNNING


def test_each_is_tried_again_by_itself() -> None:
    scene = Scene(2)
    busy = scene.submit("f")
    assert busy.worker is not None
    other = scene.submit("f")
    calls = [scene.submit(FOURS, retries=1) for _ in range(3)]
    scene.answer(other)
    assert scene.batches == [calls]
    failed_on = calls[0].worker
    scene.answer(calls[0], calls[1], ending=RETRYABLE)
    scene.answer(calls[2])
    scene.answer(busy)
    assert scene.batches[1:] == [calls[:2]]
    assert calls[0].worker is not failed_on


def test_a_worker_is_not_ended_for_one_that_overran_while_others_are_awaited() -> None:
    scene = Scene(kill_after=1.0)
    held(scene)
    hasty, patient = scene.submit(FOURS, timeout=1.0), scene.submit(FOURS)
    let_go(scene)
    scene.wait(5.0)
    assert isinstance(scene.errors[hasty], DeadlineExceeded)
    assert scene.killed == []
    scene.cancel(patient)
    assert scene.killed == [0]


def test_the_worker_ends_when_one_has_overrun_and_nobody_waits_for_the_others() -> None:  # G6
    scene = Scene(kill_after=1.0)
    held(scene)
    for timeout in (1.0, 3.0, 2.0):
        scene.submit(FOURS, timeout=timeout)
    let_go(scene)
    scene.wait(2.9)
    assert scene.killed == []
    scene.wait(0.2)
    assert scene.killed == [0]


def test_one_that_is_killed_ends_the_worker_once_nobody_waits_for_the_others() -> None:
    scene = Scene()
    calls = batch(scene, count=2)
    scene.kill(calls[0])
    assert scene.killed == []
    scene.cancel(calls[1])
    assert scene.killed == [0]
    scene = Scene()
    calls = batch(scene, count=2)
    scene.kill(calls[0])
    scene.answer(*calls)
    assert scene.killed == []


def test_the_one_that_overran_may_be_answered_before_the_others() -> None:
    scene = Scene()
    calls = batch(scene, count=3)
    scene.kill(calls[0])
    scene.answer(calls[0])
    scene.cancel(calls[1])
    scene.cancel(calls[2])
    scene.wait(1.0)
    assert scene.killed == []
    scene.answer(*calls[1:])
    assert scene.counts == {"free_slots": 1}


def test_a_worker_that_retires_finishes_its_batch() -> None:
    scene = Scene(2)
    held(scene)
    scene.submit("f")
    calls = [scene.submit(FOURS) for _ in range(3)]
    let_go(scene)
    scene.resize(1)
    scene.resize(1)
    scene.answer(*calls)
    assert set(calls) <= scene.results.keys()


# ---------------------------------------------------------------------------------------------------------------------
# Deaths


def test_without_leave_none_of_them_runs_again() -> None:  # G2
    scene = Scene(poison_after=1)
    calls = batch(scene)
    scene.cancel(calls[0])
    scene.lose(0)
    assert [type(scene.errors[call]) for call in calls[1:]] == [WorkerLost] * 3
    assert scene.losses[0].calls == [calls[0].name] * 4


def test_a_batch_that_kills_its_worker_is_halved() -> None:  # G9
    scene = Scene()
    calls = batch(scene, MANY, 32, retries=5)
    culprit = calls[20]
    while any(state(call) is not CallState.DONE for call in calls):
        running = [call for call in calls if state(call) is CallState.RUNNING]
        if not running:
            scene.wait(60.0)
            scene.ready(scene.started[-1])
        elif culprit in running:
            scene.lose(scene.started[-1])
        else:
            scene.answer(*running)
    assert list(scene.errors) == [culprit]
    assert isinstance(scene.errors[culprit], PoisonCall)
    assert sorted(scene.sizes, reverse=True) == [32, 16, 16, 8, 8, 4, 4, 2, 2]


@pytest.mark.parametrize(("retries", "sizes"), [(1, []), (2, [2] * 4), (3, [4] * 2), (4, [4] * 2)])
def test_the_last_attempt_of_each_is_made_alone(retries: int, sizes: list[int]) -> None:
    scene = Scene()
    calls = batch(scene, MANY, 8, retries=retries)
    scene.lose(0)
    scene.wait(1.0)
    scene.ready(1)
    while len(scene.results) < 9:
        scene.answer(*[call for call in calls if state(call) is CallState.RUNNING])
    assert scene.sizes == [8, *sizes]


def test_one_that_has_fewer_attempts_left_goes_by_itself() -> None:
    scene = Scene()
    held(scene)
    calls = [scene.submit(MANY, retries=retries) for retries in (3, 1, 3, 3)]
    let_go(scene)
    scene.lose(0)
    scene.wait(1.0)
    scene.ready(1)
    for alone in calls[:2]:
        assert [call for call in calls if state(call) is CallState.RUNNING] == [alone]
        scene.answer(alone)
    assert scene.batches[1:] == [calls[2:]]


def test_halves_come_back_together_after_one_pause() -> None:
    chances = iter([0.5, 0.25, 0.5, 0.5, 0.5, 0.5])
    scene = Scene(2, chance=lambda: next(chances))
    held(scene)
    scene.submit("f")
    calls = [scene.submit(FOURS, retries=2, retry_delay=1.0) for _ in range(4)]
    let_go(scene)
    assert calls[0].worker is not None
    worker_id = calls[0].worker.id
    scene.answer(*[call for call in scene.sent[1 - worker_id] if state(call) is CallState.RUNNING])
    scene.lose(worker_id)
    scene.wait(0.24)
    assert len(scene.batches) == 1
    scene.wait(0.02)
    assert scene.batches[1:] == [calls[:2]]


def test_suspects_run_by_themselves() -> None:  # G9
    scene = Scene(slots=2)
    held(scene)
    scene.submit("g")
    calls = [scene.submit(FOURS, retries=2) for _ in range(4)]
    let_go(scene)
    assert scene.batches == [calls]
    scene.lose(0)
    innocent = scene.submit(FOURS)
    scene.wait(1.0)
    scene.ready(1)
    assert scene.batches[1:] == [calls[:2]]
    assert scene.worker(1).lease is calls[0]
    scene.answer(calls[0])
    assert scene.worker(1).lease is calls[1]
    assert state(innocent) is CallState.WAITING
    scene.answer(calls[1])
    assert scene.batches[2:] == [calls[2:]]
    scene.answer(*calls[2:])
    assert state(innocent) is CallState.RUNNING


def test_one_that_was_alone_when_it_lost_its_worker_stays_alone() -> None:  # G9
    scene = Scene()
    first = scene.submit(FOURS, retries=3)
    second = scene.submit(FOURS, retries=3)
    scene.lose(0)
    scene.wait(1.0)
    scene.ready(1)
    assert state(first) is CallState.RUNNING
    scene.lose(1)
    scene.wait(1.0)
    scene.ready(2)
    assert scene.batches == []
    scene.answer(first)
    assert state(second) is CallState.RUNNING


def test_the_last_that_was_not_answered_is_to_blame_alone() -> None:  # G9
    scene = Scene(poison_after=1)
    calls = batch(scene, count=2, retries=3)
    scene.answer(calls[0])
    scene.lose(0)
    assert isinstance(scene.errors[calls[1]], PoisonCall)


def test_a_lease_that_loses_its_worker_loses_its_batch() -> None:
    scene = Scene()
    lease = scene.lease()
    first = scene.submit(FOURS, lease=lease, retries=3)
    calls = [scene.submit(FOURS, lease=lease, retries=3) for _ in range(2)]
    scene.answer(first)
    scene.lose(0)
    assert [type(scene.errors[call]) for call in calls] == [WorkerLost] * 2


def test_a_pool_that_stops_gives_up_a_batch() -> None:  # G1
    scene = Scene()
    calls = batch(scene)
    scene.cancel(calls[3])
    scene.stop()
    assert [type(scene.errors[call]) for call in calls[:3]] == [WorkerLost] * 3
    assert scene.pool.is_idle
