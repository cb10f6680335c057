"""What memory a worker sees that it has, and when it tells of it."""

from __future__ import annotations

import gc
import mmap

import psutil

from poise._protocol.messages import CALL, CallMessage
from poise._worker.inbox import Arrival
from poise._worker.memory import Gauge, GaugedInbox

MIB = 1 << 20


def arrival(call_id: int) -> Arrival:
    return Arrival(CallMessage(CALL, call_id, "f", b""))


def test_the_resident_set_is_what_the_kernel_says() -> None:
    gauge = Gauge()
    before = gauge.resident()
    assert abs(before - psutil.Process().memory_info().rss) < 8 * MIB
    held = mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # new pages, whatever the heap has left
    held.write(b"x" * (64 * MIB))
    assert gauge.resident() - before > 48 * MIB
    del held


def test_memory_that_is_shared_by_name_is_not_the_processs_own() -> None:
    gauge = Gauge()
    before, resident = gauge.own(), gauge.resident()
    with mmap.mmap(-1, 64 * MIB) as shared:  # as Ray's object store
        shared.write(b"x" * (64 * MIB))
        assert gauge.resident() - resident > 48 * MIB
        assert gauge.own() - before < 16 * MIB


def test_an_inbox_tells_once_between_two_calls() -> None:
    told: list[tuple[int, bool]] = []
    gc.collect()  # what other tests have left is not to be freed meanwhile
    most = Gauge().own() + 64 * MIB
    inbox = GaugedInbox(lambda _: True, most, lambda resident, is_fresh: told.append((resident, is_fresh)))
    inbox.put([arrival(1), arrival(2), arrival(3)])
    inbox.take()
    assert told == []
    held = b"x" * (256 * MIB)
    inbox.take()
    inbox.take()
    assert len(told) == 1
    ((resident, is_fresh),) = told
    assert resident > most
    assert not is_fresh
    del held


def test_an_inbox_that_tells_before_the_first_call_says_so() -> None:
    told: list[tuple[int, bool]] = []
    inbox = GaugedInbox(lambda _: True, MIB, lambda resident, is_fresh: told.append((resident, is_fresh)))
    inbox.put([arrival(1)])
    inbox.take()
    assert [is_fresh for _, is_fresh in told] == [True]
