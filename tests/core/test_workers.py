"""Starting, replacing, retiring and giving up workers."""

import math

import pytest

from poise._answers import RETRYABLE
from poise._core.states import CallState, IllegalTransitionError, WorkerState
from poise.errors import LeaseExpired, PoisonCall, PoolBroken, PoolClosed, WorkerLost
from tests.core.scene import SHORT, Scene, state


def test_all_workers_are_started_at_once() -> None:  # G8
    scene = Scene(size=3, ready=0)
    assert scene.started == [0, 1, 2]
    assert scene.pool.fleet.is_starting(1)
    scene.ready(1)
    assert not scene.pool.fleet.is_starting(1)
    assert not scene.pool.fleet.is_starting(9)
    assert scene.pool.ready_workers == 1


def test_a_dead_worker_is_replaced_after_the_backoff() -> None:  # G8
    scene = Scene(size=1)
    scene.wait(20.0)
    scene.lose(0)
    assert scene.pool.next_tick() == pytest.approx(20.1)
    scene.wait(0.1)
    assert scene.started == [0, 1]
    scene.ready(1)
    assert scene.pool.stats(scene.now).ready == 1


def test_the_backoff_doubles_up_to_half_a_minute() -> None:  # G8
    scene = Scene(size=1, ready=0)
    delays: list[float] = []
    for worker_id in range(12):
        scene.lose(worker_id)
        delays.append(scene.pool.next_tick() - scene.now)
        scene.wait(60.0)
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0])


def test_the_backoff_is_jittered() -> None:  # G8
    scene = Scene(size=1, ready=0, chance=lambda: 0.0)
    scene.lose(0)
    assert scene.pool.next_tick() == pytest.approx(0.05)


def test_a_worker_that_dies_young_counts_as_one_more_failure_and_a_healthy_one_as_the_first() -> None:  # G8
    scene = Scene(size=1)
    scene.lose(0)
    scene.wait(0.1)
    scene.ready(1)
    scene.wait(9.0)
    scene.lose(1)
    assert scene.pool.next_tick() - scene.now == pytest.approx(0.2)
    scene.wait(0.2)
    scene.ready(2)
    scene.wait(10.1)
    scene.lose(2)
    assert scene.pool.next_tick() - scene.now == pytest.approx(0.1)


def test_a_worker_that_was_not_asked_to_start_cannot_be_lost() -> None:
    scene = Scene(size=1)
    scene.lose(0)
    pending = scene.worker(1)
    with pytest.raises(IllegalTransitionError):
        scene.lose(1)
    assert scene.pool.members() == [pending]
    assert scene.pool.counters.deaths == 1
    scene.pool.check_invariants()


def test_workers_that_cannot_start_break_the_pool_and_waiting_calls_fail_with_the_cause() -> None:  # G8
    scene = Scene(size=1, ready=0, backlog=1)
    waiting, parked = scene.submit(timeout=60.0), scene.submit(may_park=True)
    bound = scene.submit(member=scene.worker(0))
    reason = ValueError("no such file: weights.bin")
    for worker_id in range(3):
        assert not scene.errors
        scene.lose(worker_id, "the constructor raised", cause=reason)
        scene.wait(1.0)
    assert list(scene.errors) == [waiting, parked, bound]
    for error in scene.errors.values():
        assert isinstance(error, PoolBroken)
        assert (error.failures, error.__cause__) == (3, reason)
    assert len({id(error) for error in scene.errors.values()}) == 3
    with pytest.raises(PoolBroken) as caught:
        scene.submit()
    assert caught.value.__cause__ is reason
    assert (scene.pool.fleet.failed_starts, scene.pool.fleet.last_failure) == (3, "the constructor raised")


def test_as_many_starts_as_workers_must_fail_before_the_pool_is_broken() -> None:  # G8
    scene = Scene(size=5, ready=0)
    for worker_id in range(4):
        scene.lose(worker_id)
    assert scene.pool.fleet.broken is None
    scene.lose(4)
    assert scene.pool.fleet.broken is not None


