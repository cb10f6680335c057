"""Whole workers for one caller, and calls that are bound for one worker."""

import math

import pytest

from poise._answers import NOT_BEGUN, RETRYABLE
from poise._core.states import CallState
from poise.errors import DeadlineExceeded, LeaseExpired, Overloaded, WorkerLost
from tests.core.scene import SHORT, Scene, state


def cause(error: object) -> str:
    assert isinstance(error, LeaseExpired)
    return error.cause


def test_a_leased_worker_runs_nobody_elses_call() -> None:
    scene = Scene(size=1)
    lease = scene.lease()
    assert scene.leases == {lease: 0}
    other = scene.submit()
    mine = scene.submit(lease=lease)
    assert scene.sent[0] == [mine]
    assert scene.counts == {"waiting": 1, "running": 1, "leased": 1}
    scene.answer(mine)
    scene.release(lease)
    scene.release(lease)
    assert scene.sent[0] == [mine, other]
    assert state(lease) is CallState.DONE


def test_a_lease_waits_its_turn() -> None:  # G5
    scene = Scene(size=1)
    first, second = scene.submit(), scene.submit()
    lease = scene.lease()
    third = scene.submit()
    scene.answer(first)
    scene.answer(second)
    assert scene.leases == {lease: 0}
    assert state(third) is CallState.WAITING


def test_a_lease_of_a_worker_with_several_slots_waits_until_that_is_empty() -> None:
    scene = Scene(size=2, slots=2)
    calls = [scene.submit() for _ in range(3)]
    lease = scene.lease()
    after = scene.submit()
    assert scene.counts == {"waiting": 2, "running": 3}, "the other slot of the claimed worker is kept free"
    scene.answer(calls[0])
    assert after in scene.sent[0]
    scene.answer(calls[1])
    assert scene.leases == {lease: 1}
    mine = [scene.submit(lease=lease) for _ in range(3)]
    assert [call.state for call in mine] == [CallState.RUNNING, CallState.RUNNING, CallState.WAITING]


def test_a_claim_moves_to_a_worker_that_is_empty_sooner() -> None:  # G4
    scene = Scene(size=2, slots=2)
    on_first = [scene.submit() for _ in range(4)]
    lease = scene.lease()
    waiting = [scene.submit() for _ in range(2)]
    claimed = next(w for w in scene.pool.members() if w.claim is lease)
    other = next(w for w in scene.pool.members() if w.claim is None)
    for call in [call for call in on_first if call.worker is other]:
        scene.answer(call)
    assert [call.worker for call in waiting] == [other, other]
    for call in waiting:
        scene.answer(call)
    assert scene.leases == {lease: other.id}
    assert claimed.is_open


def test_a_worker_that_becomes_ready_takes_the_oldest_claim() -> None:  # G4
    scene = Scene(size=2, slots=2, ready=1)
    scene.submit()
    lease = scene.lease()
    second = scene.lease(timeout=1.0)
    assert scene.counts == {"waiting": 2, "running": 1}
    scene.ready(1)
    assert scene.leases == {lease: 1}
    scene.release(lease)
    assert scene.leases == {lease: 1, second: 1}


def test_a_claim_that_has_expired_when_a_worker_is_empty_is_not_granted() -> None:  # G6
    scene = Scene(size=2, slots=2, ready=1)
    running = scene.submit()
    lease = scene.lease(timeout=1.0)
    scene.now = 2.0
    scene.ready(1)
    assert isinstance(scene.errors[lease], DeadlineExceeded)
    scene.answer(running)
    assert scene.counts == {"free_slots": 4}


def test_a_cancelled_claim_frees_its_worker_at_once() -> None:  # G4
    scene = Scene(size=1, slots=2)
    scene.submit()
    lease = scene.lease()
    waiting = scene.submit()
    assert state(waiting) is CallState.WAITING
    scene.cancel(lease)
    assert state(waiting) is CallState.RUNNING


def test_a_claim_outlives_its_worker() -> None:
    scene = Scene(size=2, slots=2)
    calls = [scene.submit() for _ in range(2)]
    lease = scene.lease()
    claimed = next(w for w in scene.pool.members() if w.claim is lease)
    scene.lose(claimed.id)
    other = next(call for call in calls if call.worker is not None)
    scene.answer(other)
    assert list(scene.leases) == [lease]


def test_a_claim_asks_back_what_was_sent_ahead() -> None:
    scene = Scene(size=1, slots=2, sends_ahead=True)
    scene.learn_pace()
    running = [scene.submit(), scene.submit()]
    ahead = scene.submit(SHORT)
    lease = scene.lease()
    assert scene.recalls == [(0, [ahead.id])]
    scene.give_back(0, ahead)
    assert state(ahead) is CallState.WAITING
    for call in running:
        scene.answer(call)
    assert scene.leases == {lease: 0}
    scene.release(lease)
    assert state(ahead) is CallState.RUNNING


