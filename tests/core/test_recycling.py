"""Workers that live and are replaced: when, by whom, in which order, and what becomes of their calls."""

from __future__ import annotations

import math
from itertools import cycle
from typing import TYPE_CHECKING

import pytest

from poise._core.states import CallState
from poise.policies import Health, Recycle
from tests.core.scene import SHORT, Scene, state

if TYPE_CHECKING:
    from poise._core.renewal import Renewal


def replace(scene: Scene, worker_id: int) -> Renewal:
    renewal, effects = scene.pool.renewals.replace(worker_id, scene.now)
    scene.act(effects)
    assert renewal is not None
    return renewal


def is_over(renewal: Renewal) -> bool:
    """Whether it is over now: unlike the property itself, not narrowed by a check of it before."""
    return renewal.is_over


def retire(scene: Scene, worker_id: int) -> None:
    scene.act(scene.pool.renewals.retire(worker_id, "it asks for it", scene.now))


def no_room(scene: Scene, worker_id: int) -> None:
    scene.act(scene.pool.renewals.no_room(worker_id, "no room", scene.now))


def grown(scene: Scene, worker_id: int, *, is_fresh: bool = False) -> None:
    assert scene.pool.recycling is not None
    scene.act(scene.pool.recycling.grown(worker_id, 3 << 30, scene.now, is_fresh=is_fresh))


def ended(scene: Scene, worker_id: int) -> None:
    """The engine tells that a worker has ended as it was to."""
    scene.lose(worker_id, "retired")


def answer(scene: Scene, times: int) -> None:
    for _ in range(times):
        scene.answer(scene.submit())


# ---------------------------------------------------------------------------------------------------------------------
# The order


def test_the_new_one_is_ready_before_the_old_one_is_given_nothing_more() -> None:
    scene = Scene(size=1, recycle=Recycle(calls=3, jitter=0))
    answer(scene, 2)
    assert scene.started == [0]
    answer(scene, 1)
    assert (scene.started, scene.replacing, scene.killed) == ([0, 1], [(0, 1)], [])
    answer(scene, 5)
    assert len(scene.sent[0]) == 8, "it works on"
    running, waiting = scene.submit(), scene.submit()
    scene.ready(1)
    assert (scene.sent[1], state(running)) == ([waiting], CallState.RUNNING)
    assert scene.killed == []
    scene.answer(running)
    assert scene.closed == [0]
    assert scene.pool.counters.recycled == 1
    assert scene.pool.counters.deaths == 0


def test_what_was_sent_ahead_to_the_old_one_is_asked_back() -> None:
    scene = Scene(size=1, sends_ahead=True, recycle=Recycle(calls=100))
    scene.learn_pace()
    scene.submit()
    ahead = scene.submit(SHORT)
    replace(scene, 0)
    scene.ready(1)
    assert scene.recalls == [(0, [ahead.id])]
    scene.give_back(0, ahead)
    assert scene.sent[1] == [ahead]


def test_without_a_surge_the_new_one_starts_when_the_old_one_is_gone() -> None:
    scene = Scene(size=1, recycle=Recycle(calls=1, surge=False))
    answer(scene, 1)
    assert (scene.closed, scene.started) == ([0], [0])
    waiting = scene.submit()
    scene.wait(100.0)
    assert scene.started == [0]
    ended(scene, 0)
    assert scene.started == [0, 1]
    scene.ready(1)
    assert scene.sent[1] == [waiting]
    ended(scene, 0)
    assert scene.pool.counters.recycled == 1


def test_a_worker_that_dies_while_it_leaves_makes_room_all_the_same() -> None:
    scene = Scene(size=1, slots=2, recycle=Recycle(calls=1, surge=False))
    running, other = scene.submit(), scene.submit()
    scene.answer(running)
    assert scene.started == [0]
    scene.lose(0)
    assert scene.started == [0, 1]
    assert other in scene.errors


def test_where_there_is_no_room_for_both_the_old_one_leaves_first() -> None:
    scene = Scene(size=1, recycle=Recycle(calls=1))
    answer(scene, 1)
    no_room(scene, 1)
    assert scene.closed == [0]
    assert scene.pool.counters.recycled == 1
    no_room(scene, 1)
    no_room(scene, 7)
    scene.ready(1)
    answer(scene, 1)
    assert scene.replacing == [(0, 1), (1, 2)]


# ---------------------------------------------------------------------------------------------------------------------
# When, and how many at once


def test_one_is_replaced_at_a_time() -> None:
    scene = Scene(size=3, recycle=Recycle(calls=1))
    for call in [scene.submit() for _ in range(3)]:
        scene.answer(call)
    assert scene.replacing == [(0, 3)]
    scene.ready(3)
    assert scene.replacing == [(0, 3), (1, 4)]
    scene.ready(4)
    scene.ready(5)
    assert [old for old, _ in scene.replacing] == [0, 1, 2]