def test_a_broken_pool_works_again_when_a_worker_starts_after_all() -> None:  # G8
    scene = Scene(size=3, ready=0)
    for worker_id in range(3):
        scene.lose(worker_id)
    with pytest.raises(PoolBroken):
        scene.submit()
    scene.wait(1.0)
    scene.ready(4)
    assert (scene.pool.fleet.broken, scene.pool.fleet.failed_starts) == (None, 0)
    call = scene.submit()
    assert scene.sent[4] == [call]
    scene.lose(3)
    scene.lose(5)
    assert scene.pool.fleet.broken is None


def test_failed_starts_beside_a_ready_worker_do_not_break_the_pool() -> None:  # G8
    scene = Scene(size=2, ready=1)
    for worker_id in range(1, 12):
        scene.lose(worker_id, "no room")
        scene.wait(60.0)
    assert scene.pool.fleet.broken is None
    waiting = [scene.submit(), scene.submit()]
    scene.lose(0)
    assert scene.pool.fleet.broken is None, "the room that it leaves may be what the others lack"
    scene.wait(60.0)
    scene.ready(max(scene.started))
    assert state(waiting[1]) is CallState.RUNNING


def test_a_pool_that_does_not_heal_breaks_when_its_last_worker_is_gone() -> None:  # G1, G8
    scene = Scene(size=2, heals=False)
    lost = [scene.submit(), scene.submit()]
    waiting = scene.submit()
    scene.lose(0)
    assert (scene.pool.fleet.broken, len(scene.pool.members())) == (None, 1)
    scene.lose(1)
    assert [type(scene.errors[call]) for call in (*lost, waiting)] == [WorkerLost, WorkerLost, PoolBroken]
    with pytest.raises(PoolBroken):
        scene.submit()


def test_a_call_with_retries_left_fails_promptly_when_no_worker_can_run_it() -> None:  # G8
    scene = Scene(size=1, heals=False)
    call = scene.submit(retries=1)
    scene.lose(0)
    assert isinstance(scene.errors[call], PoolBroken)


# ---------------------------------------------------------------- size


def test_a_pool_grows_and_waiting_calls_get_the_new_workers() -> None:
    scene = Scene(size=1)
    scene.submit()
    waiting = scene.submit()
    scene.resize(3)
    assert scene.started == [0, 1, 2]
    scene.ready(2)
    assert scene.sent[2] == [waiting]


def test_a_pool_shrinks_by_those_that_have_not_started_then_by_the_least_busy() -> None:
    scene = Scene(size=5, ready=4)
    lease = scene.lease()
    busy = [scene.submit(), scene.submit()]
    assert scene.leases == {lease: 0}
    assert [call.worker.id for call in busy if call.worker] == [1, 2]
    scene.lose(4)
    scene.resize(4)
    assert scene.killed == []
    assert [w.id for w in scene.pool.members()] == [0, 1, 2, 3]
    scene.resize(3)
    assert scene.killed == [3]
    scene.resize(1)
    assert scene.killed == [3]
    assert [w.id for w in scene.pool.members()] == [0]
    assert {w.state for w in scene.pool.stats(scene.now).workers} == {"ready", "retiring"}
    for call in busy:
        scene.answer(call)
    assert scene.killed == [3, 1, 2]


def test_a_worker_that_is_starting_is_ended_at_once() -> None:
    scene = Scene(size=2, ready=0)
    scene.resize(1)
    assert scene.killed == [1]
    scene.ready(1)
    scene.lose(1)
    assert [w.id for w in scene.pool.members()] == [0]


def test_a_worker_that_waits_for_its_backoff_is_dropped_without_a_kill() -> None:
    scene = Scene(size=2)
    scene.lose(1)
    scene.resize(1)
    assert scene.killed == []
    assert scene.pool.next_tick() == math.inf


def test_a_worker_that_retires_finishes_what_it_holds_and_gets_nothing_more() -> None:
    scene = Scene(size=2, slots=2)
    calls = [scene.submit() for _ in range(4)]
    scene.resize(1)
    on_retiring = [call for call in calls if call in scene.sent[1]]
    waiting = scene.submit()
    scene.answer(on_retiring[0])
    assert state(waiting) is CallState.WAITING
    scene.answer(on_retiring[1])
    assert scene.killed == [1]
    scene.lose(1)
    assert scene.pool.stats(scene.now).ready == 1