def test_a_lease_waits_for_a_worker_to_start() -> None:
    scene = Scene(size=1, slots=2, ready=0)
    lease = scene.lease()
    assert scene.counts == {"waiting": 1}
    scene.ready(0)
    assert scene.leases == {lease: 0}


def test_the_timeout_of_a_lease_is_for_getting_it() -> None:  # G6
    scene = Scene(size=1)
    lease = scene.lease(timeout=1.0)
    assert scene.pool.next_tick() == math.inf
    scene.wait(5.0)
    assert not scene.errors
    scene.submit(lease=lease)


def test_calls_of_a_lease_that_have_not_begun_are_refused_when_it_ends() -> None:  # G1
    scene = Scene(size=1)
    lease = scene.lease()
    running, waiting = scene.submit(lease=lease), scene.submit(lease=lease)
    scene.release(lease)
    assert cause(scene.errors[waiting]) == "released"
    other = scene.submit()
    assert state(other) is CallState.WAITING
    scene.answer(running)
    assert state(other) is CallState.RUNNING
    assert list(scene.results) == [running]


def test_a_lease_that_has_ended_takes_no_more_calls() -> None:
    scene = Scene(size=1)
    lease = scene.lease()
    scene.release(lease)
    with pytest.raises(LeaseExpired) as caught:
        scene.submit(lease=lease)
    assert (caught.value.cause, caught.value.worker_id) == ("released", 0)


def test_a_released_lease_is_not_said_to_have_died_with_its_worker() -> None:
    scene = Scene(size=1)
    lease = scene.lease()
    scene.release(lease)
    scene.lose(0)
    with pytest.raises(LeaseExpired) as caught:
        scene.submit(lease=lease)
    assert caught.value.cause == "released"


def test_a_lease_ends_with_its_worker() -> None:
    scene = Scene(size=1)
    lease = scene.lease()
    running, waiting = scene.submit(lease=lease, retries=3), scene.submit(lease=lease)
    scene.lose(0)
    assert type(scene.errors[running]) is WorkerLost
    assert cause(scene.errors[waiting]) == "lost"
    with pytest.raises(LeaseExpired) as caught:
        scene.submit(lease=lease)
    assert caught.value.cause == "lost"
    scene.release(lease)
    scene.wait(1.0)
    scene.ready(1)
    assert scene.counts == {"free_slots": 1}
    assert scene.pool.is_idle


def test_a_retry_within_a_lease_stays_on_its_worker() -> None:  # G2
    scene = Scene(size=2)
    lease = scene.lease()
    call = scene.submit(lease=lease, retries=1)
    scene.answer(call, ending=RETRYABLE)
    assert scene.sent[0] == [call, call]


def test_no_retry_follows_the_end_of_the_lease() -> None:  # G2
    scene = Scene(size=1)
    lease = scene.lease()
    call = scene.submit(lease=lease, retries=1)
    scene.release(lease)
    scene.answer(call, ending=RETRYABLE, outcome="an exception")
    assert scene.results == {call: "an exception"}


def test_a_leased_call_that_did_not_begin_before_the_lease_ended_is_refused() -> None:  # G1
    scene = Scene(size=1)
    lease = scene.lease()
    call = scene.submit(lease=lease)
    scene.release(lease)
    scene.answer(call, ending=NOT_BEGUN)
    assert cause(scene.errors[call]) == "released"


def test_a_cancelled_lease_is_given_back() -> None:
    scene = Scene(size=1)
    lease = scene.lease()
    waiting = scene.submit()
    scene.cancel(lease)
    assert state(waiting) is CallState.RUNNING
    assert scene.pool.counters.cancelled == 1


def test_the_queue_of_a_lease_is_bounded() -> None:  # G7
    scene = Scene(size=1, backlog=1)
    lease = scene.lease()
    scene.submit(lease=lease)
    waiting = scene.submit(lease=lease)
    with pytest.raises(Overloaded):
        scene.submit(lease=lease)
    patient = scene.submit(lease=lease, may_park=True)
    assert (waiting.state, patient.state) == (CallState.WAITING, CallState.WAITING)


def test_calls_of_a_lease_start_by_priority_and_in_order() -> None:  # G5
    scene = Scene(size=1)
    lease = scene.lease()
    running = scene.submit(lease=lease)
    names = [scene.submit(name, lease=lease, priority=p).name for name, p in (("b", 0), ("a", 3), ("c", 0))]
    for _ in names:
        scene.answer(running)
        running = scene.sent[0][-1]
    assert scene.functions(0) == ["f", "a", "b", "c"]


# ---------------------------------------------------------------- calls bound for one worker


def broadcast(scene: Scene, **fields: object) -> list[int]:
    calls = [scene.submit("reload", member=worker, may_park=True, **fields) for worker in scene.pool.members()]
    return [call.id for call in calls]


