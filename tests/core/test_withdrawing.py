"""Workers that do not answer a recall: what has not begun goes elsewhere, and they are given nothing more."""

import math

import pytest

from poise._answers import NOT_BEGUN
from poise._core.alarms import ANSWER_SECONDS
from poise._core.calls import CallRecord
from poise._core.states import CallState
from poise.errors import DeadlineExceeded, PoolClosed, WorkerLost
from tests.core.scene import SHORT, Scene, state


def stuck_scene(kill_after: float | None = None) -> Scene:
    """Two workers: the first holds a call that does not end and four that were sent ahead; the second is idle."""
    scene = Scene(size=2, ready=1, sends_ahead=True, kill_after=kill_after)
    scene.learn_pace(0.0005)
    for _ in range(5):
        scene.submit(SHORT)
    scene.ready(1)
    assert [len(ids) for _, ids in scene.recalls] == [2]
    return scene


def take_back(scene: Scene, *calls: CallRecord) -> None:
    """The lane reports these calls of the first worker as withdrawn."""
    scene.answer(*calls, ending=NOT_BEGUN)


def test_a_worker_that_does_not_answer_a_recall_in_time_has_its_calls_withdrawn() -> None:  # G4
    scene = stuck_scene()
    running, *ahead = scene.sent[0][1:]
    assert scene.pool.next_tick() == pytest.approx(scene.now + ANSWER_SECONDS)
    scene.wait(ANSWER_SECONDS - 0.001)
    assert scene.withdrawals == []
    scene.wait(0.002)
    assert scene.withdrawals == [(0, [call.id for call in (running, *ahead)])]
    take_back(scene, *ahead)
    assert [call.worker for call in ahead] == [scene.worker(1)] * 4
    assert state(running) is CallState.RUNNING
    assert scene.pool.next_tick() < math.inf  # the other worker's own


def test_a_call_that_has_moved_up_and_not_begun_is_withdrawn_too() -> None:  # G4
    scene = stuck_scene()
    first, second, *_ = scene.sent[0][1:]
    scene.wait(ANSWER_SECONDS)
    scene.answer(first, service_time=0.0005)
    assert state(second) is CallState.RUNNING
    take_back(scene, second)
    assert (second.worker, second.attempts) == (scene.worker(1), 1)
    scene.lose(0)
    assert second not in scene.errors


def test_a_silent_worker_is_given_nothing_until_it_answers() -> None:  # G4
    scene = stuck_scene()
    held = scene.sent[0][1:]
    scene.wait(ANSWER_SECONDS)
    take_back(scene, *held[1:])
    scene.answer(held[0], service_time=0.0005)
    before = len(scene.sent[0])
    waiting = [scene.submit("long") for _ in range(3)]
    bound = scene.submit(member=scene.worker(0))
    scene.lease()
    assert len(scene.sent[0]) == before
    assert (0 in scene.leases.values(), state(bound)) == (False, CallState.WAITING)
    scene.give_back(0)
    assert state(bound) is CallState.RUNNING
    scene.answer(bound)
    assert scene.sent[0][-1] in waiting


def test_the_others_help_each_other_while_one_is_silent() -> None:  # G4
    scene = Scene(size=3, ready=1, sends_ahead=True)
    scene.learn_pace(0.0005)
    for _ in range(5):
        scene.submit(SHORT)
    scene.ready(1)
    scene.wait(ANSWER_SECONDS)
    take_back(scene, *scene.sent[0][2:])
    assert len(scene.worker(1).ahead) == 3
    scene.ready(2)
    assert scene.recalls[-1][0] == 1


def test_what_had_begun_stays_and_is_in_doubt_when_the_silent_worker_dies() -> None:  # G2
    scene = stuck_scene()
    running, *ahead = scene.sent[0][1:]
    scene.wait(ANSWER_SECONDS)
    take_back(scene, *ahead[1:])
    scene.begun(ahead[0])
    scene.lose(0)
    assert {call: type(error) for call, error in scene.errors.items()} == {running: WorkerLost, ahead[0]: WorkerLost}