def test_only_a_worker_that_is_not_wanted_and_runs_nothing_may_close_what_it_holds() -> None:
    scene = Scene(size=3, kill_after=1.0)
    stuck, held = scene.submit(timeout=2.0), scene.submit()
    scene.wait(3.0)
    assert scene.killed == [0], "it overran"
    scene.resize(2)
    scene.stop()
    assert sorted(scene.killed) == [0, 0, 1, 2]
    assert scene.closed == [2], "the first is killed already, the second still runs a call"
    assert {stuck, held} <= scene.errors.keys()


def test_a_worker_that_asks_for_it_is_replaced_at_once_and_finishes_what_it_holds() -> None:  # G2
    scene = Scene(size=2, slots=1)
    first, second, waiting = scene.submit(), scene.submit(), scene.submit()
    (old,) = [worker for worker in (0, 1) if first in scene.sent[worker]]
    scene.act(scene.pool.renewals.retire(old, "SIGTERM", scene.now))
    scene.act(scene.pool.renewals.retire(old, "SIGTERM", scene.now))
    assert scene.started == [0, 1, 2], "told twice, it is replaced once"
    scene.answer(first)
    assert scene.closed == [old]
    assert state(waiting) is CallState.WAITING
    scene.ready(2)
    assert scene.sent[2] == [waiting]
    scene.answer(second)
    scene.answer(waiting)
    assert len(scene.results) == 3
    assert not scene.errors


def test_a_worker_of_a_pool_that_makes_no_others_retires_without_an_heir() -> None:
    scene = Scene(size=2, heals=False)
    scene.act(scene.pool.renewals.retire(0, "SIGTERM", scene.now))
    assert scene.started == [0, 1]
    call = scene.submit()
    assert scene.sent[1] == [call]


def test_a_worker_that_retires_may_close_what_it_holds_once_it_has_finished() -> None:
    scene = Scene(size=2)
    calls = [scene.submit(), scene.submit()]
    scene.resize(1)
    assert scene.closed == []
    for call in calls:
        scene.answer(call)
    assert scene.closed == [1]


def test_a_worker_that_retires_gives_back_what_it_was_sent_ahead() -> None:  # G2
    scene = Scene(size=2, sends_ahead=True)
    scene.learn_pace()
    busy = [scene.submit(), scene.submit()]
    ahead = [scene.submit(SHORT), scene.submit(SHORT)]
    scene.resize(1)
    back = [call for call in ahead if call in scene.sent[1]]
    assert scene.recalls == [(1, [call.id for call in back])]
    scene.answer(busy[0] if busy[0].worker is not None and busy[0].worker.id == 1 else busy[1])
    scene.give_back(1, *back)
    assert scene.killed == [1]
    assert all(call.worker is None or call.worker.id == 0 for call in ahead)


def test_a_worker_that_dies_while_it_retires_is_not_replaced() -> None:  # G8
    scene = Scene(size=2)
    call = scene.submit()
    other = scene.submit()
    scene.resize(1)
    retiring = next(c for c in (call, other) if c.worker is not None and c.worker.state is WorkerState.RETIRING)
    assert retiring.worker is not None
    scene.lose(retiring.worker.id)
    assert len(scene.pool.stats(scene.now).workers) == 1


def test_a_leased_worker_retires_when_it_is_given_back() -> None:
    scene = Scene(size=2)
    leases = [scene.lease(), scene.lease()]
    scene.resize(1)
    retiring = next(lease for lease in leases if lease.worker and lease.worker.state is WorkerState.RETIRING)
    call = scene.submit(lease=retiring)
    scene.answer(call)
    assert not scene.killed
    scene.release(retiring)
    assert len(scene.killed) == 1
    with pytest.raises(LeaseExpired) as caught:
        scene.submit(lease=retiring)
    assert caught.value.cause == "released"


def test_a_claim_on_a_worker_that_retires_moves_on() -> None:
    scene = Scene(size=2, slots=2)
    calls = [scene.submit() for _ in range(3)]
    lease = scene.lease()
    claimed = next(w for w in scene.pool.members() if w.claim is lease)
    assert claimed.id == 1
    scene.submit("fills the other")
    scene.resize(1)
    assert claimed.state is WorkerState.RETIRING
    assert claimed.claim is None
    for call in [*calls, *scene.sent[0]]:
        if call.worker is not None:
            scene.answer(call)
    assert scene.leases == {lease: 0}


