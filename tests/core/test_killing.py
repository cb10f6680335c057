"""Calls whose caller wants them gone, and what becomes of the worker that runs them."""

from __future__ import annotations

import math

import pytest

from poise._core.states import CallState
from poise.errors import WorkerLost
from tests.core.scene import SHORT, Scene, state


def test_a_killed_call_that_runs_costs_its_worker_its_life_at_once() -> None:  # G3
    scene = Scene(size=1)
    call, waiting = scene.submit(), scene.submit()
    scene.kill(call)
    assert (state(call), scene.killed) == (CallState.ABANDONED, [0])
    assert scene.counts == {"waiting": 1, "abandoned": 1}, "only the death frees the slot"
    scene.lose(0, "killed")
    assert scene.started == [0, 1], "it was asked for: nothing to wait for"
    scene.ready(1)
    assert (state(waiting), scene.errors) == (CallState.RUNNING, {})
    assert (scene.pool.counters.cancelled, scene.pool.counters.deaths) == (1, 1)


def test_a_call_that_was_given_up_before_can_be_killed_later() -> None:
    scene = Scene(size=2, kill_after=None)
    cancelled, expired = scene.submit(), scene.submit(timeout=1.0)
    scene.cancel(cancelled)
    scene.wait(1.0)
    assert scene.killed == []
    scene.kill(cancelled)
    scene.kill(expired)
    assert scene.killed == [0, 1]
    assert scene.pool.counters.cancelled == 1, "each call is counted once"


def test_a_killed_call_that_waits_is_cancelled() -> None:
    scene = Scene(size=1)
    running, waiting = scene.submit(), scene.submit()
    scene.kill(waiting)
    assert (state(waiting), scene.killed) == (CallState.DONE, [])
    scene.answer(running)
    scene.kill(running)
    scene.kill(waiting)
    assert scene.killed == []
    assert scene.counts == {"free_slots": 1}


def test_a_killed_call_that_was_sent_ahead_and_has_not_begun_harms_no_worker() -> None:
    scene = Scene(size=1, sends_ahead=True)
    scene.learn_pace()
    running, ahead = scene.submit(), scene.submit(SHORT)
    scene.kill(ahead)
    assert (scene.killed, scene.cancels) == ([], [(0, ahead.id)])
    scene.give_back(0, ahead)
    scene.answer(running)
    assert (scene.killed, scene.counts) == ([], {"free_slots": 1})


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_a_killed_call_that_was_sent_ahead_and_begins_after_all_is_killed(timeout: float | None) -> None:
    scene = Scene(size=1, sends_ahead=True, kill_after=100.0)
    scene.learn_pace()
    running, ahead = scene.submit(), scene.submit(SHORT, timeout=timeout)
    scene.kill(ahead, grace=2.0)
    scene.wait(3.0)
    assert scene.killed == [], "the other one runs"
    scene.answer(running)
    scene.wait(1.9)
    assert scene.killed == []
    scene.wait(0.1)
    assert scene.killed == [0]


def test_a_call_that_can_be_stopped_has_some_time_for_it() -> None:
    scene = Scene(size=2)
    obeys, goes_on = scene.submit(), scene.submit()
    scene.kill(obeys, grace=1.0)
    scene.kill(goes_on, grace=1.0)
    scene.wait(0.9)
    scene.answer(obeys)
    scene.wait(0.1)
    assert scene.killed == [1]
    assert scene.pool.next_tick() == math.inf


def test_a_second_kill_has_the_shorter_grace() -> None:
    scene = Scene(size=1)
    call = scene.submit()
    scene.kill(call, grace=5.0)
    scene.kill(call)
    assert scene.killed == [0]
    scene.kill(call)
    scene.wait(10.0)
    assert scene.killed == [0]


def test_calls_beside_a_killed_one_meet_a_death() -> None:  # G9
    scene = Scene(size=1, slots=3)
    call, lost, retried = scene.submit(), scene.submit(), scene.submit(retries=1)
    scene.kill(call)
    scene.lose(0, "killed")
    assert isinstance(scene.errors[lost], WorkerLost)
    assert (list(scene.errors), state(retried)) == ([lost], CallState.WAITING)


def test_a_lease_that_is_killed_is_given_back() -> None:
    scene = Scene(size=1)
    lease = scene.lease()
    scene.kill(lease)
    assert (scene.killed, scene.counts) == ([], {"free_slots": 1})


def test_a_killed_call_of_a_lease_ends_the_lease() -> None:
    scene = Scene(size=1)
    lease = scene.lease()
    call, waits = scene.submit(lease=lease), scene.submit(lease=lease)
    scene.kill(call)
    scene.lose(0, "killed")
    assert state(lease) is CallState.DONE
    assert list(scene.errors) == [waits]


def test_ends_that_were_asked_for_do_not_slow_the_restarts() -> None:  # G8
    scene = Scene(size=1)
    for worker_id in range(9):
        scene.kill(scene.submit())
        scene.lose(worker_id, "killed")
        scene.ready(worker_id + 1)
    assert scene.now == 0.0
    scene.lose(9)
    assert scene.pool.next_tick() == 0.1, "a death of its own is the first failure"
