"""A rolling reload: who starts, who leaves, and what becomes of it if a new one cannot start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from poise.policies import Recycle
from tests.core.scene import Scene

if TYPE_CHECKING:
    from poise._core.reloading import Reload


def reload(scene: Scene, surge: int = 1) -> Reload:
    reload, effects = scene.pool.reloading.begin(surge, scene.now)
    scene.act(effects)
    return reload


def no_room(scene: Scene, worker_id: int) -> None:
    scene.act(scene.pool.renewals.no_room(worker_id, "GPU: none is free", scene.now))


def is_over(reload: Reload) -> bool:
    """Whether it is over now: unlike the field itself, not narrowed by a check of it before."""
    return reload.is_over


def is_under_way(scene: Scene) -> bool:
    """Likewise."""
    return scene.pool.reloading.is_under_way


def generations(scene: Scene) -> list[int]:
    return [worker.generation for worker in scene.pool.members()]


def test_one_after_the_other_is_replaced_and_the_new_one_is_ready_first() -> None:
    scene = Scene(size=2)
    progress = reload(scene)
    assert (scene.started, scene.killed) == ([0, 1, 2], [])
    scene.ready(2)
    assert (scene.closed, scene.started) == ([0], [0, 1, 2, 3])
    assert not is_over(progress)
    scene.ready(3)
    assert (scene.closed, progress.failure) == ([0, 1], None)
    assert is_over(progress)
    assert not is_under_way(scene)
    assert scene.pool.stats(scene.now).generation == 1
    scene.resize(3)
    assert generations(scene) == [1, 1, 1]


def test_as_many_start_at_a_time_as_may() -> None:
    scene = Scene(size=4)
    reload(scene, surge=3)
    assert scene.started == [0, 1, 2, 3, 4, 5, 6]
    scene.ready(5)
    assert scene.started[-1] == 7


def test_without_a_surge_one_after_the_other_leaves_first() -> None:
    scene = Scene(size=2)
    progress = reload(scene, surge=0)
    assert (scene.closed, scene.started) == ([0], [0, 1])
    scene.lose(0, "retired")
    assert scene.started == [0, 1, 2]
    scene.ready(2)
    assert scene.closed == [0, 1]
    scene.lose(1, "retired")
    scene.ready(3)
    assert is_over(progress)


def test_if_the_first_new_one_cannot_start_nothing_has_changed() -> None:
    scene = Scene(size=2)
    progress = reload(scene)
    cause = LookupError("no such weights")
    scene.lose(2, "the constructor raised", cause)
    assert (progress.failure, progress.cause) == ("the constructor raised", cause)
    assert not is_under_way(scene)
    assert (scene.killed, generations(scene)) == ([], [0, 0])
    assert reload(scene).generation == 2


def test_if_a_later_one_cannot_those_that_are_new_are_replaced_by_old_ones() -> None:
    scene = Scene(size=3)
    progress = reload(scene)
    scene.ready(3)
    assert scene.pool.fleet.generation == 1
    scene.lose(4, "the constructor raised")
    assert is_over(progress)
    assert progress.failure == "the constructor raised"
    assert scene.pool.fleet.generation == 0
    back = scene.started[-1]
    assert scene.worker(back).generation == 0
    scene.lose(back, "it was killed")  # which does not keep it from going back
    scene.wait(1.0)
    scene.ready(scene.started[-1])
    assert generations(scene) == [0, 0, 0]
    assert scene.closed == [0, 3]


def test_others_that_start_are_given_up_with_the_one_that_fails() -> None:
    scene = Scene(size=3)
    reload(scene, surge=2)
    scene.lose(4, "the constructor raised")
    assert scene.killed == [3]
    assert generations(scene) == [0, 0, 0]


def test_without_a_surge_the_old_generation_starts_in_place_of_what_cannot() -> None:
    scene = Scene(size=2)
    progress = reload(scene, surge=0)
    scene.lose(0, "retired")
    scene.lose(2, "the constructor raised")
    assert progress.failure == "the constructor raised"
    assert generations(scene) == [0, 0]
    scene.ready(scene.started[-1])
    assert scene.killed == [0]


def test_where_there_is_no_room_for_one_more_the_reload_fails_and_says_so() -> None:
    scene = Scene(size=1)
    progress = reload(scene)
    no_room(scene, 1)
    assert progress.failure == "there is no room for it: GPU: none is free"
    assert (scene.killed, generations(scene)) == ([1], [0])


def test_on_the_way_back_the_new_one_leaves_first_where_there_is_no_room() -> None:
    scene = Scene(size=2)
    reload(scene)
    scene.ready(2)
    scene.lose(3, "the constructor raised")
    no_room(scene, 4)
    assert scene.closed == [0, 2]
    scene.ready(4)
    assert generations(scene) == [0, 0]


def test_what_has_not_started_is_of_the_new_generation_once_one_has_shown_that_it_can() -> None:
    scene = Scene(size=3, ready=1)
    scene.lose(2, "the constructor raised")
    assert generations(scene) == [0, 0, 0]
    progress = reload(scene)
    assert generations(scene) == [0, 0, 0]
    scene.ready(4)
    assert is_over(progress)
    assert generations(scene) == [1, 1, 1]
    assert scene.killed == [0, 1]


def test_a_broken_pool_is_mended() -> None:  # G8
    scene = Scene(size=1, ready=0)
    for _ in range(3):
        scene.lose(scene.started[-1], "the constructor raised")
        scene.wait(30.0)
    scene.lose(scene.started[-1], "the constructor raised")
    assert scene.pool.fleet.broken is not None
    progress = reload(scene)
    assert len(scene.started) == 5, "at once"
    scene.ready(scene.started[-1])
    assert is_over(progress)
    assert generations(scene) == [1]


def test_a_broken_pool_that_is_not_mended_goes_on_with_what_it_had() -> None:
    scene = Scene(size=1, ready=0)
    progress = reload(scene)
    assert scene.killed == [0]
    scene.lose(1, "the constructor raised")
    assert progress.failure == "the constructor raised"
    assert generations(scene) == [0]


def test_another_reload_takes_over_from_one_that_goes_back() -> None:
    scene = Scene(size=2)
    reload(scene)
    scene.ready(2)
    scene.lose(3, "the constructor raised")
    progress = reload(scene)
    assert progress.generation == 2
    for _ in range(4):
        if scene.pool.fleet.is_starting(worker := scene.started[-1]):
            scene.ready(worker)
    assert is_over(progress)
    assert generations(scene) == [2, 2]


def test_a_worker_that_is_lost_meanwhile_comes_back_as_what_it_was_and_is_replaced_too() -> None:  # G8
    scene = Scene(size=3)
    progress = reload(scene)
    scene.ready(3)
    scene.lose(2)
    scene.wait(0.2)
    revived = max(worker.id for worker in scene.pool.members())
    assert scene.worker(revived).generation == 0
    scene.ready(4)
    assert is_over(progress)
    assert generations(scene) == [1, 1, 1]


def test_a_pool_that_becomes_smaller_is_reloaded_all_the_same() -> None:
    scene = Scene(size=2)
    progress = reload(scene)
    scene.ready(2)
    scene.resize(1)
    assert is_over(progress)
    assert generations(scene) == [1]


def test_a_worker_that_is_being_replaced_for_another_reason_is_replaced_again() -> None:
    scene = Scene(size=1, recycle=Recycle(calls=1))
    scene.answer(scene.submit())
    assert scene.replacing == [(0, 1)]
    progress = reload(scene)
    scene.ready(1)
    assert scene.replacing == [(0, 1), (1, 2)]
    scene.ready(2)
    assert is_over(progress)


def test_one_that_waits_for_the_end_of_another_is_of_the_new_generation() -> None:
    scene = Scene(size=1, slots=2, recycle=Recycle(calls=1, surge=False))
    first, second = scene.submit(), scene.submit()
    scene.answer(first)
    progress = reload(scene)
    assert (scene.started, generations(scene)) == ([0], [1])
    scene.answer(second)
    scene.lose(0, "retired")
    scene.ready(1)
    assert is_over(progress)


def test_a_worker_that_is_killed_needs_no_replacement_that_is_new() -> None:
    scene = Scene(size=1, kill_after=0.0)
    scene.submit(timeout=1.0)
    scene.wait(1.0)
    assert scene.killed == [0]
    progress = reload(scene)
    assert scene.started == [0]
    scene.lose(0)
    scene.ready(1)
    assert is_over(progress)
    assert generations(scene) == [1]


@pytest.mark.parametrize("surge", [0, 1])
def test_a_worker_with_a_lease_keeps_it(surge: int) -> None:
    scene = Scene(size=1)
    lease = scene.lease()
    progress = reload(scene, surge)
    if surge:
        scene.ready(1)
        assert is_over(progress)
    inside = scene.submit(lease=lease)
    assert scene.sent[0] == [inside]
    scene.answer(inside)
    scene.release(lease)
    assert scene.closed == [0]