def test_a_bound_call_is_run_before_its_worker_retires() -> None:  # G1
    scene = Scene(size=2)
    first = scene.submit(member=scene.worker(1))
    second = scene.submit(member=scene.worker(1))
    scene.submit()
    scene.resize(1)
    scene.answer(first)
    assert state(second) is CallState.RUNNING
    scene.answer(second)
    assert scene.killed == [1]


def test_a_bound_call_ends_with_a_worker_that_retires_before_it_has_started() -> None:  # G1
    scene = Scene(size=2, ready=1)
    call = scene.submit(member=scene.worker(1))
    scene.resize(1)
    assert isinstance(scene.errors[call], WorkerLost)


def test_a_killed_worker_that_retires_stays_until_its_death_is_told() -> None:  # G1
    scene = Scene(size=2, kill_after=0.0)
    stuck = scene.submit(timeout=1.0)
    scene.wait(1.0)
    bound = scene.submit(member=scene.worker(0))
    scene.submit()
    scene.resize(1)
    assert scene.worker(1).state is WorkerState.READY
    assert scene.killed == [0]
    scene.answer(stuck)
    assert scene.killed == [0]
    scene.lose(0)
    assert isinstance(scene.errors[bound], WorkerLost)


def test_in_a_broken_pool_a_worker_that_retires_finishes_what_has_begun() -> None:  # G8
    scene = Scene(size=2, sends_ahead=True)
    scene.learn_pace()
    lease = scene.lease()
    running = [scene.submit(lease=lease), scene.submit(retries=1)]
    ahead = scene.submit(SHORT)
    assert running[1].worker is not None
    retiring = running[1].worker.id
    queued = scene.submit(lease=lease)
    scene.resize(1)
    assert scene.worker(scene.leases[lease]).state is WorkerState.READY
    scene.lose(scene.leases[lease])
    for worker_id in range(2, 5):
        scene.wait(1.0)
        scene.lose(worker_id, "it could not start")
    assert set(scene.errors) == {running[0], queued}
    assert str(scene.pool.fleet.broken) == str(scene.pool.fleet.broken_error())
    scene.give_back(retiring, ahead)
    assert isinstance(scene.errors[ahead], PoolBroken)
    scene.answer(running[1], ending=RETRYABLE, outcome="an exception")
    assert scene.results[running[1]] == "an exception"


def test_a_lease_goes_on_in_a_broken_pool() -> None:  # G8
    scene = Scene(size=2)
    leases = [scene.lease(), scene.lease()]
    scene.resize(1)
    retiring = next(lease for lease in leases if lease.worker and lease.worker.state is WorkerState.RETIRING)
    other = next(lease for lease in leases if lease is not retiring)
    scene.lose(scene.leases[other])
    for worker_id in range(2, 5):
        scene.wait(1.0)
        scene.lose(worker_id, "it could not start")
    assert scene.pool.fleet.broken is not None
    scene.answer(scene.submit(lease=retiring))
    scene.release(retiring)


# ---------------------------------------------------------------- the end


def test_closing_refuses_what_waits_and_finishes_what_runs() -> None:  # G1
    scene = Scene(size=1, slots=2, backlog=1)
    running = [scene.submit(), scene.submit()]
    claim = scene.lease()
    waiting, parked = scene.submit(), scene.submit(may_park=True)
    bound = scene.submit(member=scene.worker(0))
    scene.close(reject_waiting=True)
    assert set(scene.errors) == {claim, waiting, parked, bound}
    assert all(isinstance(error, PoolClosed) for error in scene.errors.values())
    assert scene.counts == {"running": 2}
    for call in running:
        scene.answer(call)
    assert scene.pool.is_idle


def test_closing_takes_back_and_refuses_what_was_sent_ahead() -> None:  # G1
    scene = Scene(size=1, sends_ahead=True)
    scene.learn_pace()
    running, ahead = scene.submit(retries=1), scene.submit(SHORT)
    scene.close(reject_waiting=True)
    assert scene.recalls == [(0, [ahead.id])]
    scene.give_back(0, ahead)
    assert isinstance(scene.errors[ahead], PoolClosed)
    scene.answer(running, ending=RETRYABLE)
    assert list(scene.results)[-1] is running
    assert scene.pool.is_idle