def test_of_a_large_pool_a_tenth_is_replaced_at_a_time() -> None:
    scene = Scene(size=40, recycle=Recycle(calls=1))
    for call in [scene.submit() for _ in range(40)]:
        scene.answer(call)
    assert len(scene.replacing) == 4
    scene.ready(40)
    assert len(scene.replacing) == 5


def test_one_that_works_on_until_it_is_replaced_takes_no_others_turn() -> None:
    scene = Scene(size=20, recycle=Recycle(calls=1))
    first = scene.submit()
    busy = [scene.submit() for _ in range(19)]
    scene.answer(first)
    answer(scene, 5)
    assert scene.replacing == [(0, 20)]
    scene.answer(busy[0])
    assert scene.replacing == [(0, 20), (1, 21)]


def test_workers_that_started_together_do_not_grow_old_together() -> None:
    chances = cycle([0.0, 0.5, 1.0])
    scene = Scene(size=3, recycle=Recycle(age=100.0, calls=100, jitter=0.5), chance=lambda: next(chances))
    assert [scene.worker(n).most_calls for n in range(3)] == [100, 75, 50]
    scene.wait(49.0)
    assert not scene.replacing
    scene.wait(2.0)
    assert scene.replacing == [(2, 3)]
    scene.ready(3)
    scene.wait(24.0)
    assert scene.replacing[1:] == [(1, 4)]


def test_a_worker_that_has_left_does_not_grow_old() -> None:
    scene = Scene(size=1, recycle=Recycle(age=100.0))
    scene.lose(0)
    assert scene.pool.next_tick() == pytest.approx(0.1)
    scene.wait(0.1)
    assert scene.pool.next_tick() == math.inf


def test_a_worker_with_too_much_memory_is_replaced_and_one_that_is_born_so_is_not() -> None:
    scene = Scene(size=2, recycle=Recycle(memory="2GiB"))
    grown(scene, 0, is_fresh=True)
    assert (scene.oversized, scene.replacing) == ([0], [])
    grown(scene, 1)
    assert scene.replacing == [(1, 2)]
    grown(scene, 9)
    indifferent = Scene(size=1, recycle=Recycle(calls=9))
    grown(indifferent, 0)
    assert not indifferent.replacing


def test_nobody_is_recycled_unless_that_is_asked_for() -> None:
    scene = Scene(size=1)
    answer(scene, 10)
    assert not scene.replacing
    assert scene.pool.recycling is None


def test_a_worker_that_somebody_holds_is_left_alone_until_he_lets_go() -> None:
    scene = Scene(size=2, recycle=Recycle(age=10.0))
    lease = scene.lease()
    scene.wait(10.0)
    assert scene.replacing == [(1, 2)]
    scene.ready(2)
    assert scene.replacing == [(1, 2)]
    scene.release(lease)
    assert scene.replacing == [(1, 2), (0, 3)]


def test_a_worker_that_died_before_its_turn_is_forgotten() -> None:
    scene = Scene(size=3, recycle=Recycle(calls=1))
    for call in [scene.submit() for _ in range(3)]:
        scene.answer(call)
    scene.lose(1)
    scene.wait(0.1)
    scene.ready(4)
    scene.ready(3)
    assert scene.replacing == [(0, 3), (2, 5)]


def test_a_pool_that_drains_replaces_nobody() -> None:
    scene = Scene(size=2, recycle=Recycle(calls=1, memory="2GiB"))
    for call in [scene.submit() for _ in range(2)]:
        scene.answer(call)
    scene.close(reject_waiting=False)
    scene.ready(2)
    grown(scene, 1)
    assert scene.replacing == [(0, 2)]


# ---------------------------------------------------------------------------------------------------------------------
# Exactly


@pytest.mark.parametrize("sends_ahead", [False, True])
def test_an_exact_number_is_never_passed(*, sends_ahead: bool) -> None:
    scene = Scene(size=1, sends_ahead=sends_ahead, recycle=Recycle(calls=5, jitter=0, exact=True))
    scene.learn_pace()
    calls = [scene.submit(SHORT) for _ in range(12)]
    for call in calls:
        if call.worker is None:
            scene.ready(scene.started[-1])
        scene.answer(call, service_time=0.00001)
    assert [len(scene.sent[n]) for n in range(3)] == [5, 5, 3]
    assert scene.closed == [0, 1]


