"""Deaths, retries and calls that kill their workers."""

import pytest

from poise._answers import NOT_BEGUN, RAISED, RETRYABLE
from poise._core.states import CallState
from poise.errors import PoisonCall, WorkerLost
from tests.core.scene import SHORT, Scene, state


def test_a_call_that_may_have_begun_is_lost_with_its_worker() -> None:  # G2
    scene = Scene(size=1)
    call = scene.submit()
    scene.lose(0, "killed by signal 9")
    assert type(scene.errors[call]) is WorkerLost
    assert "worker 0 was lost" in str(scene.errors[call])
    assert "killed by signal 9" in str(scene.errors[call])
    assert scene.pool.counters.lost == 1


def test_calls_that_have_not_begun_move_to_another_worker_and_keep_their_place() -> None:  # G2, G5
    scene = Scene(size=2, ready=1, sends_ahead=True)
    scene.learn_pace()
    running = scene.submit()
    ahead = [scene.submit(SHORT) for _ in range(3)]
    behind = scene.submit()
    assert scene.counts == {"waiting": 1, "running": 1, "ahead": 3}
    scene.lose(0)
    assert list(scene.errors) == [running]
    assert scene.counts == {"waiting": 4}
    scene.ready(1)
    assert scene.sent[1] == ahead
    assert state(behind) is CallState.WAITING
    assert [call.attempts for call in ahead] == [1, 0, 0]


def test_a_call_announced_as_begun_is_lost_with_its_worker() -> None:  # G2
    scene = Scene(size=1, sends_ahead=True)
    scene.learn_pace()
    running, begun, still = scene.submit(), scene.submit(SHORT), scene.submit(SHORT)
    scene.begun(begun)
    scene.begun(begun)
    assert (begun.state, begun.attempts) == (CallState.AHEAD, 1)
    scene.lose(0)
    assert set(scene.errors) == {running, begun}
    assert state(still) is CallState.WAITING


def test_a_death_that_may_have_cut_off_announcements_leaves_all_in_doubt() -> None:  # G2
    scene = Scene(size=1, sends_ahead=True)
    scene.learn_pace()
    calls = [scene.submit(), scene.submit(SHORT), scene.submit(SHORT)]
    scene.act(scene.pool.worker_lost(0, "it died", scene.now, all_in_doubt=True))
    assert set(scene.errors) == set(calls)


def test_a_call_moves_up_when_the_call_before_it_is_answered_and_is_then_in_doubt() -> None:  # G2
    scene = Scene(size=1, sends_ahead=True)
    scene.learn_pace()
    running, next_one = scene.submit(), scene.submit(SHORT)
    scene.answer(running)
    assert (next_one.state, next_one.attempts) == (CallState.RUNNING, 1)
    scene.lose(0)
    assert set(scene.errors) == {next_one}


def test_a_call_with_retries_survives_the_death_of_its_worker() -> None:  # G2
    scene = Scene(size=2)
    call = scene.submit(retries=1)
    scene.submit()
    scene.lose(0)
    assert not scene.errors
    assert (call.state, call.retries, scene.pool.counters.retried) == (CallState.WAITING, 0, 1)
    scene.wait(0.1)
    scene.ready(2)
    scene.answer(call)
    assert (call.attempts, list(scene.results)) == (2, [call])


def test_a_retryable_failure_is_tried_again_as_often_as_allowed() -> None:  # G2
    scene = Scene(size=1)
    call = scene.submit(retries=2)
    for _ in range(3):
        scene.answer(call, ending=RETRYABLE, outcome="an exception")
    assert scene.results == {call: "an exception"}
    assert (call.attempts, len(scene.sent[0])) == (3, 3)
    assert (scene.pool.counters.retried, scene.pool.counters.failed) == (2, 1)


def test_a_plain_failure_is_not_tried_again() -> None:  # G2
    scene = Scene(size=1)
    call = scene.submit(retries=2)
    scene.answer(call, ending=RAISED)
    assert call.attempts == 1
    assert (scene.pool.counters.completed, scene.pool.counters.failed) == (1, 1)


def test_a_retried_call_keeps_its_place_in_the_order() -> None:  # G5
    scene = Scene(size=1)
    call = scene.submit(retries=1)
    scene.submit("behind")
    scene.submit("urgent", priority=1)
    scene.answer(call, ending=RETRYABLE)
    scene.answer(scene.sent[0][-1])
    assert scene.functions(0) == ["f", "urgent", "f"]


def test_a_stream_that_was_seen_is_not_tried_again() -> None:  # G2
    scene = Scene(size=1)
    call = scene.submit(retries=2)
    scene.pool.forgo_retries(call)
    scene.lose(0)
    assert type(scene.errors[call]) is WorkerLost


