"""Callers that leave before the answer: deadlines and cancellation, in every state."""

import math

import pytest

from poise._answers import NOT_BEGUN, RETRYABLE
from poise._core.states import CallState
from poise.errors import DeadlineExceeded, PoiseError
from tests.core.scene import SHORT, Scene, state


def started(error: PoiseError) -> bool:
    assert isinstance(error, DeadlineExceeded)
    return error.started


def test_a_waiting_call_expires_and_never_starts() -> None:  # G6
    scene = Scene(size=1)
    running = scene.submit()
    call = scene.submit(timeout=2.0)
    scene.wait(1.9)
    assert not scene.errors
    scene.wait(0.1)
    assert not started(scene.errors[call])
    assert "within the timeout of 2 s; it was still waiting" in str(scene.errors[call])
    scene.answer(running)
    assert scene.sent[0] == [running]


def test_a_parked_call_expires() -> None:  # G6
    scene = Scene(size=1, backlog=0)
    scene.submit()
    call = scene.submit(timeout=2.0, may_park=True)
    scene.wait(2.0)
    assert not started(scene.errors[call])
    assert scene.counts == {"running": 1}


def test_a_running_call_is_answered_at_its_deadline_and_keeps_its_slot() -> None:  # G3, G6
    scene = Scene(size=1)
    call = scene.submit(timeout=2.0)
    scene.wait(2.0)
    assert started(scene.errors[call])
    assert scene.cancels == [(0, call.id)]
    assert scene.counts == {"abandoned": 1}
    after = scene.submit()
    assert scene.counts == {"waiting": 1, "abandoned": 1}
    scene.answer(call)
    assert scene.sent[0] == [call, after]
    assert call not in scene.results


def test_a_call_sent_ahead_expires_as_one_that_may_have_run() -> None:  # G6
    scene = Scene(size=1, sends_ahead=True)
    scene.learn_pace()
    running, call = scene.submit(), scene.submit(SHORT, timeout=2.0)
    assert scene.counts == {"running": 1, "ahead": 1}
    scene.wait(2.0)
    assert started(scene.errors[call])
    scene.answer(call, ending=NOT_BEGUN)
    assert scene.counts == {"running": 1}
    assert state(running) is CallState.RUNNING


def test_a_call_that_waits_for_its_second_attempt_expires_as_one_that_has_run() -> None:  # G6
    scene = Scene(size=1)
    call = scene.submit(timeout=2.0, retries=1)
    other = scene.submit(priority=1)
    scene.answer(call, ending=RETRYABLE)
    assert state(other) is CallState.RUNNING
    scene.wait(2.0)
    assert started(scene.errors[call])


def test_a_call_whose_time_passed_before_the_timer_fired_does_not_start() -> None:  # G6
    scene = Scene(size=1)
    running = scene.submit()
    late, fine = scene.submit(timeout=1.0), scene.submit()
    scene.now = 1.5
    scene.answer(running)
    assert not started(scene.errors[late])
    assert scene.sent[0] == [running, fine]


def test_a_call_without_any_time_left_is_answered_and_never_sent() -> None:  # G6
    scene = Scene(size=1)
    call = scene.submit(timeout=0.0)
    assert not started(scene.errors[call])
    assert not scene.sent[0]
    busy = scene.submit()
    behind = scene.submit()
    call = scene.submit(timeout=0.0)
    scene.wait(0.0)
    assert not started(scene.errors[call])
    assert (busy.state, behind.state) == (CallState.RUNNING, CallState.WAITING)


def test_an_answer_in_time_is_the_last_word() -> None:  # G1
    scene = Scene(size=1)
    call = scene.submit(timeout=2.0)
    scene.answer(call)
    scene.wait(10.0)
    assert not scene.errors
    assert scene.pool.next_tick() == math.inf


def test_several_calls_expire_in_one_tick() -> None:  # G6
    scene = Scene(size=1)
    scene.submit(timeout=1.0)
    calls = [scene.submit(timeout=1.0 + i / 100) for i in range(3)]
    scene.now = 5.0
    scene.act(scene.pool.tick(scene.now))
    assert set(calls) < set(scene.errors)
    assert scene.pool.counters.expired == 4


def test_a_cancelled_waiting_call_is_dropped() -> None:
    scene = Scene(size=1)
    running, call = scene.submit(), scene.submit(timeout=9.0)
    scene.cancel(call)
    scene.cancel(call)
    scene.answer(running)
    assert scene.sent[0] == [running]
    assert not scene.errors
    assert scene.pool.counters.cancelled == 1
    assert scene.pool.next_tick() == math.inf


def test_a_cancelled_running_call_keeps_its_slot_until_the_worker_answers() -> None:  # G3
    scene = Scene(size=1)
    call = scene.submit(timeout=1.0)
    scene.cancel(call)
    assert scene.cancels == [(0, call.id)]
    assert scene.counts == {"abandoned": 1}
    assert scene.pool.is_idle
    waiting = scene.submit()
    assert state(waiting) is CallState.WAITING
    scene.wait(1.0)
    scene.answer(call)
    assert not scene.errors
    assert list(scene.results) == []
    assert state(waiting) is CallState.RUNNING