def test_a_worker_does_what_it_holds_of_its_exact_number() -> None:
    scene = Scene(size=1, sends_ahead=True, recycle=Recycle(calls=3, jitter=0, exact=True))
    scene.learn_pace(0.0005)
    first, second = scene.submit(SHORT), scene.submit(SHORT)
    scene.answer(first, service_time=0.0005)
    assert scene.replacing == [(0, 1)]
    assert (state(second), second.worker) == (CallState.RUNNING, scene.worker(0))
    assert scene.recalls == []


@pytest.mark.parametrize("exact", [False, True])
def test_a_check_of_its_health_is_none_of_its_calls(*, exact: bool) -> None:
    recycle = Recycle(calls=3, jitter=0, exact=exact)
    scene = Scene(size=1, slots=2, recycle=recycle, health=Health("check", every=10.0, timeout=5.0))
    answer(scene, 1)
    scene.wait(10)
    assert scene.checks == [0]
    answer(scene, 1)
    assert scene.replacing == []
    scene.answer_check(0)
    answer(scene, 1)
    assert scene.replacing == [(0, 1)]
    assert len(scene.sent[0]) == 3


def test_a_worker_that_may_run_no_more_is_replaced_in_a_pool_that_drains_if_calls_wait() -> None:
    scene = Scene(size=1, recycle=Recycle(calls=1, jitter=0, exact=True))
    running, waiting = scene.submit(), scene.submit()
    scene.close(reject_waiting=False)
    scene.answer(running)
    assert scene.started == [0, 1]
    scene.ready(1)
    scene.answer(waiting)
    assert scene.started == [0, 1], "nothing waits for another"


def test_so_it_is_if_a_call_may_have_to_run_again() -> None:
    scene = Scene(size=2, recycle=Recycle(calls=1, jitter=0, exact=True))
    running, retried = scene.submit(), scene.submit(retries=1)
    scene.close(reject_waiting=False)
    scene.answer(running)
    assert scene.replacing == [(0, 2)]
    assert state(retried) is CallState.RUNNING


def test_a_worker_that_is_replaced_anyway_leaves_when_it_may_run_no_more() -> None:
    scene = Scene(size=1, recycle=Recycle(calls=1, jitter=0, exact=True))
    replace(scene, 0)
    answer(scene, 1)
    assert scene.closed == [0]
    assert scene.replacing == [(0, 1)]


# ---------------------------------------------------------------------------------------------------------------------
# What may go wrong


def test_if_the_old_one_dies_the_one_that_starts_takes_its_place() -> None:  # G8
    scene = Scene(size=1, recycle=Recycle(calls=1))
    answer(scene, 1)
    bound = scene.submit(member=scene.worker(0))
    waiting = scene.submit(member=scene.worker(0))
    scene.lose(0)
    assert scene.started == [0, 1]
    assert list(scene.errors) == [bound]
    scene.ready(1)
    assert scene.sent[1] == [waiting]
    assert scene.pool.counters.recycled == 0


def test_if_the_new_one_cannot_start_another_is_tried_and_the_old_one_works_on() -> None:  # G8
    scene = Scene(size=1, recycle=Recycle(calls=1))
    answer(scene, 1)
    for _ in range(4):
        scene.lose(scene.started[-1], "the constructor raised")
        scene.wait(30.0)
        answer(scene, 1)
    assert scene.started == [0, 1, 2, 3, 4, 5]
    assert scene.pool.fleet.broken is None
    scene.ready(5)
    assert scene.closed == [0]


def test_if_the_new_one_cannot_start_without_a_surge_it_is_tried_again() -> None:  # G8
    scene = Scene(size=2, recycle=Recycle(calls=1, surge=False))
    for call in [scene.submit() for _ in range(2)]:
        scene.answer(call)
    ended(scene, 0)
    scene.lose(2, "the constructor raised")
    scene.wait(0.1)
    assert (scene.started, scene.closed) == ([0, 1, 2, 3], [0]), "one after the other"
    scene.ready(3)
    assert scene.closed == [0, 1]


def test_whoever_takes_the_room_of_one_that_left_first_lets_the_next_one_leave() -> None:
    scene = Scene(size=3, ready=2, recycle=Recycle(calls=1))
    for call in [scene.submit() for _ in range(2)]:
        scene.answer(call)
    no_room(scene, 3)
    assert scene.replacing == [(0, 3)]
    scene.ready(2)
    assert scene.replacing == [(0, 3), (1, 4)]


def test_a_worker_that_is_not_wanted_any_more_needs_no_replacement() -> None:
    scene = Scene(size=2, recycle=Recycle(calls=1))
    busy = scene.submit()
    renewal = replace(scene, 1)
    scene.resize(1)
    assert sorted(scene.killed) == [1, 2]
    assert is_over(renewal)
    scene.answer(busy)
    assert [worker.id for worker in scene.pool.members()] == [0]


