"""Calls sent ahead of their slot, and taken back when another worker could do them."""

import math

import pytest

from poise._core.alarms import OVERDUE_SECONDS, PATIENT_SECONDS
from poise._core.pace import AHEAD_CALLS, Pace
from poise._core.recalls import LATE_SECONDS
from poise._core.states import CallState
from tests.core.scene import SHORT, Scene, state


@pytest.mark.parametrize(
    ("service_time", "limit"),
    [(None, 0), (0.06, 0), (0.05, 1), (0.0021, 1), (0.002, 1), (0.0005, 4), (0.00001, 200), (0.0, 256)],
)
def test_as_much_is_sent_ahead_as_fits_two_milliseconds_or_one_call(service_time: float | None, limit: int) -> None:
    pace = Pace()
    if service_time is not None:
        pace.record("f", service_time)
    assert pace.ahead_limit("f") == limit <= AHEAD_CALLS


def test_the_pace_is_a_moving_average_for_each_function_and_for_all() -> None:
    pace = Pace()
    assert (pace.of("f"), pace.overall) == (None, None)
    pace.record("f", 1.0)
    pace.record("f", 2.0)
    pace.record("g", 5.0)
    assert pace.of("f") == pytest.approx(1.1)
    assert pace.of("g") == 5.0
    assert pace.overall == pytest.approx(1.1 + 0.1 * 3.9)


def test_the_pace_of_a_bounded_number_of_functions_is_remembered() -> None:  # G7
    pace = Pace()
    for function in range(5000):
        pace.record(function, 1.0)
    assert pace.of(4999) == 1.0
    assert pace.of(0) is None


def test_nothing_is_sent_ahead_of_a_function_not_yet_measured_or_known_as_long() -> None:
    scene = Scene(size=1, sends_ahead=True)
    for _ in range(3):
        scene.submit()
    assert scene.counts == {"waiting": 2, "running": 1}
    scene.answer(scene.sent[0][0], service_time=0.5)
    assert scene.counts == {"waiting": 1, "running": 1}


def test_nothing_is_sent_ahead_to_a_worker_that_keeps_no_inbox() -> None:
    scene = Scene(size=1, sends_ahead=False)
    scene.learn_pace()
    for _ in range(3):
        scene.submit(SHORT)
    assert scene.counts == {"waiting": 2, "running": 1}


def test_short_calls_are_sent_ahead_up_to_the_limit_and_spread() -> None:
    scene = Scene(size=2, sends_ahead=True)
    scene.learn_pace(0.0005)
    for _ in range(20):
        scene.submit(SHORT)
    assert scene.counts == {"waiting": 10, "running": 2, "ahead": 8}
    assert [len(worker.ahead) for worker in scene.pool.members()] == [4, 4]


def test_a_worker_that_answers_gets_as_many_as_it_has_done() -> None:
    scene = Scene(size=1, sends_ahead=True)
    scene.learn_pace(0.0005)
    calls = [scene.submit(SHORT) for _ in range(10)]
    assert scene.sent[0][1:] == calls[:5]
    scene.answer(*calls[:3], service_time=0.0005)
    assert scene.sent[0][1:] == calls[:8]
    assert [call.state for call in calls[3:8]] == [CallState.RUNNING, *[CallState.AHEAD] * 4]


def test_a_worker_that_falls_idle_takes_the_older_half_of_what_another_holds() -> None:  # G4
    scene = Scene(size=2, sends_ahead=True)
    scene.learn_pace(0.0005)
    slow, quick = scene.submit(), scene.submit()
    ahead = [scene.submit(SHORT) for _ in range(8)]
    mine = list(scene.worker(1).ahead.values())
    assert slow.worker is scene.worker(1)
    scene.answer(quick)
    for call in [call for call in ahead if call not in mine]:
        scene.answer(call, service_time=0.0005)
    assert scene.recalls == [(1, [call.id for call in mine[:2]])]
    scene.give_back(1, *mine[:2])
    assert [call.worker for call in mine] == [scene.worker(0)] * 2 + [scene.worker(1)] * 2
    assert [call.state for call in mine[:2]] == [CallState.RUNNING, CallState.AHEAD]


def test_recalls_go_on_until_nobody_waits_beside_an_idle_worker() -> None:  # G4
    scene = Scene(size=2, sends_ahead=True)
    scene.learn_pace()
    stuck, quick = scene.submit(), scene.submit()
    ahead = [scene.submit(SHORT) for _ in range(40)]
    scene.answer(quick)
    rounds = 0
    while any(state(call) is not CallState.DONE for call in ahead):
        for call in list(scene.worker(0).running.values()):
            scene.answer(call, service_time=0.00001)
        if scene.worker(1).recalled:
            rounds += 1
            wanted = scene.recalls[-1][1]
            scene.give_back(1, *[call for call in ahead if call.id in wanted and state(call) is CallState.AHEAD])
    assert state(stuck) is CallState.RUNNING
    assert rounds < 10


