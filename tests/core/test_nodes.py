"""Workers on several nodes: a call goes to one on its caller's node where that is as free as another."""

from __future__ import annotations

import pytest

from poise._answers import RAISED, RETURNED
from poise._core.affinity import KeyedCallRecord
from poise.policies import Elastic
from tests.core.scene import SHORT, Scene


def spread(near: int, far: int, slots: int = 1, *, size: int | Elastic | None = None) -> Scene:
    """A pool whose first workers are on other nodes, so that it is not by chance that others come before them."""
    scene = Scene(near + far if size is None else size, slots, ready=0)
    for worker_id in range(near + far):
        scene.ready(worker_id, is_far=worker_id < far)
    return scene


def who_takes(scene: Scene, calls: int) -> list[int]:
    workers = []
    for _ in range(calls):
        call = scene.submit()
        assert call.worker is not None
        workers.append(call.worker.id)
    return workers


def test_a_worker_on_the_callers_node_is_taken_before_those_on_others() -> None:
    scene = spread(near=2, far=2)
    assert who_takes(scene, 4) == [2, 3, 0, 1]


def test_those_on_one_node_take_turns() -> None:
    scene = spread(near=2, far=2)
    for expected in (2, 3, 2, 3):
        call = scene.submit()
        assert call.worker is not None
        assert call.worker.id == expected
        scene.answer(call)


def test_a_worker_on_another_node_is_taken_at_once_when_all_here_are_busy() -> None:  # G4
    scene = spread(near=1, far=1)
    scene.submit()
    call = scene.submit()
    assert scene.sent[0] == [call]


def test_a_worker_here_gets_no_second_call_while_one_elsewhere_has_none() -> None:
    scene = spread(near=2, far=2, slots=2)
    assert who_takes(scene, 8) == [2, 3, 0, 1, 2, 3, 0, 1]


def test_a_worker_here_that_has_failed_last_comes_after_one_elsewhere_that_has_not() -> None:
    scene = spread(near=1, far=1)
    scene.answer(scene.submit(), ending=RAISED)
    assert who_takes(scene, 2) == [0, 1]


def test_workers_elsewhere_become_ready_after_those_here_and_the_order_holds() -> None:
    scene = Scene(3, ready=2)
    busy = scene.submit()
    scene.ready(2, is_far=True)
    assert who_takes(scene, 2) == [1, 2]
    scene.answer(busy)
    assert scene.pool.stats(scene.now).free_slots == 1


def test_a_call_that_is_retried_goes_elsewhere_rather_than_where_it_has_failed() -> None:
    scene = spread(near=1, far=1)
    call = scene.submit(retries=1)
    scene.lose(1)
    assert scene.sent[0] == [call]


def test_a_key_stays_with_its_worker_though_that_is_on_another_node() -> None:
    scene = spread(near=1, far=1)
    busy = scene.submit()
    call = scene.submit(key="user")
    assert scene.sent[0] == [call]
    scene.answer(call)
    scene.answer(busy)
    assert isinstance(again := scene.submit(key="user"), KeyedCallRecord)
    assert scene.sent[0] == [call, again]


def test_keys_are_spread_over_all_nodes() -> None:
    scene = spread(near=4, far=4)
    for key in range(64):
        scene.answer(scene.submit(key=key))
    assert all(scene.sent[worker_id] for worker_id in range(8))


def test_a_lease_takes_a_worker_here_first() -> None:
    scene = spread(near=1, far=2)
    leases = [scene.lease() for _ in range(3)]
    assert [scene.leases[lease] for lease in leases] == [2, 0, 1]


def test_where_calls_are_packed_load_comes_before_the_node() -> None:
    scene = Scene(Elastic(1, 3), slots=2, ready=0)
    scene.ready(0, is_far=True)
    first = scene.submit(SHORT)
    scene.answer(first, service_time=5.0)
    calls = [scene.submit(SHORT) for _ in range(6)]
    scene.wait(1.0)
    for worker_id in (1, 2):
        scene.ready(worker_id)
    for call in calls:
        scene.answer(call)
    packed = scene.submit()
    assert packed.worker is not None
    assert not packed.worker.is_far, "all are idle"
    beside = scene.submit()
    assert beside.worker is packed.worker, "it has a free slot, and the others may be idle"


@pytest.mark.parametrize("slots", [1, 3])
def test_free_slots_are_counted_on_all_nodes(slots: int) -> None:
    scene = spread(near=2, far=2, slots=slots, size=4)
    calls = [scene.submit() for _ in range(4 * slots)]
    assert scene.pool.stats(scene.now).free_slots == 0
    scene.answer(calls[0], ending=RETURNED)
    assert scene.pool.stats(scene.now).free_slots == 1
    scene.pool.check_invariants()