def test_a_broadcast_runs_once_on_every_worker_before_what_waits() -> None:
    scene = Scene(size=2)
    running = [scene.submit(), scene.submit()]
    scene.submit("behind")
    broadcast(scene)
    for call in running:
        scene.answer(call)
    assert scene.functions(0) == ["f", "reload"]
    assert scene.functions(1) == ["f", "reload"]


def test_a_broadcast_to_idle_workers_starts_at_once() -> None:
    scene = Scene(size=2)
    broadcast(scene)
    assert scene.functions(0) == scene.functions(1) == ["reload"]


def test_a_broadcast_reaches_workers_that_are_still_starting() -> None:
    scene = Scene(size=2, ready=1)
    broadcast(scene)
    scene.submit()
    assert scene.counts == {"waiting": 2, "running": 1}
    scene.ready(1)
    assert scene.functions(1) == ["reload"]


def test_the_replacement_of_a_worker_inherits_its_broadcast() -> None:  # G8
    scene = Scene(size=1, ready=0)
    broadcast(scene)
    scene.lose(0)
    scene.wait(0.1)
    scene.lose(1)
    scene.wait(1.0)
    scene.ready(2)
    assert scene.functions(2) == ["reload"]


def test_a_broadcast_that_was_on_a_worker_is_lost_with_it_even_if_it_has_retries() -> None:
    scene = Scene(size=1)
    broadcast(scene, retries=2)
    scene.lose(0)
    assert [type(error) for error in scene.errors.values()] == [WorkerLost]


def test_a_broadcast_that_waited_for_a_worker_without_an_heir_has_not_run() -> None:
    scene = Scene(size=1, heals=False)
    scene.submit()
    broadcast(scene)
    scene.lose(0)
    begun, waiting = scene.errors.values()
    assert isinstance(begun, WorkerLost)
    assert isinstance(waiting, WorkerLost)
    assert (begun.started, waiting.started) == (True, False)
    assert "has not run" in str(waiting)


def test_a_retried_broadcast_stays_on_its_worker() -> None:
    scene = Scene(size=2)
    broadcast(scene, retries=1)
    scene.answer(scene.sent[1][0], ending=RETRYABLE)
    assert scene.functions(1) == ["reload", "reload"]
    assert scene.functions(0) == ["reload"]


def test_a_broadcast_waits_for_the_end_of_a_lease() -> None:
    scene = Scene(size=1)
    lease = scene.lease()
    broadcast(scene)
    assert scene.counts == {"waiting": 1, "leased": 1}
    scene.release(lease)
    assert scene.functions(0) == ["reload"]


def test_a_broadcast_is_not_held_up_by_calls_sent_ahead() -> None:
    scene = Scene(size=1, sends_ahead=True)
    scene.learn_pace()
    running, ahead = scene.submit(), scene.submit(SHORT)
    broadcast(scene)
    behind = [scene.submit(SHORT) for _ in range(3)]
    assert all(state(call) is CallState.WAITING for call in behind)
    scene.answer(running)
    scene.answer(ahead, service_time=0.00001)
    assert scene.functions(0)[1:] == ["f", SHORT, "reload", SHORT, SHORT, SHORT]


def test_a_bound_call_may_be_refused_for_want_of_room() -> None:  # G7
    scene = Scene(size=1, backlog=0)
    scene.submit()
    with pytest.raises(Overloaded):
        scene.submit(member=scene.worker(0))
    scene.submit(member=scene.worker(0), may_park=True)


def test_a_bound_call_that_did_not_begin_stays_on_its_worker() -> None:
    scene = Scene(size=2)
    broadcast(scene)
    scene.answer(scene.sent[1][0], ending=NOT_BEGUN)
    assert scene.functions(1) == ["reload", "reload"]


def test_a_bound_call_ends_with_a_worker_that_is_not_replaced() -> None:  # G1
    scene = Scene(size=2, heals=False)
    scene.submit(member=scene.worker(0))
    waiting = scene.submit(member=scene.worker(0))
    worker = scene.worker(0)
    scene.lose(0)
    assert isinstance(scene.errors[waiting], WorkerLost)
    with pytest.raises(WorkerLost):
        scene.submit(member=worker)


def test_a_bound_call_without_any_time_left_is_answered_at_once() -> None:  # G6
    scene = Scene(size=1)
    call = scene.submit(member=scene.worker(0), timeout=0.0)
    assert isinstance(scene.errors[call], DeadlineExceeded)
    assert not scene.sent[0]


def test_a_bound_call_can_be_cancelled_and_can_expire() -> None:  # G6
    scene = Scene(size=1, ready=0)
    gone, late = scene.submit(member=scene.worker(0)), scene.submit(member=scene.worker(0), timeout=1.0)
    scene.cancel(gone)
    scene.wait(1.0)
    assert list(scene.errors) == [late]
    scene.ready(0)
    assert scene.counts == {"free_slots": 1}