def test_nothing_is_tried_again_after_the_pool_was_closed_in_haste() -> None:  # G2
    scene = Scene(size=1)
    call = scene.submit(retries=3)
    scene.close(reject_waiting=True)
    scene.lose(0)
    assert type(scene.errors[call]) is WorkerLost


def test_stopping_ends_every_call_and_every_worker() -> None:  # G1
    scene = Scene(size=4, ready=2, sends_ahead=True, poison_after=1)
    scene.learn_pace()
    scene.lose(3)
    leased = scene.lease()
    mine = scene.submit(lease=leased)
    running, ahead, waiting = scene.submit(retries=1), scene.submit(SHORT), scene.submit(timeout=9.0)
    gone = scene.submit(SHORT)
    scene.cancel(gone)
    abandoned = scene.sent[1][-1]
    scene.stop()
    lost = {call for call, error in scene.errors.items() if type(error) is WorkerLost}
    closed = {call for call, error in scene.errors.items() if type(error) is PoolClosed}
    assert lost == {mine, running, ahead}
    assert closed == {waiting}
    assert abandoned.state is state(leased) is CallState.DONE
    assert scene.killed == [0, 1, 2]
    assert scene.pool.next_tick() == math.inf
    assert scene.pool.is_idle
    assert scene.pool.members() == []
    assert scene.pool.fleet.broken is None
    assert scene.pool.stop(scene.now) == []
    with pytest.raises(PoolClosed):
        scene.submit()


def test_stopping_blames_no_call_for_the_end_of_its_worker() -> None:  # G9
    scene = Scene(size=1, slots=2)
    suspect = scene.submit(retries=5)
    scene.lose(0)
    scene.wait(1.0)
    scene.ready(1)
    abandoned = scene.submit()
    scene.cancel(abandoned)
    scene.stop()
    assert type(scene.errors[suspect]) is WorkerLost
    assert not any(isinstance(error, PoisonCall) for error in scene.errors.values())
    assert scene.pool.counters.deaths == 1


def test_the_death_of_a_worker_after_the_stop_is_no_news() -> None:
    scene = Scene(size=1)
    scene.stop()
    scene.lose(0)
    scene.ready(0)
    assert scene.pool.counters.deaths == 0


def test_a_death_is_told_with_what_ran_and_when_the_worker_is_replaced() -> None:
    scene = Scene(size=2, sends_ahead=True)
    scene.learn_pace()
    calls = [scene.submit(SHORT) for _ in range(4)]
    ahead = [call for call in calls if call.worker is not None and state(call) is CallState.AHEAD]
    number = ahead[0].worker.id  # type: ignore[union-attr]
    scene.begun(ahead[0])
    scene.lose(number, "it fell")
    (loss,) = scene.losses
    assert (loss.worker_id, loss.reason, loss.has_started) == (number, "it fell", True)
    assert loss.calls == [SHORT, SHORT]  # the one with the slot, and the one that was announced
    assert loss.replaced_in == pytest.approx(0.1)
    scene.lose(number, "told again")
    assert len(scene.losses) == 1


def test_a_failed_start_is_told_and_so_is_that_nobody_takes_the_place() -> None:
    scene = Scene(size=1, ready=0, heals=False)
    scene.lose(0, "no room")
    (loss,) = scene.losses
    assert (loss.has_started, list(loss.calls), loss.replaced_in) == (False, [], None)


def test_planned_ends_are_not_told_as_deaths() -> None:
    scene = Scene(size=3)
    scene.resize(2)  # retires at once
    running = scene.submit()
    scene.resize(1)
    scene.lose(2)  # what was retired has ended
    scene.stop()
    scene.lose(0)
    assert state(running) is CallState.DONE
    assert scene.losses == []


def test_a_worker_is_known_until_it_is_gone() -> None:
    scene = Scene(size=1)
    assert scene.pool.worker(0) is not None
    scene.lose(0, "died")
    assert scene.pool.worker(0) is None
