"""What a decision costs, and what is kept."""

import gc
import sys
import tracemalloc
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from poise._answers import NOT_BEGUN, RETURNED, Answer
from poise._core.calls import CallRecord
from poise._core.pace import AHEAD_CALLS
from poise._core.scheduler import Scheduler
from tests.core.scene import SHORT, Scene


def test_a_waiting_call_takes_less_than_half_a_kilobyte() -> None:  # G7, P5: 1.5 KB with the engine's part
    pool = Scheduler(size=1)
    pool.open(0.0)
    tracemalloc.start()
    for call_id in range(1000, 21_000):
        pool.submit(CallRecord(call_id, "f", name="f", deadline=1000.0 + call_id), 0.0)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken / 20_000 < 512  # 400 measured


def count_calls(step: Callable[[], Any]) -> int:
    """How many functions a step calls, those in C among them."""
    count = 0

    def note(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        step()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("sends_ahead", [False, True])
def test_a_decision_costs_the_same_however_many_wait_and_work(*, sends_ahead: bool, nodes: int) -> None:  # P5
    costs: set[int] = set()
    for workers, waiting in ((4, 10), (4, 50_000), (500, 10)):
        pool = Scheduler(size=workers)
        pool.open(0.0)
        for worker_id in range(workers):
            most_ahead = AHEAD_CALLS if sends_ahead else 0
            pool.worker_ready(worker_id, 0.0, most_ahead=most_ahead, is_far=worker_id % nodes > 0)
        for call_id in range(workers + waiting):
            pool.submit(CallRecord(call_id, "f"), 0.0)
        costs.add(
            count_calls(
                lambda: (
                    pool.submit(CallRecord(10**6, "f"), 0.0),  # noqa: B023 (called at once)
                    pool.finished(0, [Answer(0, RETURNED, None, 0.5)], 0.0),  # noqa: B023
                    pool.tick(0.0),  # noqa: B023
                    pool.next_tick(),  # noqa: B023
                )
            )
        )
    assert len(costs) == 1, costs


class Payload:
    """Stands for the arguments and the future that the engine hangs on a call."""


Step = Callable[[Scene, CallRecord], None]
ANSWER: Step = lambda scene, call: scene.answer(call)  # noqa: E731 (a table of steps)
GIVE_BACK: Step = lambda scene, call: scene.answer(call, ending=NOT_BEGUN)  # noqa: E731
CANCEL: Step = lambda scene, call: scene.cancel(call)  # noqa: E731
EXPIRE: Step = lambda scene, _: scene.wait(2.0)  # noqa: E731
LOSE: Step = lambda scene, _: scene.lose(0)  # noqa: E731
STOP: Step = lambda scene, _: scene.stop()  # noqa: E731


@pytest.mark.parametrize(
    "steps",
    [[ANSWER], [GIVE_BACK, ANSWER], [CANCEL, ANSWER], [EXPIRE, ANSWER], [EXPIRE, LOSE], [LOSE], [STOP]],
    ids=["answered", "given back", "cancelled", "expired", "expired and lost", "lost", "stopped"],
)
def test_nothing_of_a_call_is_kept_after_it_has_left_its_worker(steps: list[Step]) -> None:
    scene = Scene(size=1, kill_after=1000.0)
    payload = Payload()
    gone = weakref.ref(payload)
    call = scene.submit(timeout=1.0)
    call.tag = payload
    for step in steps:
        step(scene, call)
    scene.results.clear()
    scene.errors.clear()
    scene.sent.clear()
    gc.disable()
    try:
        del call, payload
        assert gone() is None
    finally:
        gc.enable()


def test_nothing_is_kept_of_calls_that_were_dropped_while_they_waited() -> None:
    scene = Scene(size=1, slots=2, backlog=3)
    scene.submit()
    scene.submit()
    gone: list[weakref.ref[Payload]] = []
    for _ in range(200):
        lease = scene.lease(timeout=5000.0)
        waiting = [scene.submit(timeout=5000.0, may_park=True) for _ in range(6)]
        for call in (lease, *waiting):
            call.tag = Payload()
            gone.append(weakref.ref(call.tag))
            scene.cancel(call)
        del call, lease, waiting
    assert [ref for ref in gone if ref() is not None] == []


def test_a_call_that_has_ended_keeps_no_worker() -> None:
    scene = Scene(size=2)
    lease = scene.lease()
    leased, bound = scene.submit(lease=lease), scene.submit(member=scene.worker(1))
    scene.answer(leased)
    scene.answer(bound)
    refused, moved = scene.submit(lease=lease, retries=1), scene.submit(member=scene.worker(1))
    scene.cancel(moved)
    scene.stop()
    for call in (leased, bound, refused, moved):
        assert (call.worker, call.bound_for) == (None, None)


def test_nothing_is_kept_of_a_worker_that_is_gone() -> None:
    scene = Scene(size=2, slots=2, sends_ahead=True)
    scene.learn_pace()
    for _ in range(8):
        scene.submit(SHORT)
    lease = scene.lease()
    for _ in range(20):
        for worker in list(scene.pool.members()):
            scene.lose(worker.id)
            scene.wait(60.0)
            for started in scene.started[-2:]:
                scene.ready(started)
    scene.cancel(lease)
    placement, alarms = scene.pool._placement, scene.pool._alarms  # noqa: SLF001
    alive = {worker.id for worker in scene.pool.members()}
    for known in (placement._rank, placement._roomy, alarms.lines):  # noqa: SLF001
        assert set(known) <= alive