def test_nor_does_one_that_waits_for_the_end_of_another() -> None:
    scene = Scene(size=1, slots=2, recycle=Recycle(calls=1, surge=False))
    first, second = scene.submit(), scene.submit()
    scene.answer(first)
    scene.resize(2)
    scene.resize(1)
    scene.answer(second)
    ended(scene, 0)
    assert len(scene.pool.members()) == 1


# ---------------------------------------------------------------------------------------------------------------------
# On request


def test_a_worker_that_is_replaced_on_request_works_until_the_new_one_is_ready() -> None:
    scene = Scene(size=2)
    renewal = replace(scene, 1)
    assert replace(scene, 1) is renewal
    assert not is_over(renewal)
    scene.ready(2)
    assert is_over(renewal)
    assert (renewal.failure, renewal.heir.id, scene.closed) == (None, 2, [1])
    assert scene.pool.counters.recycled == 0


@pytest.mark.parametrize("worker_id", [0, 1, 7])
def test_only_one_that_works_can_be_replaced(worker_id: int) -> None:
    scene = Scene(size=2, ready=1, kill_after=0.0)
    call = scene.submit(timeout=1.0)
    scene.wait(1.0)
    assert scene.killed == [0]
    assert scene.pool.renewals.replace(worker_id, scene.now) == (None, [])
    assert scene.pool.renewals.retire(worker_id, "why", scene.now) == []
    assert call in scene.errors


def test_on_request_the_old_one_stays_if_the_new_one_cannot_start() -> None:
    scene = Scene(size=1)
    renewal = replace(scene, 0)
    cause = LookupError("no such model")
    scene.lose(1, "the constructor raised", cause)
    assert (renewal.failure, renewal.cause, renewal.is_over) == ("the constructor raised", cause, True)
    scene.wait(60.0)
    assert scene.started == [0, 1]
    answer(scene, 1)


def test_on_request_it_is_tried_again_if_the_old_one_has_left_first() -> None:
    scene = Scene(size=1)
    renewal = replace(scene, 0)
    no_room(scene, 1)
    scene.lose(1, "it was not ready in time")
    scene.wait(1.0)
    assert not is_over(renewal)
    scene.ready(2)
    assert is_over(renewal)
    assert renewal.heir.id == 2


def test_one_that_asks_to_be_replaced_is_given_nothing_more_though_another_is_not_ready() -> None:
    scene = Scene(size=1)
    running = scene.submit()
    bound = scene.submit(member=scene.worker(0))
    retire(scene, 0)
    retire(scene, 0)
    waiting = scene.submit()
    scene.answer(running)
    assert (scene.closed, scene.started) == ([0], [0, 1])
    scene.ready(1)
    assert scene.sent[1] == [bound]
    scene.answer(bound)
    assert scene.sent[1] == [bound, waiting]


def test_one_that_asks_while_its_replacement_starts_leaves_at_once() -> None:
    scene = Scene(size=1)
    renewal = replace(scene, 0)
    retire(scene, 0)
    assert scene.closed == [0]
    assert len(scene.pool.members()) == 1
    scene.ready(1)
    assert is_over(renewal)


def test_a_pool_that_does_not_heal_replaces_nobody() -> None:
    scene = Scene(size=1, heals=False)
    retire(scene, 0)
    assert (scene.closed, scene.started) == ([0], [0])


def test_a_pool_that_stops_gives_up_who_is_on_the_way() -> None:
    scene = Scene(size=2)
    renewal = replace(scene, 0)
    scene.stop()
    assert is_over(renewal)
    assert sorted(scene.killed) == [0, 1, 2]


def test_a_closed_pool_still_replaces_a_worker_while_another_may_give_a_call_back() -> None:
    scene = Scene(size=2, sends_ahead=True, recycle=Recycle(calls=3, jitter=0, exact=True))
    scene.learn_pace()
    calls = [scene.submit(SHORT) for _ in range(2)]
    ahead = scene.submit(SHORT)
    assert ahead.worker is not None
    holder = ahead.worker.id
    (own,) = scene.worker(holder).running.values()
    (others,) = (call for call in calls if call is not own)
    scene.answer(others, service_time=0.00001)  # one worker idles, and this call is asked back for it
    assert scene.recalls == [(holder, [ahead.id])]
    last = scene.submit(SHORT)
    assert last.worker is not None
    old = last.worker.id
    assert scene.worker(old).finished == 2
    scene.close(reject_waiting=False)
    scene.answer(own, service_time=0.00001)
    assert ahead.state is CallState.RUNNING
    scene.answer(last, service_time=0.00001)
    scene.give_back(holder, ahead)
    assert scene.killed == [old], "it has answered three"
    assert ahead.worker is scene.worker(holder)