def test_a_call_that_was_recalled_uses_up_no_retry() -> None:  # G2
    scene = Scene(size=1, sends_ahead=True)
    scene.learn_pace()
    first, second = scene.submit(), scene.submit(SHORT)
    scene.answer(first)
    scene.answer(second, ending=NOT_BEGUN)
    assert (second.attempts, second.state, scene.sent[0][-1]) == (1, CallState.RUNNING, second)
    scene.answer(second)
    assert second in scene.results


def test_a_call_that_began_and_ended_between_two_answers_has_had_its_attempt() -> None:  # G2
    scene = Scene(size=1, sends_ahead=True)
    scene.learn_pace()
    first, second = scene.submit(), scene.submit(SHORT, retries=1)
    assert state(second) is CallState.AHEAD
    scene.answer(second, ending=RETRYABLE)
    assert (second.attempts, second.retries) == (1, 0)
    scene.answer(first)
    assert scene.sent[0].count(second) == 2


def test_a_call_that_keeps_killing_its_workers_fails_by_name() -> None:  # G9
    scene = Scene(size=1, poison_after=3)
    call = scene.submit("Model.crash", retries=10)
    for worker_id in range(3):
        scene.lose(worker_id, "segmentation fault")
        scene.wait(1.0)
        scene.ready(worker_id + 1)
    error = scene.errors[call]
    assert isinstance(error, PoisonCall)
    assert (error.deaths, error.function, error.worker_id) == (3, "Model.crash", 2)
    assert scene.counts == {"free_slots": 1}


def test_a_call_whose_retries_end_before_it_counts_as_poison_is_lost() -> None:  # G9
    scene = Scene(size=1)
    call = scene.submit(retries=1)
    scene.lose(0)
    scene.wait(1.0)
    scene.ready(1)
    scene.lose(1)
    assert type(scene.errors[call]) is WorkerLost


def test_one_death_is_enough_if_the_pool_says_so() -> None:  # G9
    scene = Scene(size=1, poison_after=1)
    call = scene.submit(retries=5)
    scene.lose(0)
    assert isinstance(scene.errors[call], PoisonCall)


def test_a_suspect_runs_alone_so_that_nobody_else_is_hurt() -> None:  # G9
    scene = Scene(size=1, slots=3)
    guilty, innocent, careless = scene.submit(retries=5), scene.submit(retries=5), scene.submit()
    scene.lose(0)
    assert list(scene.errors) == [careless]
    fresh = scene.submit()
    scene.wait(1.0)
    scene.ready(1)
    assert scene.sent[1] == [guilty]
    assert scene.counts == {"waiting": 2, "running": 1}
    scene.lose(1)
    scene.wait(1.0)
    scene.ready(2)
    scene.lose(2)
    assert isinstance(scene.errors[guilty], PoisonCall)
    scene.wait(1.0)
    scene.ready(3)
    assert scene.sent[3] == [innocent]
    scene.answer(innocent)
    assert scene.sent[3] == [innocent, fresh]
    assert innocent in scene.results


def test_a_suspect_claims_a_busy_worker_and_is_granted_when_that_is_empty() -> None:  # G9
    scene = Scene(size=2, slots=2)
    calls = [scene.submit(retries=5) for _ in range(4)]
    suspects = [call for call in calls if call in scene.sent[0]]
    others = [call for call in calls if call in scene.sent[1]]
    scene.lose(0)
    assert scene.counts == {"waiting": 2, "running": 2}
    fresh = scene.submit()
    scene.answer(others[0])
    assert scene.sent[1][2:] == []
    scene.answer(others[1])
    assert scene.sent[1][2:] == suspects[:1]
    scene.answer(suspects[0])
    assert scene.sent[1][2:] == suspects
    scene.answer(suspects[1])
    assert scene.sent[1][2:] == [*suspects, fresh]


def test_a_suspect_that_fails_retryably_stays_a_suspect() -> None:  # G9
    scene = Scene(size=1, slots=2)
    call = scene.submit(retries=5)
    scene.lose(0)
    scene.wait(1.0)
    scene.ready(1)
    scene.answer(call, ending=RETRYABLE)
    scene.submit()
    assert scene.counts == {"waiting": 1, "running": 1}
    scene.answer(call)
    assert scene.counts == {"running": 1, "free_slots": 1}


def test_an_abandoned_suspect_leaves_its_worker_to_the_others() -> None:  # G9
    scene = Scene(size=1, slots=2)
    call = scene.submit(retries=5)
    scene.lose(0)
    scene.wait(1.0)
    scene.ready(1)
    scene.cancel(call)
    waiting = scene.submit()
    assert state(waiting) is CallState.WAITING
    scene.answer(call)
    assert scene.counts == {"running": 1, "free_slots": 1}


@pytest.mark.parametrize("times", [1, 2])
def test_a_death_told_twice_is_one_death(times: int) -> None:  # G2
    scene = Scene(size=1)
    call = scene.submit(retries=3)
    for _ in range(times):
        scene.lose(0)
    assert call.deaths == 1
    assert len(scene.pool.members()) == 1
    assert scene.pool.counters.deaths == 1
