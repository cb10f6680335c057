"""Tenants share what their calls wait for."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from poise._core.backlog import Backlog
from poise._core.batches import Batching
from poise._core.calls import CallRecord, TenantCallRecord
from poise._core.shares import Shares
from poise._core.states import CallState
from poise.errors import Overloaded
from tests.core.scene import Scene


def run_on(scene: Scene, calls: dict[str, float], rounds: int) -> Counter[str]:
    """Let the one worker answer so many calls of functions with these service times, and sum what each tenant had."""
    had: Counter[str] = Counter()
    for _ in range(rounds):
        (running,) = scene.worker(0).running.values()
        seconds = calls[str(running.function)]
        tenant = running.tenant
        had["" if tenant is None else str(tenant.name)] += round(seconds * 1000)
        scene.now += seconds
        scene.answer(running, service_time=seconds)
    return had


def test_a_flood_delays_anothers_single_call_by_one_call() -> None:
    scene = Scene(size=1)
    flood = [scene.submit(tenant="flood") for _ in range(1000)]
    single = scene.submit(tenant="single")
    assert flood[0].state is CallState.RUNNING
    scene.answer(flood[0])
    assert single.state is CallState.RUNNING


def test_a_flood_of_calls_that_are_sent_ahead_delays_by_little() -> None:
    scene = Scene(size=1, sends_ahead=True)
    scene.learn_pace(0.02)  # steady, so that one would be sent ahead beside a deep backlog
    flood = [scene.submit(tenant="flood") for _ in range(10)]
    single = scene.submit(tenant="single")
    assert flood[1].state is CallState.WAITING
    scene.answer(flood[0], service_time=0.02)
    assert single.state is CallState.RUNNING


def test_time_is_shared_not_the_number_of_calls() -> None:
    scene = Scene(size=1)
    for _ in range(220):
        scene.submit("short", tenant="a")
    for _ in range(25):
        scene.submit("long", tenant="b")
    had = run_on(scene, {"short": 0.01, "long": 0.1}, 220)
    assert had["a"] == pytest.approx(had["b"], abs=200)


def test_every_call_of_a_batch_is_charged_to_its_own_tenant() -> None:
    scene, batched = Scene(size=1), Batching(4, 0.0)
    scene.answer(scene.submit(batched), service_time=0.1)
    held = scene.submit()
    calls = [scene.submit(batched, tenant=name) for name in "aaab"]
    scene.submit(tenant="c")
    scene.answer(held, service_time=0.0)
    assert scene.sizes == [4]
    times = {name: scene.pool.shares.tenant(name, 1).time for name in "ab"}
    assert times["a"] - times["b"] == pytest.approx(0.2)
    scene.answer(*calls, service_time=0.3)
    times = {name: scene.pool.shares.tenant(name, 1).time for name in "ab"}
    assert times["a"] - times["b"] == pytest.approx(0.6)


def test_batches_share_by_time_too() -> None:
    scene, batched = Scene(size=1), Batching(4, 0.0)
    for _ in range(400):
        scene.submit(batched, tenant="a")
        scene.submit("single", tenant="b")
    had: Counter[str] = Counter()
    for _ in range(200):
        calls = scene.worker(0).held
        for call in calls:
            assert call.tenant is not None
            had[str(call.tenant.name)] += 1
        scene.answer(*calls, service_time=0.1)
    assert had["a"] == pytest.approx(had["b"], abs=10)


def test_weights_divide_it() -> None:
    scene = Scene(size=1)
    for _ in range(120):
        scene.submit(tenant="a", weight=3)
        scene.submit(tenant="b")
        scene.submit()
    had = run_on(scene, {"f": 0.01}, 150)
    assert had["a"] == pytest.approx(3 * had["b"], abs=60)
    assert had["b"] == pytest.approx(had[""], abs=20)


def test_who_has_waited_for_nothing_saves_nothing_up() -> None:
    scene = Scene(size=1)
    for _ in range(200):
        scene.submit(tenant="busy")
    run_on(scene, {"f": 0.01}, 100)
    for _ in range(100):
        scene.submit(tenant="late")
    had = run_on(scene, {"f": 0.01}, 100)
    assert had["late"] == pytest.approx(had["busy"], abs=20)


def test_a_tenant_with_one_call_at_a_time_pays_for_what_it_took() -> None:
    scene = Scene(size=1)
    for _ in range(200):
        scene.submit("short", tenant="many")
    serial = scene.submit("long", tenant="serial")
    had: Counter[str] = Counter()
    for _ in range(150):
        had += run_on(scene, {"short": 0.01, "long": 0.1}, 1)
        if serial.state is CallState.DONE:
            serial = scene.submit("long", tenant="serial")
    assert had["serial"] == pytest.approx(had["many"], abs=200)


def test_priority_comes_before_shares() -> None:
    scene = Scene(size=1)
    first = scene.submit(tenant="a")
    low, high = scene.submit(tenant="b"), scene.submit(tenant="a", priority=1)
    scene.answer(first)
    assert (high.state, low.state) == (CallState.RUNNING, CallState.WAITING)


def test_what_was_charged_and_never_ran_is_given_back() -> None:
    scene = Scene(size=1, sends_ahead=True)
    scene.learn_pace()
    calls = [scene.submit(tenant="a") for _ in range(4)]
    tenant = scene.pool.shares.tenant("a", 1.0)
    scene.give_back(0, *[call for call in calls if call.state is CallState.AHEAD])
    for call in calls:
        while call.state is not CallState.DONE:
            scene.answer(next(iter(scene.worker(0).running.values())), service_time=0.5)
    assert tenant.time - tenant.overcharged == pytest.approx(4 * 0.5)


def test_a_tenants_part_of_the_backlog_has_a_bound() -> None:
    scene = Scene(size=1, backlog=10, backlog_per_tenant=2)
    calls = [scene.submit(tenant="a") for _ in range(3)]
    with pytest.raises(Overloaded, match="tenant 'a' is full: 2 calls wait and the limit is 2") as it:
        scene.submit(tenant="a")
    assert (it.value.tenant, it.value.depth, it.value.limit) == ("a", 2, 2)
    parked = [scene.submit(tenant="a", may_park=True) for _ in range(3)]
    others = scene.submit(tenant="b"), scene.submit()
    assert [call.state for call in others] == [CallState.WAITING] * 2
    assert scene.counts["parked"] == 3
    scene.cancel(parked[1])
    for call in (*calls, others[0], others[1], parked[0], parked[2]):
        assert call.state is not CallState.DONE
    while scene.worker(0).running:
        scene.answer(next(iter(scene.worker(0).running.values())))
    assert [call.state for call in parked] == [CallState.DONE] * 3
    assert scene.counts == {"free_slots": 1}


def test_a_tenant_beyond_its_part_waits_for_the_whole_backlog_too() -> None:
    scene = Scene(size=1, backlog=2, backlog_per_tenant=1)
    scene.submit()
    waiting = scene.submit(tenant="a")
    held_back = scene.submit(tenant="a", may_park=True)
    later = scene.submit(tenant="a", may_park=True)
    other = scene.submit()
    last = scene.submit(may_park=True)
    scene.cancel(waiting)
    assert sorted(call.state for call in (held_back, later, last)) == [
        CallState.PARKED,
        CallState.PARKED,
        CallState.WAITING,
    ]
    for call in (last, held_back):
        scene.cancel(call)
    assert (later.state, scene.counts["waiting"]) == (CallState.WAITING, 2)
    for call in (other, later):
        scene.cancel(call)
    assert scene.counts == {"running": 1}


def test_closing_refuses_what_is_held_back_too() -> None:
    scene = Scene(size=1, backlog_per_tenant=1)
    calls = [scene.submit(tenant="a", may_park=True) for _ in range(4)]
    scene.close(reject_waiting=True)
    assert [call.state for call in calls] == [CallState.RUNNING, *[CallState.DONE] * 3]


def test_tenants_that_have_left_are_forgotten() -> None:
    scene = Scene(size=1)
    for number in range(5000):
        scene.answer(scene.submit(tenant=number), service_time=0.001)
        scene.results.clear()  # these hold the calls, which hold their tenants
        scene.sent.clear()
    assert len(scene.pool.shares._known) < 500  # noqa: SLF001


def test_a_rank_keeps_one_entry_for_each_tenant() -> None:
    dice = random.Random(3)
    shares = Shares(None)
    backlog = Backlog(shares)
    waiting: list[CallRecord] = []
    for call_id in range(5000):
        name = dice.choice((None, *range(300)))
        call = CallRecord(call_id, "f") if name is None else TenantCallRecord(shares.tenant(name, 1), call_id, "f")
        waiting.append(call)
        backlog.add(call)
        while len(waiting) > dice.choice((0, 5, 40)):
            head = backlog.first()
            assert head is not None
            gone = head if dice.random() < 0.7 else dice.choice(waiting)
            assert backlog.discard(gone)
            waiting.remove(gone)
            shares.settle(gone, shares.charge(gone, 0.01, is_contended=bool(waiting)), dice.random() / 20)
        backlog.check_invariants()
    assert {call.id for call in backlog} == {call.id for call in waiting}
    assert not backlog.discard(TenantCallRecord(shares.tenant("new", 1), 9999, "f"))


def test_a_rank_forgets_tenants_that_have_left() -> None:
    shares = Shares(None)
    backlog = Backlog(shares)
    calls = [TenantCallRecord(shares.tenant(number, 1), number, "f") for number in range(200)]
    for call in calls:
        backlog.add(call)
    for call in calls[:-1]:
        backlog.discard(call)
        backlog.check_invariants()
    assert backlog.first() is calls[-1]