def test_one_idle_worker_asks_one_other_at_a_time() -> None:  # G4
    scene = Scene(size=3, sends_ahead=True)
    scene.learn_pace()
    first = scene.submit()
    scene.submit()
    scene.submit()
    for _ in range(9):
        scene.submit(SHORT)
    assert first.worker is not None
    scene.answer(first, *first.worker.ahead.values(), service_time=0.00001)
    assert len(scene.recalls) == 1
    scene.wait(0.001)
    assert len(scene.recalls) == 1


def test_calls_that_were_kept_once_or_abandoned_are_not_asked_back() -> None:  # G2
    scene = Scene(size=2, ready=1, sends_ahead=True)
    scene.learn_pace()
    scene.submit()
    kept, gone = scene.submit(SHORT), scene.submit(SHORT)
    scene.cancel(gone)
    scene.ready(1)
    assert scene.recalls == [(0, [kept.id])]
    scene.give_back(0)
    assert len(scene.recalls) == 1
    assert scene.pool.next_tick() == math.inf


def test_calls_that_may_have_begun_are_asked_back() -> None:  # G4: they were announced together with one that has
    scene = Scene(size=2, ready=1, sends_ahead=True)
    scene.learn_pace()
    scene.submit()
    announced = scene.submit(SHORT)
    scene.begun(announced)
    scene.ready(1)
    assert scene.recalls == [(0, [announced.id])]
    scene.give_back(0, announced)
    assert (announced.state, announced.worker) == (CallState.RUNNING, scene.worker(1))


def test_a_worker_that_does_not_get_on_gives_back_what_it_was_sent_ahead() -> None:  # G4
    scene = Scene(size=2, sends_ahead=True)
    scene.learn_pace()
    scene.submit("long")
    scene.submit("long")
    ahead = [scene.submit(SHORT) for _ in range(4)]
    assert scene.pool.next_tick() == pytest.approx(OVERDUE_SECONDS)
    scene.wait(OVERDUE_SECONDS)
    assert sorted(scene.recalls) == [(0, [ahead[1].id, ahead[3].id]), (1, [ahead[0].id, ahead[2].id])]
    scene.give_back(0, ahead[1], ahead[3])
    scene.give_back(1, ahead[0], ahead[2])
    assert scene.counts == {"waiting": 4, "running": 2}
    assert scene.pool.next_tick() == math.inf


def test_a_worker_is_not_asked_at_once_if_the_pool_itself_comes_late() -> None:  # its answers may be there unread
    scene = Scene(size=2, sends_ahead=True)
    scene.learn_pace()
    scene.submit("long")
    scene.submit("long")
    scene.submit(SHORT)
    for recalls in (0, 1):  # it may be late always, and still nobody waits for ever (G4)
        scene.now += OVERDUE_SECONDS + 2 * LATE_SECONDS
        scene.act(scene.pool.tick(scene.now))
        assert len(scene.recalls) == recalls


def test_a_worker_that_has_been_silent_is_sent_nothing_ahead_until_it_answers() -> None:  # G4
    scene = Scene(size=1, sends_ahead=True)
    scene.learn_pace()
    running = scene.submit("long")
    scene.wait(OVERDUE_SECONDS)
    first, second, third = scene.submit(SHORT), scene.submit(SHORT), scene.submit(SHORT)
    assert scene.counts == {"waiting": 3, "running": 1}
    scene.answer(running)
    assert [first.state, second.state, third.state] == [CallState.RUNNING, CallState.AHEAD, CallState.AHEAD]


def test_a_lone_worker_keeps_what_it_was_sent_ahead() -> None:
    scene = Scene(size=1, sends_ahead=True)
    scene.learn_pace()
    scene.submit("long")
    scene.submit(SHORT)
    assert scene.pool.next_tick() == math.inf
    scene.wait(1.0)
    scene.act(scene.pool.tick(scene.now))
    assert scene.recalls == []


def test_a_silent_worker_with_nothing_to_give_back_is_left_alone() -> None:  # G4
    scene = Scene(size=2, sends_ahead=True)
    scene.learn_pace()
    scene.submit("long")
    scene.submit("long")
    scene.submit(SHORT)
    scene.wait(OVERDUE_SECONDS)
    assert len(scene.recalls) == 1
    scene.give_back(1)
    scene.pool.tick(scene.now)  # it looks once more, and then no more
    assert len(scene.recalls) == 1
    assert scene.pool.next_tick() == math.inf


def test_a_worker_that_is_asked_back_is_sent_nothing_meanwhile() -> None:
    scene = Scene(size=2, sends_ahead=True)
    scene.learn_pace()
    scene.submit("long")
    scene.submit("long")
    ahead = [scene.submit(SHORT), scene.submit(SHORT)]
    scene.wait(OVERDUE_SECONDS)
    assert len(scene.recalls) == 2
    more = scene.submit(SHORT)
    assert state(more) is CallState.WAITING
    scene.give_back(0, ahead[1])
    scene.give_back(1)
    assert (ahead[1].state, more.state) == (CallState.WAITING, CallState.WAITING)


