"""When and where a call that has failed is tried again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from poise._answers import RAISED, RETRYABLE
from poise._core.alarms import WARY_SECONDS
from poise._core.retry import Retry
from poise._core.states import CallState
from poise.errors import DeadlineExceeded, LeaseExpired, Overloaded, PoolBroken, PoolClosed
from tests.core.scene import SHORT, Scene, state

if TYPE_CHECKING:
    from collections.abc import Callable

    from poise._core.calls import CallRecord


def fail(scene: Scene, *calls: CallRecord) -> None:
    """The worker of each of these calls answers with an exception after which it may be tried again."""
    for call in calls:
        scene.answer(call, ending=RETRYABLE, service_time=0.00001, outcome="an exception")


def place(call: CallRecord) -> int | None:
    return None if call.worker is None else call.worker.id


# ---------------------------------------------------------------------------------------------------------------------
# The pause


@pytest.mark.parametrize(("chance", "pauses"), [(1.0, [0.5, 1.0, 2.0, 4.0]), (0.5, [0.25, 0.5, 1.0, 2.0])])
def test_a_pause_is_a_random_part_of_a_doubling_time(chance: float, pauses: list[float]) -> None:
    retry = Retry(9, 0.5)
    assert [retry.pause(lambda: chance) for _ in pauses] == pauses
    assert retry.left == 5


@pytest.mark.parametrize("delay", [1e-9, 29.0, 1e9, math.inf])
def test_a_pause_has_a_bound(delay: float) -> None:
    retry = Retry(3000, delay)
    assert max(retry.pause(lambda: 1.0) for _ in range(3000)) == 30.0


def test_a_failed_call_waits_for_the_time_of_its_next_attempt() -> None:
    scene = Scene(size=1)
    call = scene.submit(retries=2, retry_delay=1.0)
    fail(scene, call)
    assert (call.state, call.worker, scene.counts) == (CallState.PAUSED, None, {"waiting": 1, "free_slots": 1})
    other = scene.submit()
    assert other.state is CallState.RUNNING, "a call that is paused holds up nobody"
    scene.answer(other)
    scene.wait(0.9)
    assert state(call) is CallState.PAUSED
    scene.wait(0.1)
    assert state(call) is CallState.RUNNING
    fail(scene, call)
    scene.wait(1.9)
    assert state(call) is CallState.PAUSED
    scene.wait(0.1)
    scene.answer(call)
    assert scene.results[call] == "result"
    assert scene.pool.next_tick() == math.inf


def test_a_pause_is_spread_by_chance() -> None:
    scene = Scene(size=1, chance=lambda: 0.25)
    call = scene.submit(retries=1, retry_delay=1.0)
    fail(scene, call)
    assert scene.pool.next_tick() == 0.25


def test_a_call_keeps_its_place_in_the_order_over_its_pause() -> None:  # G5
    scene = Scene(size=1)
    first = scene.submit("first", retries=1, retry_delay=1.0)
    second = scene.submit("second")
    scene.submit("third")
    fail(scene, first)
    scene.wait(1.0)
    scene.answer(second)
    assert scene.functions(0) == ["first", "second", "first"]


def test_a_call_pauses_after_the_death_of_its_worker_too() -> None:
    scene = Scene(size=2)
    call = scene.submit(retries=1, retry_delay=0.05)
    scene.lose(0)
    assert state(call) is CallState.PAUSED
    scene.wait(0.05)
    assert (state(call), place(call)) == (CallState.RUNNING, 1)
    assert call.worker is not None
    assert call.worker.lease is call, "a suspect runs alone"  # G9


def test_a_call_that_began_and_ended_between_two_answers_pauses_too() -> None:
    scene = Scene(size=1, sends_ahead=True)
    scene.learn_pace()
    first, second = scene.submit(), scene.submit(SHORT, retries=1, retry_delay=1.0)
    assert second.state is CallState.AHEAD
    fail(scene, second)
    assert state(second) is CallState.PAUSED
    scene.answer(first)
    scene.wait(1.0)
    assert state(second) is CallState.RUNNING


def test_a_deadline_passes_during_the_pause() -> None:  # G6
    scene = Scene(size=1)
    call = scene.submit(retries=1, retry_delay=5.0, timeout=2.0)
    fail(scene, call)
    scene.wait(2.0)
    error = scene.errors[call]
    assert isinstance(error, DeadlineExceeded)
    assert error.started
    assert scene.pool.next_tick() == math.inf
    scene.wait(5.0)
    assert len(scene.sent[0]) == 1


def test_a_caller_leaves_during_the_pause() -> None:
    scene = Scene(size=1)
    call = scene.submit(retries=1, retry_delay=5.0)
    fail(scene, call)
    scene.cancel(call)
    assert (state(call), scene.pool.is_idle, scene.counts) == (CallState.DONE, True, {"free_slots": 1})


def test_draining_waits_for_a_call_that_is_paused() -> None:
    scene = Scene(size=1)
    call = scene.submit(retries=1, retry_delay=5.0)
    fail(scene, call)
    scene.close(reject_waiting=False)
    assert not scene.pool.is_idle
    scene.wait(5.0)
    scene.answer(call)
    assert scene.pool.is_idle


@pytest.mark.parametrize("close", [lambda scene: scene.close(reject_waiting=True), Scene.stop])
def test_closing_refuses_a_call_that_is_paused(close: Callable[[Scene], None]) -> None:  # G1
    scene = Scene(size=1)
    call = scene.submit(retries=1, retry_delay=5.0)
    fail(scene, call)
    close(scene)
    assert isinstance(scene.errors[call], PoolClosed)
    assert str(scene.errors[call]).endswith("it has run 1 time")


def test_a_pool_that_breaks_fails_a_call_that_is_paused() -> None:  # G8
    scene = Scene(size=1, heals=False)
    call = scene.submit(retries=1, retry_delay=5.0)
    fail(scene, call)
    scene.lose(0)
    assert isinstance(scene.errors[call], PoolBroken)


def test_calls_that_are_paused_count_against_the_backlog() -> None:  # G7
    scene = Scene(size=1, backlog=1)
    call = scene.submit(retries=1, retry_delay=5.0)
    fail(scene, call)
    running = scene.submit()
    with pytest.raises(Overloaded, match="1 calls wait"):
        scene.submit()
    parked = scene.submit(may_park=True)
    assert state(parked) is CallState.PARKED
    scene.cancel(call)
    assert state(parked) is CallState.WAITING, "there is room now"
    scene.answer(running)
    assert state(parked) is CallState.RUNNING


# ---------------------------------------------------------------------------------------------------------------------
# Leases and broadcasts


def leased(scene: Scene, **fields: Any) -> tuple[CallRecord, CallRecord]:
    lease = scene.lease()
    return lease, scene.submit(lease=lease, retries=1, **fields)


def test_a_call_of_a_lease_pauses_and_goes_back_to_the_leased_worker() -> None:
    scene = Scene(size=2)
    lease, call = leased(scene, retry_delay=1.0)
    fail(scene, call)
    other = scene.submit(lease=lease)
    scene.wait(1.0)
    assert (state(call), state(other)) == (CallState.WAITING, CallState.RUNNING)
    scene.answer(other)
    assert place(call) == scene.leases[lease]


@pytest.mark.parametrize("how", ["released", "lost"])
def test_a_call_that_is_paused_ends_with_its_lease(how: str) -> None:  # G1
    scene = Scene(size=1)
    lease, call = leased(scene, retry_delay=1.0)
    bystander = scene.submit(retries=1)
    fail(scene, call)
    scene.release(lease) if how == "released" else scene.lose(0)
    error = scene.errors[call]
    assert isinstance(error, LeaseExpired)
    assert error.cause == how
    assert bystander not in scene.errors


def test_a_call_of_a_broadcast_does_not_pause() -> None:
    scene = Scene(size=1)
    call = scene.submit(member=scene.worker(0), retries=1, retry_delay=9.0)
    fail(scene, call)
    assert (state(call), place(call)) == (CallState.RUNNING, 0)


# ---------------------------------------------------------------------------------------------------------------------
# Where


def test_a_worker_that_has_failed_comes_last_among_equals() -> None:
    scene = Scene(size=3)
    scene.answer(scene.submit(), ending=RAISED)
    calls = [scene.submit() for _ in range(3)]
    assert [place(call) for call in calls] == [1, 2, 0], "the others first, but it is not left idle"  # G4


def test_a_worker_that_answers_again_is_as_good_as_the_others() -> None:
    scene = Scene(size=2)
    scene.answer(scene.submit(), ending=RAISED)
    busy, cured = scene.submit(), scene.submit()
    scene.answer(busy)
    scene.answer(cured)
    assert [place(scene.submit()), place(scene.submit())] == [1, 0]


def test_a_worker_is_not_blamed_for_a_call_that_was_given_up() -> None:
    scene = Scene(size=2)
    call = scene.submit()
    scene.cancel(call)
    scene.answer(call, ending=RAISED)
    assert [place(scene.submit()), place(scene.submit())] == [1, 0]


def test_the_least_loaded_worker_is_taken_though_it_has_failed() -> None:
    scene = Scene(size=2, slots=2)
    scene.answer(scene.submit(), ending=RAISED)
    assert [place(scene.submit()) for _ in range(3)] == [1, 0, 1]


def test_a_failed_call_goes_to_another_worker() -> None:
    scene = Scene(size=2)
    call = scene.submit(retries=1)
    fail(scene, call)
    assert (state(call), place(call)) == (CallState.RUNNING, 1)


def test_a_failed_call_waits_for_another_worker_rather_than_go_back() -> None:
    scene = Scene(size=2)
    sick, busy = scene.submit(retries=1), scene.submit()
    fail(scene, sick)
    assert (state(sick), scene.counts) == (CallState.WAITING, {"waiting": 1, "running": 1, "free_slots": 1})
    later = scene.submit()
    assert place(later) == 0, "nobody else waits for it"  # G4
    fail(scene, later)
    scene.answer(busy)
    assert place(sick) == 1


def test_a_failed_call_goes_back_where_there_is_no_other_worker() -> None:
    scene = Scene(size=2)
    lease = scene.lease()
    call = scene.submit(retries=2)
    fail(scene, call)
    assert (state(call), place(call)) == (CallState.RUNNING, 1), "the other one is leased"
    scene.release(lease)
    fail(scene, call)
    assert place(call) == 0


def test_a_failed_call_goes_back_when_the_other_worker_dies() -> None:
    scene = Scene(size=2)
    call = scene.submit(retries=1)
    scene.submit()
    fail(scene, call)
    assert state(call) is CallState.WAITING
    scene.lose(1)
    assert (state(call), place(call)) == (CallState.RUNNING, 0)


def test_a_failed_call_that_failed_everywhere_goes_anywhere() -> None:
    scene = Scene(size=2)
    call = scene.submit(retries=5)
    for _ in range(6):
        assert state(call) is CallState.RUNNING
        fail(scene, call)
    assert scene.results == {call: "an exception"}
    assert (len(scene.sent[0]), len(scene.sent[1])) == (3, 3)


def test_no_call_avoids_a_free_worker_for_ever() -> None:
    scene = Scene(size=2)
    call, endless = scene.submit(retries=1), scene.submit()
    fail(scene, call)
    scene.wait(WARY_SECONDS - 0.1)
    assert state(call) is CallState.WAITING
    scene.wait(0.1)
    assert (state(call), place(call)) == (CallState.RUNNING, 0)
    assert state(endless) is CallState.RUNNING


def test_with_one_sick_worker_of_three_every_call_succeeds() -> None:
    scene = Scene(size=3)
    calls = [scene.submit(retries=3) for _ in range(120)]
    for _ in range(1000):  # the sick one answers at once, and so is always the first to be free
        while scene.worker(0).running:
            fail(scene, *scene.worker(0).running.values())
        for worker_id in (1, 2):
            if running := list(scene.worker(worker_id).running.values()):
                scene.answer(*running)
    assert scene.results == dict.fromkeys(calls, "result")
    assert max(call.attempts for call in calls) == 2, "none was sent to the sick worker twice"


def test_a_wary_call_is_not_starved_by_what_is_sent_ahead() -> None:
    scene = Scene(size=2, sends_ahead=True)
    scene.learn_pace()
    sick, busy = scene.submit(SHORT, retries=1), scene.submit(SHORT)
    assert (place(sick), place(busy)) == (1, 0)
    fail(scene, sick)
    later = [scene.submit(SHORT) for _ in range(9)]
    assert [place(call) for call in later] == [1] + [None] * 8, "the worker that it waits for would never be free"
    scene.answer(busy, service_time=0.00001)
    assert place(sick) == 0
    assert {state(call) for call in later[1:]} == {CallState.AHEAD}, "they need hold back no more"


def test_wary_calls_and_others_keep_one_order() -> None:  # G5
    scene = Scene(size=2)
    first, second = scene.submit("first", retries=1), scene.submit("second")
    fail(scene, first)
    hold = scene.submit("hold")
    scene.submit("urgent", priority=1)
    scene.answer(second)
    assert scene.functions(1)[-1] == "urgent"
    scene.answer(scene.sent[1][-1])
    assert scene.functions(1)[-1] == "first"
    assert place(hold) == 0


def test_calls_that_avoid_different_workers_keep_one_order() -> None:  # G5
    scene = Scene(size=3)
    calls = [scene.submit(name, retries=2) for name in ("a", "b", "c")]
    holds = [scene.submit(f"hold {n}", priority=1) for n in range(3)]
    fail(scene, *calls)
    assert [place(hold) for hold in holds] == [0, 1, 2]
    scene.answer(holds[1])
    assert (place(calls[0]), place(calls[1]), place(calls[2])) == (1, None, None)
    scene.answer(holds[0])
    assert (place(calls[1]), place(calls[2])) == (0, None)


def test_a_suspect_avoids_workers_where_it_failed() -> None:  # G9
    scene = Scene(size=3, slots=2)
    call = scene.submit(retries=5)
    scene.lose(0)
    assert place(call) == 1
    beside = [scene.submit(), scene.submit()]
    assert [place(other) for other in beside] == [2, 2]
    fail(scene, call)
    assert (state(call), scene.counts["free_slots"]) == (CallState.WAITING, 2), "it runs alone, and elsewhere"
    scene.answer(*beside)
    assert place(call) == 2


def test_a_wary_call_may_expire_and_be_cancelled() -> None:  # G6
    scene = Scene(size=2)
    expires, busy = scene.submit(retries=1, timeout=1.0), scene.submit()
    fail(scene, expires)
    scene.wait(1.0)
    assert isinstance(scene.errors[expires], DeadlineExceeded)
    leaves = scene.submit(retries=1)
    fail(scene, leaves)
    scene.cancel(leaves)
    assert scene.counts == {"running": 1, "free_slots": 1}
    scene.answer(busy)


def test_a_wary_call_whose_time_is_up_is_not_sent() -> None:  # G6
    scene = Scene(size=2)
    call, busy = scene.submit(retries=1, timeout=1.0), scene.submit()
    fail(scene, call)
    scene.now = 2.0  # the timer is late
    scene.answer(busy)
    assert isinstance(scene.errors[call], DeadlineExceeded)
    assert len(scene.sent[1]) == 1


def test_a_leased_call_whose_pause_is_over_leaves_its_room_to_one_that_is_parked() -> None:  # G7
    scene = Scene(size=2, backlog=1)
    lease = scene.lease()
    scene.submit()
    paused = scene.submit(lease=lease, retries=1, retry_delay=1.0)
    scene.answer(paused, ending=RETRYABLE)
    held = scene.submit(lease=lease)
    parked = scene.submit(may_park=True)
    assert state(parked) is CallState.PARKED
    scene.wait(1.0)
    assert state(parked) is CallState.WAITING
    assert paused.worker is None
    scene.answer(held)
    assert paused.worker is not None