def test_calls_whose_callers_are_gone_leave_a_silent_worker() -> None:  # G6
    scene = stuck_scene()
    _, cancelled, *_ = scene.sent[0][1:]
    scene.cancel(cancelled)
    scene.wait(ANSWER_SECONDS)
    assert scene.counts["abandoned"] == 1
    take_back(scene, cancelled)
    assert "abandoned" not in scene.counts


def test_a_pool_that_closes_refuses_what_a_silent_worker_has_not_begun() -> None:  # G1
    scene = stuck_scene()
    running, *ahead = scene.sent[0][1:]
    scene.close(reject_waiting=True)
    scene.wait(ANSWER_SECONDS)
    take_back(scene, *ahead)
    assert {call: type(error) for call, error in scene.errors.items()} == dict.fromkeys(ahead, PoolClosed)
    scene.answer(running)
    assert scene.pool.is_idle


def test_a_silent_worker_that_retires_is_ended_when_it_holds_nothing() -> None:
    scene = stuck_scene()
    running, *ahead = scene.sent[0][1:]
    scene.wait(ANSWER_SECONDS)
    scene.resize(1)
    assert scene.killed == [1]  # the idle one, and the other keeps its work
    take_back(scene, *ahead)
    scene.resize(0)
    scene.answer(running)
    assert scene.killed == [1, 0]


def test_a_lease_that_waited_for_a_worker_goes_elsewhere_when_that_is_silent() -> None:  # G4
    scene = Scene(size=1, slots=2, sends_ahead=True)
    scene.learn_pace(0.0005)
    for _ in range(4):
        scene.submit(SHORT)
    lease = scene.lease()
    assert scene.worker(0).claim is lease
    scene.wait(ANSWER_SECONDS)
    assert scene.worker(0).claim is None
    scene.resize(2)
    scene.ready(1)
    assert scene.leases == {lease: 1}


def test_a_silent_worker_that_runs_nothing_is_killed_for_a_call_that_expired_meanwhile() -> None:  # G6, G8
    scene = stuck_scene(kill_after=5.0)
    held = scene.sent[0][1:]
    scene.wait(ANSWER_SECONDS)
    take_back(scene, *held)
    scene.wait(100.0)
    assert scene.killed == []  # nobody has waited for it in vain
    scene.submit("long", timeout=1.0, member=scene.worker(0))
    elsewhere = scene.submit("long", timeout=1.0, member=scene.worker(1))
    scene.wait(5.5)
    assert (type(scene.errors[elsewhere]), scene.killed) == (DeadlineExceeded, [])
    scene.wait(1.0)
    assert scene.killed == [0]


def test_a_silent_worker_is_forgiven_when_it_answers() -> None:  # G6
    scene = stuck_scene(kill_after=5.0)
    scene.wait(ANSWER_SECONDS)
    take_back(scene, *scene.sent[0][1:])
    scene.submit("long", timeout=1.0, member=scene.worker(0))
    scene.wait(2.0)
    scene.give_back(0)
    scene.wait(100.0)
    assert scene.killed == []


def test_a_worker_is_given_more_time_once_if_the_loop_was_held_up() -> None:
    scene = stuck_scene()
    for _ in range(2):
        assert scene.withdrawals == []
        scene.now += 10.0
        scene.act(scene.pool.tick(scene.now))
    assert len(scene.withdrawals) == 1


def test_a_worker_that_answers_in_time_is_left_alone() -> None:
    scene = stuck_scene()
    scene.wait(ANSWER_SECONDS / 2)
    scene.give_back(0, *scene.sent[0][2:4])
    for worker_id in (0, 1):
        for call in [*scene.worker(worker_id).running.values(), *scene.worker(worker_id).ahead.values()]:
            scene.answer(call, service_time=0.0005)
    scene.give_back(1)
    scene.wait(1.0)
    assert (scene.withdrawals, scene.counts) == ([], {"free_slots": 2})
