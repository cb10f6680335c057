"""Calls with a key go where that was served last, if they need not wait for it longer than they have patience."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from poise._answers import NOT_BEGUN, RETRYABLE
from poise._core import affinity
from poise._core.affinity import KeyedCallRecord
from poise._core.batches import Batching
from poise._core.calls import CallRecord
from poise._core.scheduler import Scheduler
from poise._core.states import CallState
from poise.errors import DeadlineExceeded, Overloaded, PoolClosed
from tests.core.scene import SHORT, Scene, state
from tests.core.test_cost import count_calls

if TYPE_CHECKING:
    from collections.abc import Hashable


def where(call: CallRecord) -> int:
    """The number of the worker that holds the call."""
    assert call.worker is not None, call
    return call.worker.id


def serve(scene: Scene, key: Any, function: Hashable = "f") -> int:
    """Let one call with this key be made and answered, and tell who served it."""
    call = scene.submit(function, key=key)
    worker_id = where(call)
    scene.answer(call, service_time=0.00001 if function == SHORT else 0.1)
    return worker_id


def occupy(scene: Scene, worker_id: int) -> list[CallRecord]:
    """Have every slot of this worker taken by calls that anybody could serve."""
    member = scene.worker(worker_id)
    return [scene.submit(member=member) for _ in range(member.free_slots)]


def settled(scene: Scene, key: Any) -> tuple[int, list[CallRecord]]:
    """A key and its home, whose slots are all taken while others are free."""
    home = serve(scene, key)
    return home, occupy(scene, home)


# ---------------------------------------------------------------------------------------------------------------------
# Who serves a key


def test_a_key_goes_back_to_the_worker_that_served_it_last() -> None:
    scene = Scene(size=5)
    for key in ("a", 7, b"c"):
        home = serve(scene, key)
        assert [serve(scene, key) for _ in range(10)] == [home] * 10
    assert (scene.pool.counters.at_home, scene.pool.counters.away) == (30, 0)


def test_text_a_number_and_bytes_are_different_keys() -> None:
    scene = Scene(size=50)
    calls = [scene.submit(key=key) for key in ("1", 1, b"1", "i1", b"i1", -1)]
    homes = [where(call) for call in calls]
    scene.answer(*calls[:1])
    for call in calls[1:]:
        scene.answer(call)
    assert [serve(scene, key) for key in ("1", 1, b"1", "i1", b"i1", -1)] == homes


def test_keys_that_are_new_are_spread_over_the_workers() -> None:
    homes = Counter(serve(Scene(size=4), f"session-{number}") for number in range(400))
    assert min(homes.values()) > 70
    assert len(homes) == 4


def test_a_new_key_has_the_same_worker_in_every_pool_and_every_process() -> None:
    assert [serve(Scene(size=8), key) for key in ("a", "b", "\ud800", 3, -(10**5000), b"\0")] == [0, 2, 3, 4, 2, 2]


def test_a_worker_that_joins_takes_only_its_part_of_the_keys_that_have_no_home() -> None:
    before = [serve(Scene(size=4), key) for key in range(200)]
    after = [serve(Scene(size=5), key) for key in range(200)]
    assert all(new in (old, 4) for old, new in zip(before, after, strict=True))
    assert 20 < after.count(4) < 65


def test_a_key_whose_home_is_busy_goes_elsewhere_at_once_and_stays_there() -> None:  # G4
    scene = Scene(size=3)
    home, _ = settled(scene, "a")
    away = scene.submit(key="a")
    assert state(away) is CallState.RUNNING
    assert where(away) != home
    scene.answer(away)
    assert serve(scene, "a") == where_last(scene, away)
    assert (scene.pool.counters.at_home, scene.pool.counters.away) == (1, 1)


def where_last(scene: Scene, call: CallRecord) -> int:
    """The worker that this call was sent to."""
    return next(worker_id for worker_id, calls in scene.sent.items() if call in calls)


def test_a_key_that_has_no_home_avoids_workers_that_have_much_more_to_do() -> None:
    scene = Scene(size=2, slots=8)
    for _ in range(5):
        scene.submit(member=scene.worker(0))
    calls = [scene.submit(key=key) for key in range(3)]
    assert {where(call) for call in calls} == {1}
    assert {where(scene.submit(key=key)) for key in range(3, 8)} == {0, 1}


def test_a_key_that_has_no_home_is_not_given_to_one_that_has_failed_while_another_is_free() -> None:
    scene = Scene(size=2)
    sick = scene.submit(member=scene.worker(0))
    scene.answer(sick, ending=RETRYABLE)
    assert {serve(scene, key) for key in range(20)} == {1}


def test_only_the_keys_that_were_served_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity, "KEYS", 10)
    scene = Scene(size=2)
    homes = {key: serve(scene, key) for key in range(10)}
    serve(scene, 0)
    serve(scene, 10)
    known = scene.pool._affinity._homes  # noqa: SLF001
    assert list(known) == [*range(2, 10), 0, 10]
    assert serve(scene, 1) == homes[1], "by its hash"


@pytest.mark.parametrize("leaves", ["dies", "retires", "is killed", "is quarantined", "does not answer"])
def test_a_worker_that_leaves_is_nobodys_home(leaves: str) -> None:
    scene = Scene(size=2, sends_ahead=True, kill_after=1.0)
    scene.learn_pace()
    home = serve(scene, "a")
    match leaves:
        case "dies":
            scene.lose(home)
        case "retires":
            scene.resize(1)
            home = next(worker_id for worker_id in (0, 1) if scene.pool.worker(worker_id) is None)
        case "is killed":
            scene.kill(scene.submit(member=scene.worker(home)))
        case "is quarantined":
            scene.worker(home).is_quarantined = True
            scene.pool._placement.update(scene.worker(home))  # noqa: SLF001
        case _:
            scene.submit(key="a")
            (other,) = occupy(scene, 1 - home)
            ahead = scene.submit(SHORT, key="a")
            assert (state(ahead), where(ahead)) == (CallState.AHEAD, home)
            scene.answer(other)
            scene.wait(0.2)
            assert scene.worker(home).is_silent
    call = scene.submit(key="a", patience=10.0)
    assert where(call) != home


def test_a_worker_that_takes_the_place_of_another_is_not_its_heir() -> None:
    scene = Scene(size=2)
    home = serve(scene, "a")
    scene.lose(home)
    scene.wait(1.0)
    scene.ready(scene.started[-1])
    served = serve(scene, "a")
    assert [serve(scene, "a") for _ in range(3)] == [served] * 3
    assert scene.pool.counters.away == 0


# ---------------------------------------------------------------------------------------------------------------------
# Patience


def test_a_patient_call_waits_for_its_home_while_another_worker_is_free() -> None:
    scene = Scene(size=2)
    home, occupied = settled(scene, "a")
    call = scene.submit(key="a", patience=5.0)
    assert scene.counts == {"waiting": 1, "running": 1, "free_slots": 1}
    scene.wait(4.9)
    assert state(call) is CallState.WAITING
    scene.answer(*occupied)
    assert (state(call), where(call)) == (CallState.RUNNING, home)


def test_nobody_waits_longer_than_there_is_patience() -> None:  # G4
    scene = Scene(size=2)
    home, _ = settled(scene, "a")
    call = scene.submit(key="a", patience=5.0)
    scene.wait(5.0)
    assert (state(call), where(call)) == (CallState.RUNNING, 1 - home)


def test_patience_begins_when_the_turn_of_the_call_has_come() -> None:
    scene = Scene(size=2)
    home, _ = settled(scene, "a")
    other = occupy(scene, 1 - home)
    call = scene.submit(key="a", patience=1.0)
    scene.wait(10.0)
    scene.answer(*other)
    scene.wait(0.9)
    assert state(call) is CallState.WAITING
    scene.wait(0.1)
    assert where(call) == 1 - home


def test_patience_is_one_for_the_whole_call() -> None:
    scene = Scene(size=2)
    home, occupied = settled(scene, "a")
    call = scene.submit(key="a", patience=1.0, retries=1, retry_delay=0.0)
    scene.wait(0.6)
    scene.answer(*occupied)
    assert where(call) == home
    scene.answer(call, ending=NOT_BEGUN)
    assert where(call) == home
    scene.answer(call, ending=NOT_BEGUN)
    scene.wait(0.1)
    assert state(call) is CallState.RUNNING
    assert isinstance(call, KeyedCallRecord)
    assert call.until == pytest.approx(1.0)


def test_without_end_it_waits_for_as_long_as_its_home_works() -> None:
    scene = Scene(size=2)
    home, _ = settled(scene, "a")
    call = scene.submit(key="a", patience=math.inf)
    scene.wait(1e6)
    assert state(call) is CallState.WAITING
    scene.lose(home)
    assert where(call) == 1 - home


def test_a_patient_call_does_not_wait_for_a_worker_that_has_not_served_its_key() -> None:
    scene = Scene(size=2)
    occupy(scene, 0)
    assert [where(scene.submit(key="new", patience=5.0)), scene.counts["running"]] == [1, 2]


def test_nobody_else_waits_for_a_patient_call() -> None:  # G4
    scene = Scene(size=2)
    home, _ = settled(scene, "a")
    patient = scene.submit(key="a", patience=5.0)
    assert where(scene.submit()) == 1 - home
    assert state(patient) is CallState.WAITING


def test_a_patient_call_is_before_those_that_came_after_it_at_its_home() -> None:  # G5
    scene = Scene(size=2)
    home, occupied = settled(scene, "a")
    first, second = (scene.submit(key="a", patience=5.0) for _ in range(2))
    scene.submit()
    later = scene.submit()
    scene.answer(*occupied)
    assert where(first) == home
    scene.answer(first)
    assert where(second) == home
    assert state(later) is CallState.WAITING


def test_a_higher_priority_is_before_a_patient_call_at_its_home() -> None:  # G5
    scene = Scene(size=2)
    home, occupied = settled(scene, "a")
    patient = scene.submit(key="a", patience=5.0)
    scene.submit()
    urgent = scene.submit(priority=1)
    scene.answer(*occupied)
    assert where(urgent) == home
    assert state(patient) is CallState.WAITING
    scene.answer(urgent)
    assert where(patient) == home


def test_among_patient_calls_of_one_home_priority_counts() -> None:  # G5
    scene = Scene(size=2)
    _, occupied = settled(scene, "a")
    first, urgent = (scene.submit(key="a", patience=5.0, priority=priority) for priority in (0, 1))
    scene.answer(*occupied)
    assert [state(first), state(urgent)] == [CallState.WAITING, CallState.RUNNING]


def test_several_homes_that_become_free_at_once_each_serve_their_own() -> None:
    scene = Scene(size=3, slots=2)
    homes = {key: serve(scene, key) for key in range(9)}
    first, second = 0, next(key for key in homes if homes[key] != homes[0])
    for key in (first, second):
        occupy(scene, homes[key])
    lease = scene.lease(key=first)
    calls = {key: scene.submit(key=key, patience=5.0) for key in (first, second)}
    scene.release(lease)
    for worker_id in (homes[first], homes[second]):
        running = list(scene.worker(worker_id).running.values())
        scene.answer(running[0])
    assert where(calls[second]) == homes[second]


def test_a_patient_call_can_be_given_up_and_expires() -> None:  # G6
    scene = Scene(size=2)
    settled(scene, "a")
    given_up, late = scene.submit(key="a", patience=5.0), scene.submit(key="a", patience=5.0, timeout=1.0)
    scene.cancel(given_up)
    scene.wait(1.0)
    assert isinstance(scene.errors[late], DeadlineExceeded)
    assert scene.counts == {"running": 1, "free_slots": 1}
    assert not scene.pool._placement.awaited  # noqa: SLF001


def test_one_that_expires_as_its_home_becomes_free_makes_way_for_the_next() -> None:  # G6
    scene = Scene(size=2)
    _, occupied = settled(scene, "a")
    late, next_one = scene.submit(key="a", patience=5.0, timeout=1.0), scene.submit(key="a", patience=5.0)
    scene.now += 1.0  # the timer is late
    scene.answer(*occupied)
    assert isinstance(scene.errors[late], DeadlineExceeded)
    assert state(next_one) is CallState.RUNNING


def test_closing_refuses_patient_calls_or_lets_them_run() -> None:  # G1
    for rejects in (True, False):
        scene = Scene(size=2)
        _, occupied = settled(scene, "a")
        call = scene.submit(key="a", patience=math.inf)
        scene.close(reject_waiting=rejects)
        scene.answer(*occupied)
        if rejects:
            assert isinstance(scene.errors[call], PoolClosed)
        else:
            scene.answer(call)
        assert scene.pool.is_idle


def test_where_there_is_no_room_for_those_that_wait_nobody_waits_for_a_home() -> None:  # G7
    scene = Scene(size=3, backlog=1)
    home, _ = settled(scene, "a")
    patient = scene.submit(key="a", patience=5.0)
    assert state(patient) is CallState.WAITING
    at_once = scene.submit(key="a", patience=5.0)
    assert state(at_once) is CallState.RUNNING
    assert where(at_once) != home


def test_one_that_waits_for_room_has_no_patience() -> None:  # G7
    scene = Scene(size=2, backlog=0)
    home, _ = settled(scene, "a")
    other = occupy(scene, 1 - home)
    parked = scene.submit(key="a", patience=5.0, may_park=True)
    with pytest.raises(Overloaded):
        scene.submit(key="a", patience=5.0)
    scene.answer(*other)
    assert where(parked) == 1 - home


def test_a_patient_call_counts_as_one_that_waits() -> None:  # G7
    scene = Scene(size=2, backlog=1)
    home, _ = settled(scene, "a")
    scene.submit(key="a", patience=5.0)
    scene.submit()
    with pytest.raises(Overloaded):
        scene.submit()
    assert home in (0, 1)


# ---------------------------------------------------------------------------------------------------------------------
# With all the rest


def test_a_call_is_sent_ahead_to_its_home_first() -> None:
    scene = Scene(size=3, sends_ahead=True)
    scene.learn_pace()
    home = serve(scene, "a", function=SHORT)
    for worker_id in range(3):
        occupy(scene, worker_id)
    calls = [scene.submit(SHORT, key="a") for _ in range(5)]
    assert [(state(call), where(call)) for call in calls] == [(CallState.AHEAD, home)] * 5


def test_what_was_sent_ahead_is_asked_back_for_an_idle_worker_unless_there_is_patience() -> None:  # G4
    scene = Scene(size=2, sends_ahead=True)
    scene.learn_pace()
    home = serve(scene, "a", function=SHORT)
    occupy(scene, home)
    other = occupy(scene, 1 - home)
    hasty, patient = scene.submit(SHORT, key="a"), scene.submit(SHORT, key="a", patience=1.0)
    assert [where(hasty), where(patient)] == [home, home]
    scene.answer(*other)
    for _ in range(2):
        _, asked = scene.recalls[-1]
        scene.give_back(home, *(call for call in (hasty, patient) if call.id in asked))
    assert (state(hasty), where(hasty)) == (CallState.RUNNING, 1 - home)
    assert state(patient) in (CallState.WAITING, CallState.AHEAD)


def test_nothing_is_sent_ahead_of_those_that_wait_for_a_worker() -> None:  # G5
    scene = Scene(size=2, sends_ahead=True)
    scene.learn_pace()
    home, occupied = settled(scene, "a")
    patient = scene.submit(key="a", patience=5.0)
    occupy(scene, 1 - home)
    later = [scene.submit(SHORT) for _ in range(3)]
    assert {where(call) for call in later} == {1 - home}
    scene.answer(*occupied)
    assert where(patient) == home
    more = [scene.submit(SHORT) for _ in range(4)]
    assert {where(call) for call in more} == {0, 1}


def test_a_retry_prefers_another_worker_and_the_key_moves_there() -> None:
    scene = Scene(size=2)
    home = serve(scene, "a")
    call = scene.submit(key="a", retries=1, retry_delay=0.0, patience=5.0)
    assert where(call) == home
    scene.answer(call, ending=RETRYABLE)
    assert where(call) == 1 - home
    scene.answer(call)
    assert serve(scene, "a") == 1 - home


def test_a_lease_takes_the_home_of_its_key_if_that_is_idle() -> None:
    scene = Scene(size=4, slots=2)
    home = serve(scene, "a")
    lease = scene.lease(key="a")
    assert scene.leases[lease] == home
    elsewhere = scene.submit(key="a", patience=1.0)
    assert state(elsewhere) is CallState.WAITING
    scene.release(lease)
    assert where(elsewhere) == home
    another = scene.lease(key="a")
    assert scene.leases[another] != home
    assert scene.submit(key="b", lease=another).worker is scene.worker(scene.leases[another])
    scene.release(another)
    assert where(scene.submit(key="b")) == scene.leases[another]


def test_a_broadcast_says_nothing_about_a_key() -> None:
    scene = Scene(size=2)
    home = serve(scene, "a")
    scene.answer(scene.submit(member=scene.worker(1 - home), key="a"))
    assert serve(scene, "a") == home


def test_a_batch_takes_along_what_waits_for_the_same_worker() -> None:
    scene, batched = Scene(size=2), Batching(3, 0.0)
    home = serve(scene, "a", function=batched)
    occupied = occupy(scene, home)
    waiting = [scene.submit(batched, key="a", patience=5.0) for _ in range(4)]
    scene.answer(*occupied)
    assert scene.sizes == [3]
    assert {where(call) for call in waiting[:3]} == {home}
    assert state(waiting[3]) is CallState.WAITING


def test_each_call_of_a_batch_brings_its_key_along() -> None:
    scene, batched = Scene(size=2), Batching(3, 0.0)
    occupied = occupy(scene, 0) + occupy(scene, 1)
    calls = [scene.submit(batched, key=key) for key in "abc"]
    scene.answer(occupied[0])
    assert scene.sizes == [3]
    scene.answer(*calls)
    assert [serve(scene, key) for key in "abc"] == [0, 0, 0]


def test_keys_and_tenants_go_together() -> None:
    scene = Scene(size=2, backlog_per_tenant=1)
    home, occupied = settled(scene, "a")
    patient = scene.submit(key="a", tenant="t", patience=5.0)
    assert patient.tenant is not None
    assert (state(patient), patient.tenant.waiting) == (CallState.WAITING, 0)
    scene.answer(*occupied)
    assert where(patient) == home
    occupy(scene, 1 - home)
    held = [scene.submit(key="a", tenant="t", patience=5.0, may_park=True) for _ in range(3)]
    assert [state(call) for call in held] == [CallState.WAITING, CallState.PARKED, CallState.PARKED]
    scene.answer(*scene.worker(1 - home).running.values())
    assert scene.pool.counters.at_home == 1
    assert scene.counts == {"waiting": 3, "running": 1, "free_slots": 1}
    scene.wait(5.0)
    assert where(held[0]) == 1 - home


def test_a_reload_moves_the_keys_and_loses_nothing() -> None:
    scene = Scene(size=2)
    homes = {key: serve(scene, key) for key in range(10)}
    _, effects = scene.pool.reloading.begin(1, scene.now)
    scene.act(effects)
    while scene.pool.reloading.is_under_way:
        scene.ready(scene.started[-1])
    calls = {key: serve(scene, key) for key in homes}
    assert set(calls.values()).isdisjoint(homes.values())
    assert {key: serve(scene, key) for key in homes} == calls


# ---------------------------------------------------------------------------------------------------------------------
# What it costs


def test_a_call_without_a_key_takes_no_byte_more_and_no_clock_rings_for_it() -> None:
    assert "key" not in CallRecord.__slots__
    assert not hasattr(CallRecord(1, "f"), "__dict__")
    scene = Scene(size=2)
    clocks = scene.pool._alarms._clocks  # noqa: SLF001
    settled(scene, "a")
    assert scene.pool._alarms._clocks is clocks  # noqa: SLF001
    scene.submit(key="a", patience=1.0)
    scene.submit(key="a", patience=1.0)
    assert len(scene.pool._alarms._clocks) == len(clocks) + 1  # noqa: SLF001


def test_a_decision_costs_the_same_however_many_wait_for_their_home() -> None:  # P5
    costs: set[int] = set()
    for waiting in (10, 10_000):
        pool = Scheduler(size=2)
        pool.open(0.0)
        for worker_id in range(2):
            pool.worker_ready(worker_id, 0.0)
        ids = iter(range(10**6))
        new = partial(KeyedCallRecord, "a", 60.0, None)
        first = new(next(ids), "f")
        pool.submit(first, 0.0)
        for _ in range(waiting):
            pool.submit(new(next(ids), "f"), 0.0)
        function: Hashable = "f"
        costs.add(count_calls(lambda: pool.submit(new(next(ids), function), 0.0)))  # noqa: B023 (called at once)
        assert pool.stats(0.0).waiting == waiting + 1
    assert len(costs) == 1, costs


def test_whose_patience_is_over_is_not_overtaken_by_a_later_call_of_its_tenant() -> None:  # G5
    scene = Scene(size=3)
    home, held = settled(scene, "a")
    early = scene.submit(key="a", tenant="t", patience=1.0)
    late = scene.submit(key="a", tenant="t", patience=50.0)
    for _ in range(2):
        scene.submit(tenant="t")  # so that it is the turn of the other one
    other = scene.submit(tenant="u")
    scene.wait(2.0)
    scene.answer(*held)
    assert (where(other), state(early), state(late)) == (home, CallState.WAITING, CallState.WAITING)
    scene.answer(other)
    assert (where(early), state(late)) == (home, CallState.WAITING)
