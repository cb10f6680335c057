"""Who is let in, and in which order those who wait are served."""

import pytest

from poise._core.states import CallState
from poise.errors import Overloaded, PoolClosed
from tests.core.scene import Scene, state


def test_a_free_worker_takes_a_call_at_once() -> None:
    scene = Scene(size=1)
    call = scene.submit()
    assert scene.sent[0] == [call]
    assert (call.state, call.attempts) == (CallState.RUNNING, 1)
    scene.answer(call, outcome=42)
    assert scene.results == {call: 42}
    assert scene.counts == {"free_slots": 1}


def test_equal_workers_take_turns() -> None:
    scene = Scene(size=4)
    for _ in range(8):
        scene.answer(scene.submit())
    assert {worker_id: len(calls) for worker_id, calls in scene.sent.items()} == {0: 2, 1: 2, 2: 2, 3: 2}


def test_the_least_loaded_worker_is_taken() -> None:
    scene = Scene(size=2, slots=2)
    calls = [scene.submit() for _ in range(4)]
    assert {id_: len(sent) for id_, sent in scene.sent.items()} == {0: 2, 1: 2}
    scene.answer(calls[1])
    scene.answer(calls[3])
    scene.submit("third")
    scene.submit("fourth")
    assert scene.functions(1)[2:] == ["third", "fourth"]


def test_no_worker_gets_more_than_its_slots() -> None:  # G3
    scene = Scene(size=1, slots=3)
    calls = [scene.submit() for _ in range(5)]
    assert scene.counts == {"waiting": 2, "running": 3}
    scene.answer(calls[1])
    assert scene.sent[0] == calls[:4]
    assert scene.counts == {"waiting": 1, "running": 3}


def test_calls_start_in_the_order_of_submission_within_a_priority() -> None:  # G5
    scene = Scene(size=1)
    running = scene.submit("first")
    for name, priority in (("b", 0), ("low", -1), ("c", 0), ("urgent", 9), ("d", 0)):
        scene.submit(name, priority=priority)
    for _ in range(5):
        scene.answer(running)
        running = scene.sent[0][-1]
    assert scene.functions(0) == ["first", "urgent", "b", "c", "d", "low"]


def test_a_full_backlog_refuses_with_the_numbers() -> None:  # G7
    scene = Scene(size=1, backlog=2)
    scene.submit()
    waiting = [scene.submit(), scene.submit()]
    with pytest.raises(Overloaded) as caught:
        scene.submit()
    assert (caught.value.depth, caught.value.limit) == (2, 2)
    assert caught.value.retry_after == pytest.approx(0.02)
    assert scene.counts == {"waiting": 2, "running": 1}
    assert (scene.pool.counters.submitted, scene.pool.counters.rejected) == (3, 1)
    scene.cancel(waiting[0])
    scene.submit()


def test_a_refused_call_leaves_no_deadline_behind() -> None:  # G7
    scene = Scene(size=1, backlog=0)
    scene.submit()
    with pytest.raises(Overloaded):
        scene.submit(timeout=1.0)
    assert scene.pool.next_tick() == float("inf")


def test_retry_after_follows_the_pace_and_the_depth() -> None:
    scene = Scene(size=2, slots=2)
    scene.answer(scene.submit(), service_time=2.0)
    assert scene.pool.retry_after == 0.01
    for _ in range(4 + 200):
        scene.submit()
    assert scene.pool.retry_after == pytest.approx(200 / 10 * 2.0 / 4)


def test_a_call_that_may_park_waits_for_room() -> None:  # G7
    scene = Scene(size=1, backlog=1)
    first = scene.submit("first")
    scene.submit("second")
    third = scene.submit("third", may_park=True)
    assert state(third) is CallState.PARKED
    assert scene.counts == {"waiting": 1, "parked": 1, "running": 1}
    scene.answer(first)
    assert state(third) is CallState.WAITING
    assert scene.counts == {"waiting": 1, "running": 1}


def test_parked_calls_are_admitted_by_priority_and_then_in_order() -> None:  # G5
    scene = Scene(size=1, backlog=1)
    running = scene.submit("first")
    scene.submit("second")
    for name, priority in (("b", 0), ("urgent", 5), ("c", 0)):
        scene.submit(name, priority=priority, may_park=True)
    for _ in range(4):
        scene.answer(running)
        running = scene.sent[0][-1]
    assert scene.functions(0) == ["first", "second", "urgent", "b", "c"]


def test_room_made_by_a_cancelled_call_goes_to_who_was_parked() -> None:
    scene = Scene(size=1, backlog=1)
    scene.submit()
    waiting, parked = scene.submit(), scene.submit(may_park=True)
    scene.cancel(waiting)
    assert state(parked) is CallState.WAITING


def test_a_parked_call_can_be_cancelled() -> None:
    scene = Scene(size=1, backlog=0)
    scene.submit()
    parked = scene.submit(may_park=True)
    scene.cancel(parked)
    assert state(parked) is CallState.DONE
    assert scene.counts == {"running": 1}


def test_without_a_backlog_a_free_worker_still_takes_a_call() -> None:
    scene = Scene(size=2, backlog=0)
    first = scene.submit()
    scene.submit()
    with pytest.raises(Overloaded, match="0 calls wait and the limit is 0"):
        scene.submit()
    parked = [scene.submit("b", may_park=True), scene.submit("urgent", may_park=True, priority=1)]
    assert scene.counts == {"parked": 2, "running": 2}
    scene.answer(first)
    assert scene.functions(0)[1:] == ["urgent"]
    assert state(parked[0]) is CallState.PARKED
    with pytest.raises(Overloaded):
        scene.submit()


def test_without_a_backlog_a_lease_takes_an_idle_worker() -> None:
    scene = Scene(size=1, backlog=0)
    assert scene.leases == {scene.lease(may_park=False): 0}


def test_calls_wait_for_the_first_worker_to_start() -> None:
    scene = Scene(size=2, ready=0)
    calls = [scene.submit() for _ in range(3)]
    assert scene.counts == {"waiting": 3}
    scene.ready(1)
    assert scene.sent[1] == calls[:1]
    scene.ready(0)
    assert scene.sent[0] == calls[1:2]


def test_a_closed_pool_takes_no_more_calls_and_finishes_those_that_it_has() -> None:  # G1
    scene = Scene(size=1, backlog=1)
    first, second, parked = scene.submit(), scene.submit(), scene.submit(may_park=True)
    scene.close(reject_waiting=False)
    with pytest.raises(PoolClosed):
        scene.submit()
    for call in (first, second, parked):
        scene.answer(call)
    assert list(scene.results) == [first, second, parked]
    assert scene.pool.is_idle


def test_answers_for_calls_that_a_worker_does_not_hold_are_ignored() -> None:  # G1
    scene = Scene(size=2)
    call = scene.submit()
    other = scene.submit()
    scene.answer(call)
    call.attempt = other.attempt
    scene.answer(call)
    call.attempt = None
    assert list(scene.results) == [call]
    assert scene.pool.finished(99, [], scene.now) == []
    scene.pool.begun(99, [1])
    assert scene.pool.recall_done(99, scene.now) == []
