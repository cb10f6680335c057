"""The queue of waiting calls and the heap of deadlines, alone."""

import math
import random

from poise._core.alarms import Times
from poise._core.backlog import Backlog, Rank
from poise._core.calls import CallRecord


def drain(backlog: Backlog) -> list[int]:
    order: list[int] = []
    while (call := backlog.first()) is not None:
        assert backlog.discard(call)
        backlog.check_invariants()
        order.append(call.id)
    return order


def test_calls_come_out_by_priority_and_then_in_the_order_of_submission() -> None:  # G5
    backlog = Backlog()
    for call_id, priority in enumerate([0, 5, -1, 5, 0]):
        backlog.add(CallRecord(call_id, "f", priority=priority))
        backlog.check_invariants()
    assert len(backlog) == len(list(backlog)) == 5
    assert drain(backlog) == [1, 3, 0, 4, 2]
    assert len(backlog) == 0
    assert backlog.first() is None


def test_a_returned_call_goes_back_to_its_place() -> None:  # G2
    calls = [CallRecord(call_id, "f") for call_id in range(6)]
    backlog = Backlog()
    for call in calls:
        backlog.add(call)
    for call in calls[:4]:
        backlog.discard(call)
    for call in (calls[2], calls[0], calls[3]):
        backlog.add(call)
        backlog.check_invariants()
    assert len(list(backlog)) == 5
    assert drain(backlog) == [0, 2, 3, 4, 5]


def test_a_call_that_is_not_there_cannot_be_taken_out() -> None:
    backlog = Backlog()
    assert not backlog.discard(CallRecord(1, "f"))
    backlog.add(CallRecord(2, "f"))
    assert not backlog.discard(CallRecord(1, "f"))
    assert len(backlog) == 1


def test_any_sequence_of_adds_and_discards_gives_the_order_of_a_sorted_list() -> None:
    rng = random.Random(7)
    backlog, waiting, outside = Backlog(), dict[int, CallRecord](), list[CallRecord]()
    for call_id in range(1500):
        waiting[call_id] = CallRecord(call_id, "f", priority=rng.choice([0, 0, 0, 1, 2]))
        backlog.add(waiting[call_id])
        for _ in range(rng.choice([0, 1, 2])):
            if outside and rng.random() < 0.5:
                call = outside.pop(rng.randrange(len(outside)))
                waiting[call.id] = call
                backlog.add(call)
            elif waiting:
                expected = min(waiting.values(), key=lambda call: (-call.priority, call.id))
                assert backlog.first() is expected
                call = expected if rng.random() < 0.7 else rng.choice(list(waiting.values()))
                del waiting[call.id]
                assert backlog.discard(call)
                outside.append(call)
        assert len(backlog) == len(waiting)
    backlog.check_invariants()


def test_priorities_that_come_and_go_leave_nothing_behind() -> None:  # G7
    backlog = Backlog()
    urgent = CallRecord(0, "f", priority=10**9)
    backlog.add(urgent)
    for call_id in range(1, 2000):
        call = CallRecord(call_id, "f", priority=call_id)
        backlog.add(call)
        backlog.discard(call)
    assert len(backlog._ranks) == len(backlog._priorities) == 1  # noqa: SLF001
    backlog.discard(urgent)
    backlog.add(CallRecord(3000, "f", priority=5))
    assert len(backlog._ranks) == len(backlog._priorities) == 1  # noqa: SLF001


def test_returned_calls_that_are_cancelled_leave_nothing_behind() -> None:  # G7
    backlog = Backlog()
    first, last = CallRecord(0, "f"), CallRecord(10**6, "f")
    backlog.add(last)
    backlog.add(first)
    for call_id in range(1, 5000):
        call = CallRecord(call_id, "f")
        backlog.add(call)
        backlog.discard(call)
    rank = backlog._ranks[0]  # noqa: SLF001
    assert isinstance(rank, Rank)
    assert len(rank.returned_order) < 100
    assert drain(backlog) == [0, 10**6]


def test_deadlines_come_due_earliest_first_and_only_once() -> None:  # G6
    deadlines: Times[CallRecord] = Times()
    calls = [CallRecord(call_id, "f") for call_id in range(4)]
    for call, when in zip(calls, [3.0, 1.0, 2.0, 9.0], strict=True):
        deadlines.add(call, when)
    deadlines.forget(calls[2])
    deadlines.forget(calls[2])
    assert (deadlines.next(), len(deadlines)) == (1.0, 3)
    assert [call.id for call in deadlines.pop_due(3.0)] == [1, 0]
    assert [call.id for call in deadlines.pop_due(3.0)] == []
    assert (deadlines.next(), len(deadlines)) == (9.0, 1)
    deadlines.forget(calls[3])
    assert (deadlines.next(), len(deadlines)) == (math.inf, 0)


def test_a_call_forgotten_while_others_come_due_does_not() -> None:
    deadlines: Times[CallRecord] = Times()
    calls = [CallRecord(call_id, "f") for call_id in range(2)]
    for call in calls:
        deadlines.add(call, 1.0)
    due: list[int] = []
    for call in deadlines.pop_due(1.0):
        due.append(call.id)
        deadlines.forget(calls[1])
    assert due == [0]


def test_forgotten_deadlines_are_cleared_out() -> None:  # G7
    deadlines: Times[CallRecord] = Times()
    kept = CallRecord(0, "f")
    deadlines.add(kept, 1e6)
    for call_id in range(1, 5000):
        call = CallRecord(call_id, "f")
        deadlines.add(call, 1e6 + call_id)
        deadlines.forget(call)
    assert len(deadlines._heap) < 100  # noqa: SLF001
    assert deadlines.next() == 1e6
