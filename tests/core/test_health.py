"""Workers that are sick: checked, held against their fellows, kept from calls, replaced."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from poise._answers import NOT_BEGUN, RAISED, RETRYABLE, RETURNED, Answer
from poise._core.batches import Batching
from poise._core.calls import CHECK_IDS, CallRecord
from poise._core.checking import GRACE
from poise._core.states import WorkerState
from poise.errors import PayloadError, WorkerLost
from poise.policies import Health, Recycle
from tests.core.scene import SHORT, Scene

if TYPE_CHECKING:
    from poise._answers import Ending
    from poise._core.workers import WorkerRecord


class Fault(Exception):
    """What counts."""


FAULT = Fault()
CHECKED = Health("check", every=10.0, timeout=5.0, strikes=3)
COUNTED = Health(counts=Fault, failures=3)


def lose(scene: Scene, worker_id: int) -> None:
    scene.lose(worker_id)


def fail_check(scene: Scene, worker_id: int) -> None:
    scene.answer_check(worker_id, RAISED, FAULT)


def fail(scene: Scene, call: CallRecord, ending: Ending = RAISED) -> None:
    scene.answer(call, ending=ending, outcome=FAULT)


def fail_on(scene: Scene, worker_id: int, times: int, ending: Ending = RAISED) -> list[CallRecord]:
    """Have calls fail on this worker, one after the other."""
    calls = [scene.submit(member=scene.worker(worker_id)) for _ in range(times)]
    for call in calls:
        fail(scene, call, ending)
    return calls


def succeed_on(scene: Scene, worker_id: int, times: int = 1) -> None:
    for _ in range(times):
        scene.answer(scene.submit(member=scene.worker(worker_id)))


def is_out(worker: WorkerRecord) -> bool:
    """Whether it is kept from calls now: unlike the field itself, not narrowed by a check of it before."""
    return worker.is_quarantined


def sick(scene: Scene) -> int:
    return scene.pool.stats(scene.now).sick


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def test_a_worker_is_checked_again_and_again() -> None:
    scene = Scene(health=CHECKED)
    for times in range(1, 5):
        scene.wait(10)
        assert scene.checks == [0] * times
        scene.answer_check(0)
    assert scene.strikes == []
    assert scene.replacing == []
    assert scene.killed == []


def test_workers_that_started_together_are_not_checked_together() -> None:
    chances = iter((0.2, 0.7))
    scene = Scene(size=2, health=CHECKED, chance=lambda: next(chances))
    scene.wait(2)
    assert scene.checks == [0]
    scene.answer_check(0)
    scene.wait(5)
    assert scene.checks == [0, 1]
    scene.answer_check(1)
    scene.wait(5)
    assert scene.checks == [0, 1, 0]


def test_a_check_holds_a_slot_and_counts_as_no_call() -> None:  # G3
    scene = Scene(health=CHECKED)
    scene.wait(10)
    call = scene.submit()
    assert scene.sent[0] == []
    assert scene.counts == {"waiting": 1}
    assert scene.pool.stats(scene.now).workers[0].running == 1
    scene.answer_check(0)
    assert scene.sent[0] == [call]
    scene.answer(call)
    stats = scene.pool.stats(scene.now)
    assert (stats.submitted, stats.completed, stats.workers[0].finished) == (1, 1, 1)
    assert stats.service_time == pytest.approx(0.1)


def test_a_pool_is_idle_though_a_check_runs_and_its_worker_is_closed_gently() -> None:  # G12
    scene = Scene(health=CHECKED)
    scene.wait(10)
    assert scene.pool.is_idle
    scene.stop()
    assert scene.closed == [0]
    assert scene.pool.next_tick() == float("inf")


def test_a_worker_that_runs_a_call_within_its_time_is_not_checked() -> None:
    scene = Scene(health=CHECKED)
    call = scene.submit()
    scene.wait(1000)
    assert scene.checks == []
    assert scene.strikes == []
    scene.answer(call)
    scene.wait(10)
    assert scene.checks == [0]


def test_a_worker_with_a_free_slot_is_checked_beside_its_calls() -> None:
    scene = Scene(slots=2, health=CHECKED)
    scene.submit()
    scene.wait(10)
    assert scene.checks == [0]


def test_a_leased_worker_is_not_checked() -> None:
    scene = Scene(slots=2, health=CHECKED)
    lease = scene.lease()
    scene.submit(lease=lease)
    scene.submit(lease=lease, timeout=1)
    scene.wait(100)
    assert scene.checks == []
    assert scene.strikes == []
    scene.release(lease)


def test_a_worker_whose_call_has_overrun_is_struck_and_killed_at_last() -> None:
    scene = Scene(health=CHECKED)
    call = scene.submit(timeout=3)
    scene.wait(45)
    assert scene.checks == []
    assert scene.strikes == [(0, 1, False), (0, 2, False), (0, 3, False)]
    assert call in scene.errors
    assert scene.killed == [0]
    assert sick(scene) == 1
    scene.wait(100)
    assert scene.killed == [0]


def test_a_worker_that_fails_its_checks_is_replaced_by_another_that_is_ready_before() -> None:  # G8
    scene = Scene(size=2, health=CHECKED)
    for strike in (1, 2, 3):
        scene.wait(10)
        fail_check(scene, 0)
        scene.answer_check(1)
        assert scene.strikes[-1] == (0, strike, True)
    assert scene.replacing == [(0, 2)]
    assert scene.started == [0, 1, 2]
    assert is_out(scene.worker(0))
    assert scene.pool.stats(scene.now).workers[0].quarantined
    calls = [scene.submit() for _ in range(2)]
    assert scene.sent[1] == [calls[0]], "the other waits: a sick worker is given nothing"
    scene.ready(2)
    assert scene.sent[2] == [calls[1]]
    assert scene.closed == [0]
    assert sick(scene) == 1
    assert scene.pool.stats(scene.now).deaths == 0


def test_a_check_that_returns_false_has_failed() -> None:
    scene = Scene(health=Health("check", strikes=1))
    scene.wait(10)
    scene.answer_check(0, RETURNED, outcome=False)
    assert scene.replacing == [(0, 1)]


def test_failures_count_in_a_row() -> None:
    scene = Scene(health=CHECKED)
    for outcome in (False, False, None, False, False, None):
        scene.wait(10)
        scene.answer_check(0, RETURNED, outcome)
    assert [strike for _, strike, _ in scene.strikes] == [1, 2, 1, 2]
    assert scene.replacing == []


def test_the_last_worker_works_on_until_another_is_ready() -> None:
    scene = Scene(health=Health("check", strikes=1))
    scene.wait(10)
    fail_check(scene, 0)
    assert scene.replacing == [(0, 1)]
    assert not is_out(scene.worker(0))
    call = scene.submit()
    assert scene.sent[0] == [call]
    scene.ready(1)
    scene.answer(call)
    assert scene.closed == [0]


def test_a_worker_that_does_not_answer_its_checks_is_killed() -> None:
    scene = Scene(size=2, health=CHECKED)
    scene.wait(10)
    scene.answer_check(1)
    scene.wait(5)
    assert scene.strikes == [(0, 1, False)]
    assert scene.cancels == [(0, CHECK_IDS)]
    assert scene.submit() in scene.sent[1]
    assert scene.counts == {"running": 1}, "a worker that runs a check is given nothing else"
    scene.wait(20)
    assert [strike for worker, strike, _ in scene.strikes if worker == 0] == [1, 2, 3]
    assert scene.killed == []
    scene.wait(GRACE)
    assert scene.killed == [0]
    assert scene.replacing == []
    lose(scene, 0)
    assert scene.started == [0, 1, 2]
    assert sick(scene) == 1
    assert scene.pool.stats(scene.now).deaths == 1


def test_calls_on_a_worker_that_hangs_end_as_at_any_death() -> None:  # G1
    scene = Scene(size=2, slots=2, health=Health("check", strikes=1))
    scene.wait(10)
    scene.answer_check(1)
    call = scene.submit(member=scene.worker(0))
    scene.wait(5 + GRACE)
    assert scene.killed == [0]
    lose(scene, 0)
    assert isinstance(scene.errors[call], WorkerLost)
    assert scene.losses[0].calls == ["check", "f"]


def test_what_comes_late_counts_as_no_answer_and_the_next_check_decides() -> None:
    scene = Scene(health=CHECKED)
    for _ in range(2):
        scene.wait(16)
        scene.answer_check(0)
    assert [strike for _, strike, _ in scene.strikes] == [1, 2]
    scene.wait(10)
    scene.answer_check(0)
    scene.wait(10)
    fail_check(scene, 0)
    assert [strike for _, strike, _ in scene.strikes] == [1, 2, 1]


def test_a_worker_whose_check_is_cancelled_at_last_still_answers_and_is_replaced() -> None:
    scene = Scene(health=Health("check", strikes=1))
    scene.wait(15)
    assert scene.cancels == [(0, CHECK_IDS)]
    scene.answer_check(0, RAISED, "cancelled")
    assert scene.replacing == [(0, 1)]
    assert scene.killed == []


def test_a_worker_that_answers_others_while_its_check_hangs_is_replaced_and_killed_when_they_are_done() -> None:
    scene = Scene(slots=2, health=Health("check", strikes=1))
    scene.wait(10)
    call = scene.submit(timeout=8)
    scene.wait(2)
    scene.answer(call)
    other = scene.submit()
    scene.wait(3 + GRACE)
    assert scene.replacing == [(0, 1)]
    scene.ready(1)
    scene.wait(10)
    scene.answer_check(1)
    assert scene.killed == []
    scene.answer(other)
    scene.wait(10)
    assert scene.killed == [0]
    lose(scene, 0)
    assert sick(scene) == 1


def test_a_check_has_more_time_while_a_call_runs_that_began_before_it() -> None:
    scene = Scene(slots=2, health=Health("check", strikes=1))
    call = scene.submit(timeout=60)
    scene.wait(50)
    assert scene.checks == [0]
    assert scene.strikes == []
    scene.wait(15)
    assert call in scene.errors
    assert scene.strikes == [(0, 1, False)]


def test_a_retired_worker_is_waited_for_until_its_check_has_ended() -> None:
    scene = Scene(size=2, health=CHECKED)
    scene.wait(10)
    scene.resize(1)
    retiring = next(i for i in (0, 1) if scene.worker(i).state is WorkerState.RETIRING)
    assert scene.killed == []
    scene.answer_check(retiring)
    assert scene.closed == [retiring]


def test_the_check_of_a_retired_worker_is_given_up_in_time() -> None:
    scene = Scene(size=2, health=CHECKED)
    scene.wait(10)
    scene.resize(1)
    retiring = next(i for i in (0, 1) if scene.worker(i).state is WorkerState.RETIRING)
    scene.answer_check(1 - retiring)
    scene.wait(5)
    assert scene.cancels == [(retiring, CHECK_IDS + retiring)]
    assert scene.killed == []
    scene.wait(GRACE)
    assert scene.killed == [retiring]
    assert scene.strikes == []


def test_a_worker_that_is_being_replaced_for_its_checks_is_not_asked_again() -> None:
    scene = Scene(size=2, health=Health("check", strikes=1))
    scene.wait(10)
    fail_check(scene, 0)
    scene.answer_check(1)
    scene.wait(10)
    assert scene.checks == [0, 1, 1]


def test_a_worker_that_retires_is_not_checked_any_more() -> None:
    scene = Scene(size=2, health=CHECKED)
    calls = [scene.submit(), scene.submit()]
    scene.resize(1)
    scene.wait(100)
    assert scene.checks == []
    for call in calls:
        scene.answer(call)


def test_a_claim_waits_for_a_check_that_is_under_way() -> None:
    scene = Scene(slots=2, health=CHECKED)
    scene.wait(10)
    lease = scene.lease()
    assert lease not in scene.leases
    scene.answer_check(0)
    assert scene.leases == {lease: 0}


def test_a_silent_worker_that_holds_nothing_is_struck_without_being_asked() -> None:
    scene = Scene(size=2, health=CHECKED, sends_ahead=True)
    scene.learn_pace()
    calls = [scene.submit(SHORT) for _ in range(6)]
    scene.answer(*(call for call in calls if call.worker is scene.worker(1)))
    worker = scene.worker(0)
    ahead = list(worker.ahead.values())
    assert ahead
    scene.wait(0.2)
    assert worker.is_silent
    scene.answer(*ahead, ending=NOT_BEGUN)
    scene.answer(*worker.running.values())
    assert worker.is_useless
    while others := list(scene.worker(1).running.values()):
        scene.answer(*others)
    scene.wait(9.9)
    assert scene.checks == [1]
    scene.answer_check(1)
    scene.wait(10)
    assert scene.strikes[0] == (0, 1, False)


def test_if_the_other_cannot_start_a_sick_worker_works_on_and_is_judged_anew() -> None:  # G8
    scene = Scene(size=2, health=CHECKED)
    for _ in range(3):
        scene.wait(10)
        fail_check(scene, 0)
        scene.answer_check(1)
    assert is_out(scene.worker(0))
    lose(scene, 2)
    assert not is_out(scene.worker(0))
    assert len(scene.started) == 3
    scene.wait(10)
    fail_check(scene, 0)
    assert scene.strikes[-1] == (0, 1, True)


def test_a_sick_worker_is_let_out_when_no_other_works_any_more() -> None:  # G4
    scene = Scene(size=2, health=Health("check", strikes=1))
    scene.wait(10)
    fail_check(scene, 0)
    scene.answer_check(1)
    assert is_out(scene.worker(0))
    lose(scene, 1)
    assert not is_out(scene.worker(0))
    call = scene.submit()
    assert scene.sent[0] == [call]


def test_no_more_than_a_part_of_the_pool_is_out_at_a_time() -> None:
    scene = Scene(size=4, health=Health("check", strikes=1, most_out=0.5))
    scene.wait(10)
    for worker_id in range(4):
        fail_check(scene, worker_id)
    assert [old for old, _ in scene.replacing] == [0, 1]
    scene.ready(4)
    scene.wait(10)
    fail_check(scene, 2)
    fail_check(scene, 3)
    assert [old for old, _ in scene.replacing] == [0, 1, 2]


def test_workers_that_hang_are_killed_however_many_they_are() -> None:
    scene = Scene(size=3, health=CHECKED)
    scene.wait(35 + GRACE)
    assert scene.killed == [0, 1, 2]


def test_a_sick_worker_leaves_first_where_there_is_no_room_for_both() -> None:
    scene = Scene(size=2, health=Health("check", strikes=1), recycle=Recycle(calls=1000, surge=False))
    scene.wait(10)
    fail_check(scene, 0)
    scene.answer_check(1)
    assert scene.closed == [0]
    assert sick(scene) == 1


def test_a_closed_pool_replaces_nobody_for_being_sick() -> None:
    scene = Scene(health=Health("check", strikes=1))
    scene.submit(timeout=1000)
    scene.wait(1)
    scene.close(reject_waiting=False)
    scene.answer(scene.sent[0][0])
    scene.wait(10)
    fail_check(scene, 0)
    assert scene.replacing == []


def test_of_two_sick_workers_the_pool_gives_up_before_one_that_is_well() -> None:
    scene = Scene(size=2, health=Health("check", strikes=1))
    scene.wait(10)
    fail_check(scene, 0)
    scene.answer_check(1)
    scene.resize(1)
    assert 0 in scene.closed
    assert scene.worker(1).state is WorkerState.READY


# ---------------------------------------------------------------------------------------------------------------------
# Outliers


def test_a_worker_that_fails_call_after_call_is_given_no_more_and_is_replaced() -> None:
    scene = Scene(size=3, health=COUNTED)
    fail_on(scene, 1, 2)
    assert scene.replacing == []
    fail_on(scene, 1, 1)
    assert scene.replacing == [(1, 3)]
    assert is_out(scene.worker(1))
    calls = [scene.submit() for _ in range(3)]
    assert scene.sent[1][3:] == []
    scene.ready(3)
    assert scene.sent[3] == [calls[2]]
    assert sick(scene) == 1


def test_a_success_or_an_error_that_does_not_count_ends_a_row() -> None:
    scene = Scene(size=3, health=COUNTED)
    for _ in range(3):
        fail_on(scene, 1, 2)
        succeed_on(scene, 1)
        fail_on(scene, 1, 2)
        scene.answer(scene.submit(member=scene.worker(1)), ending=RAISED, outcome=ValueError())
    assert scene.replacing == []


def test_errors_count_only_if_it_was_said_that_they_do() -> None:
    scene = Scene(size=2, health=COUNTED)
    for _ in range(50):
        scene.answer(scene.submit(member=scene.worker(0)), ending=RAISED, outcome=ValueError())
    assert scene.replacing == []


def test_an_error_that_cannot_be_asked_does_not_count() -> None:
    class Odd(type):
        def __instancecheck__(cls, instance: object) -> bool:
            raise LookupError

    class OddFault(Exception, metaclass=Odd):
        pass

    scene = Scene(size=2, health=Health(counts=OddFault, failures=1))
    fail_on(scene, 0, 5)
    assert scene.replacing == []


def test_where_most_fail_nobody_stands_out() -> None:
    scene = Scene(size=4, health=COUNTED)
    for _ in range(20):
        for worker_id in range(4):
            fail_on(scene, worker_id, 1)
        scene.wait(1)
    assert scene.replacing == []


def test_a_lone_worker_that_fails_call_after_call_is_replaced() -> None:
    scene = Scene(health=COUNTED)
    fail_on(scene, 0, 3)
    assert scene.replacing == [(0, 1)]
    assert not is_out(scene.worker(0))


def test_a_worker_that_fails_more_often_than_its_fellows_is_replaced() -> None:
    scene = Scene(size=3, health=Health(counts=Fault, failures=5))
    for number in range(60):
        for worker_id in (0, 1):
            succeed_on(scene, worker_id)
        (fail_on if number % 3 == 0 else succeed_on)(scene, 2, 1)
        scene.wait(0.2)
    assert [old for old, _ in scene.replacing] == [2]


def test_a_lone_worker_has_nobody_to_be_held_against() -> None:
    scene = Scene(health=COUNTED)
    for _ in range(20):
        fail_on(scene, 0, 2)
        succeed_on(scene, 0)
        scene.wait(0.2)
    assert scene.replacing == []


def test_old_failures_are_forgotten() -> None:
    scene = Scene(size=3, health=Health(counts=Fault, failures=5))
    for _ in range(30):
        for worker_id in range(3):
            succeed_on(scene, worker_id, 2)
        fail_on(scene, 2, 1)
        succeed_on(scene, 2)
        scene.wait(21)
    assert scene.replacing == []


def test_a_call_that_fails_on_two_workers_counts_against_neither() -> None:
    scene = Scene(size=3, health=Health(counts=Fault, failures=1, most_out=1.0))
    call = scene.submit(retries=2, retry_delay=0)
    first = call.worker
    assert first is not None
    fail(scene, call, RETRYABLE)
    assert scene.replacing == [(first.id, 3)]
    assert is_out(first)
    second = call.worker
    assert second is not None
    assert second is not first
    fail(scene, call, RETRYABLE)
    assert not is_out(first)
    assert not is_out(second)
    assert scene.killed == [3], "the other is not wanted any more"
    fail(scene, call)
    assert len(scene.replacing) == 1
    assert sick(scene) == 0


def test_a_worker_that_is_replaced_anyway_still_is_when_it_is_found_to_be_well() -> None:
    scene = Scene(size=3, health=Health(counts=Fault, failures=1))
    call = scene.submit(retries=2, retry_delay=0)
    first = call.worker
    assert first is not None
    _, effects = scene.pool.renewals.replace(first.id, scene.now)
    scene.act(effects)
    fail(scene, call, RETRYABLE)
    assert is_out(first)
    fail(scene, call, RETRYABLE)
    assert not is_out(first)
    assert scene.killed == []
    scene.ready(3)
    assert scene.closed == [first.id]
    assert sick(scene) == 0


def test_a_worker_that_has_failed_other_calls_stays_where_it_is() -> None:
    scene = Scene(size=3, health=Health(counts=Fault, failures=2))
    call = scene.submit(retries=2, retry_delay=0)
    first = call.worker
    assert first is not None
    others = [scene.submit(member=first) for _ in range(3)]
    fail(scene, call, RETRYABLE)
    fail(scene, others[0])
    assert is_out(first)
    fail(scene, others[1])
    fail(scene, call, RETRYABLE)
    assert is_out(first)
    assert scene.killed == []


def test_what_could_not_travel_and_what_was_given_up_are_no_fault_of_a_worker() -> None:
    scene = Scene(size=2, health=Health(counts=Exception, failures=1))
    unpacked, cancelled = scene.submit(member=scene.worker(0)), scene.submit(member=scene.worker(1))
    scene.answer(unpacked, ending=RAISED, outcome=PayloadError("the result", "it has a lock", started=True))
    scene.cancel(cancelled)
    fail(scene, cancelled)
    assert scene.replacing == []
    fail_on(scene, 0, 1)
    assert scene.replacing == [(0, 2)]


def test_a_worker_that_fails_for_ever_is_not_remembered_for_ever() -> None:
    scene = Scene(size=2, health=COUNTED)
    for _ in range(50):
        fail_on(scene, 0, 1)
        fail_on(scene, 1, 1)
    vitals = scene.worker(0).vitals
    assert vitals is not None
    assert len(vitals.streak) == 6


def test_answers_for_calls_that_a_worker_does_not_hold_say_nothing() -> None:
    scene = Scene(size=2, health=Health(counts=Fault, failures=1))
    scene.act(scene.pool.finished(0, [Answer(77, RAISED, FAULT)], scene.now))
    assert scene.replacing == []


def test_what_fails_on_two_workers_counts_no_less_against_one_that_has_left() -> None:
    scene = Scene(size=2, health=Health(counts=Fault, failures=1))
    call = scene.submit(retries=2, retry_delay=0)
    first = call.worker
    assert first is not None
    fail(scene, call, RETRYABLE)
    scene.ready(2)
    assert first.state is WorkerState.GONE
    fail(scene, call, RETRYABLE)
    assert len(scene.replacing) == 1


def test_what_fails_on_two_workers_does_not_bring_back_one_that_is_leaving() -> None:
    scene = Scene(size=2, slots=2, health=Health(counts=Fault, failures=1))
    call = scene.submit(retries=2, retry_delay=0)
    first = call.worker
    assert first is not None
    held = scene.submit(member=first)
    fail(scene, call, RETRYABLE)
    scene.ready(2)
    assert first.state is WorkerState.RETIRING
    fail(scene, call, RETRYABLE)
    scene.answer(held)
    assert scene.closed == [first.id]
    assert sick(scene) == 1


def test_a_batch_that_fails_counts_once() -> None:
    scene = Scene(size=2, health=COUNTED)
    triples = Batching(3, 0.0)
    held = [scene.submit(), scene.submit()]
    calls = [scene.submit(triples) for _ in range(9)]
    scene.answer(held[0])
    (batch,) = scene.batches
    scene.answer(*batch, ending=RAISED, outcome=FAULT)
    assert scene.replacing == []
    scene.answer(*scene.batches[1], ending=RAISED, outcome=FAULT)
    scene.answer(*scene.batches[2], ending=RAISED, outcome=FAULT)
    assert [old for old, _ in scene.replacing] == [0]
    assert len(calls) == 9


def test_a_call_that_was_not_begun_says_nothing() -> None:
    scene = Scene(size=2, health=Health(counts=Fault, failures=1), sends_ahead=True)
    scene.learn_pace()
    calls = [scene.submit(SHORT) for _ in range(4)]
    ahead = next(call for call in calls if call.worker is not None and call.id in call.worker.ahead)
    assert ahead.worker is not None
    scene.give_back(ahead.worker.id, ahead)
    assert scene.replacing == []


@pytest.mark.parametrize("part", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("size", [2, 5])
def test_workers_that_fail_alike_are_hardly_ever_taken_for_sick(part: float, size: int) -> None:
    out = 0
    for seed in range(6):
        rng = random.Random(seed)
        scene = Scene(size=size, health=Health(counts=Fault, failures=8))
        for _ in range(150):
            for worker_id in range(size):
                (fail_on if rng.random() < part else succeed_on)(scene, worker_id, 1)
            scene.wait(0.1)
            out += len(scene.replacing)
            if scene.replacing:
                break
    assert out <= 1


@pytest.mark.parametrize("size", [2, 8])
def test_one_that_fails_far_more_often_is_soon_found(size: int) -> None:
    for seed in range(6):
        rng = random.Random(seed)
        scene = Scene(size=size, health=Health(counts=Fault, failures=8))
        for _ in range(200):
            for worker_id in range(size):
                (fail_on if rng.random() < (0.5 if worker_id == 0 else 0.05) else succeed_on)(scene, worker_id, 1)
            scene.wait(0.1)
            if scene.replacing:
                break
        assert [old for old, _ in scene.replacing] == [0]