def test_a_cancelled_running_call_keeps_its_slot_until_the_worker_dies() -> None:  # G3
    scene = Scene(size=1)
    call = scene.submit(retries=3)
    scene.cancel(call)
    scene.lose(0)
    assert state(call) is CallState.DONE
    assert not scene.errors


def test_a_call_cancelled_while_ahead_is_taken_out_of_the_inbox() -> None:  # G3
    scene = Scene(size=1, sends_ahead=True)
    scene.learn_pace()
    scene.submit()
    call = scene.submit(SHORT)
    scene.cancel(call)
    assert scene.cancels == [(0, call.id)]
    assert scene.counts == {"running": 1, "abandoned": 1}
    scene.answer(call, ending=NOT_BEGUN)
    assert scene.counts == {"running": 1}


def test_a_call_cancelled_while_ahead_that_began_all_the_same_keeps_a_slot() -> None:  # G3
    scene = Scene(size=1, sends_ahead=True)
    scene.learn_pace()
    running, call = scene.submit(), scene.submit(SHORT)
    scene.cancel(call)
    scene.begun(call)
    scene.answer(running)
    assert scene.counts == {"abandoned": 1}
    scene.answer(call)
    assert scene.counts == {"free_slots": 1}


def test_a_call_that_is_done_cannot_be_cancelled() -> None:  # G1
    scene = Scene(size=1)
    call = scene.submit()
    scene.answer(call)
    scene.cancel(call)
    assert scene.pool.counters.cancelled == 0


def test_a_worker_that_still_runs_an_expired_call_after_the_grace_is_killed_and_replaced() -> None:  # G6
    scene = Scene(size=1, kill_after=5.0)
    call = scene.submit("stuck", timeout=1.0)
    waiting = scene.submit()
    scene.wait(5.9)
    assert not scene.killed
    scene.wait(0.1)
    assert scene.killed == [0]
    assert scene.counts == {"waiting": 1, "abandoned": 1}
    scene.lose(0)
    scene.wait(0.1)
    scene.ready(1)
    assert scene.sent[1] == [waiting]
    assert list(scene.errors) == [call]


def test_a_killed_worker_is_given_nothing_more_even_if_it_answers_after_all() -> None:  # G6
    scene = Scene(size=1, kill_after=0.0, slots=2)
    call = scene.submit(timeout=1.0)
    waiting = scene.submit("other", timeout=1.0)
    scene.wait(1.0)
    assert scene.killed == [0]
    scene.answer(call)
    scene.answer(waiting)
    bound = scene.submit(member=scene.worker(0))
    scene.submit()
    assert scene.counts == {"waiting": 2}
    scene.lose(0)
    assert bound.bound_for is scene.worker(1)


def test_an_expired_call_that_ended_within_the_grace_costs_no_worker() -> None:
    scene = Scene(size=1, kill_after=5.0)
    call = scene.submit(timeout=1.0)
    scene.wait(2.0)
    scene.answer(call)
    assert scene.pool.next_tick() == math.inf
    scene.wait(10.0)
    assert not scene.killed


def test_an_expired_call_that_never_began_costs_no_worker() -> None:
    scene = Scene(size=1, kill_after=5.0, sends_ahead=True)
    scene.learn_pace()
    scene.submit()
    scene.submit(SHORT, timeout=1.0)
    scene.wait(10.0)
    assert not scene.killed
    assert scene.counts == {"running": 1, "abandoned": 1}


@pytest.mark.parametrize("slots", [1, 2])
def test_a_lease_that_was_not_granted_in_time_expires(slots: int) -> None:  # G6
    scene = Scene(size=1, slots=slots)
    running = scene.submit()
    lease = scene.lease(timeout=2.0)
    scene.now = 2.5
    scene.answer(running)
    assert not started(scene.errors[lease])
    assert scene.counts == {"free_slots": slots}


def test_a_call_of_a_lease_expires_in_its_queue() -> None:  # G6
    scene = Scene(size=1)
    lease = scene.lease()
    running = scene.submit(lease=lease)
    late, fine = scene.submit(lease=lease, timeout=1.0), scene.submit(lease=lease)
    scene.now = 1.5
    scene.answer(running)
    assert not started(scene.errors[late])
    assert scene.sent[0] == [running, fine]


def test_a_cancelled_call_that_hangs_past_its_deadline_costs_its_worker_its_life() -> None:  # G6
    scene = Scene(size=1, kill_after=1.0)
    call = scene.submit(timeout=2.0)
    scene.cancel(call)
    scene.wait(2.9)
    assert not scene.killed
    scene.wait(0.1)
    assert scene.killed == [0]