def test_what_a_recall_does_not_bring_back_has_begun() -> None:  # G2
    scene = Scene(size=2, ready=1, sends_ahead=True)
    scene.learn_pace()
    running, ahead = scene.submit(), scene.submit(SHORT)
    scene.ready(1)
    assert scene.recalls == [(0, [ahead.id])]
    scene.give_back(0)
    assert (ahead.state, ahead.attempts) == (CallState.AHEAD, 1)
    assert len(scene.recalls) == 1
    scene.lose(0)
    assert set(scene.errors) == {running, ahead}


def test_a_short_call_is_not_sent_ahead_past_one_that_waits() -> None:  # G5
    scene = Scene(size=1, sends_ahead=True)
    scene.learn_pace()
    running, waiting, short = scene.submit("long"), scene.submit("long"), scene.submit(SHORT)
    assert scene.counts == {"waiting": 2, "running": 1}
    scene.answer(running)
    assert [state(waiting), state(short)] == [CallState.RUNNING, CallState.AHEAD]


def test_a_recall_goes_out_after_what_the_same_step_sends() -> None:
    scene = Scene(size=1, slots=2, sends_ahead=True)
    scene.learn_pace()
    first = scene.submit("long")
    scene.submit("long")
    bound = scene.submit(member=scene.worker(0))  # while it waits nothing is sent ahead
    ahead = scene.submit(SHORT)
    scene.lease()
    effects = scene.pool.finished(0, [], scene.now)
    assert effects == []
    scene.answer(first)
    assert state(bound) is CallState.RUNNING
    assert scene.functions(0)[-1] == SHORT
    assert scene.recalls == [(0, [ahead.id])]


def test_a_call_keeps_its_slot_when_a_later_one_is_answered_first() -> None:  # G3
    scene = Scene(size=1, slots=2, sends_ahead=True)
    scene.learn_pace()
    first, second, third = scene.submit(), scene.submit(), scene.submit(SHORT)
    scene.answer(second)
    assert [call.state for call in (first, third)] == [CallState.RUNNING, CallState.RUNNING]
    scene.answer(third)
    assert scene.counts == {"running": 1, "free_slots": 1}


def test_an_expired_call_that_begins_after_all_and_is_stuck_has_its_worker_killed() -> None:  # G6
    scene = Scene(size=1, sends_ahead=True, kill_after=0.5)
    scene.learn_pace()
    running = scene.submit(SHORT)
    expired = scene.submit(SHORT, timeout=0.001)
    scene.wait(2.0)  # the cancellation is under way, and the time to kill for it has passed
    assert (expired.state, scene.killed) == (CallState.ABANDONED, [])
    scene.answer(running)
    scene.wait(0.4)
    assert scene.killed == []
    scene.wait(0.2)
    assert scene.killed == [0]


# ---------------------------------------------------------------- one long call


def medium(scene: Scene, service_time: float = 0.01) -> None:
    """Have a function measured that is neither short nor too long to be sent ahead."""
    scene.answer(scene.submit("medium"), service_time=service_time)


def test_each_worker_has_one_long_call_in_hand() -> None:
    scene = Scene(size=2, sends_ahead=True)
    medium(scene)
    calls = [scene.submit("medium") for _ in range(6)]
    assert scene.counts == {"waiting": 2, "running": 2, "ahead": 2}
    scene.answer(calls[0], service_time=0.01)
    assert scene.counts == {"waiting": 1, "running": 2, "ahead": 2}


def test_the_long_call_in_hand_is_asked_back_when_another_worker_is_idle() -> None:  # G4
    scene = Scene(size=2, sends_ahead=True)
    medium(scene)
    calls = [scene.submit("medium") for _ in range(4)]
    holder = calls[0].worker
    assert holder is not None
    (ahead,) = holder.ahead.values()
    while mine := [call for call in calls if state(call) is CallState.RUNNING and call.worker is not holder]:
        scene.answer(*mine, service_time=0.01)
    assert scene.recalls == [(holder.id, [ahead.id])]
    scene.give_back(holder.id, ahead)
    assert state(ahead) is CallState.RUNNING
    assert ahead.worker is not holder


def test_a_worker_with_a_long_call_in_hand_is_given_more_time_and_no_short_call() -> None:  # G4
    scene = Scene(size=2, sends_ahead=True)
    medium(scene)
    scene.learn_pace()
    for _ in range(4):
        scene.submit("medium")
    scene.submit(SHORT, priority=1)
    assert scene.counts == {"waiting": 1, "running": 2, "ahead": 2}
    assert scene.pool.next_tick() == pytest.approx(PATIENT_SECONDS)
    scene.wait(PATIENT_SECONDS)
    assert sorted(worker_id for worker_id, _ in scene.recalls) == [0, 1]


def test_where_tenants_share_no_long_call_is_sent_ahead() -> None:  # a single call waits for one of another's at most
    scene = Scene(size=1, sends_ahead=True)
    medium(scene)
    scene.submit("medium", tenant="a")
    for _ in range(3):
        scene.submit("medium", tenant="b")
    assert scene.counts == {"waiting": 3, "running": 1}
