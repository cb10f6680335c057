"""The inbox: order, recall, cancellation, announcements."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from poise._protocol.marks import MARKS, MARKS_SIZE, UNMARKED, Marks
from poise._protocol.messages import CALL, CallMessage
from poise._worker.inbox import ANNOUNCED_AT_ONCE, Arrival, Inbox

if TYPE_CHECKING:
    from collections.abc import Sequence


def arrivals(*call_ids: int) -> list[Arrival]:
    return [Arrival(CallMessage(CALL, call_id, "method", b"")) for call_id in call_ids]


def taken(inbox: Inbox) -> int:
    call = inbox.take()
    assert call is not None
    return call.call_id


def test_calls_are_taken_in_the_order_in_which_they_came() -> None:  # G5
    inbox = Inbox()
    inbox.put(arrivals(3, 1))
    inbox.put(arrivals(2))
    assert [taken(inbox) for _ in range(3)] == [3, 1, 2]


def test_recall_returns_what_has_not_begun_and_nothing_else() -> None:  # G4
    inbox = Inbox()
    inbox.put(arrivals(1, 2, 3))
    assert taken(inbox) == 1
    assert inbox.recall([1, 2, 99]) == [2]
    assert inbox.recall([2]) == []
    assert taken(inbox) == 3
    assert len(inbox) == 0


def test_a_recalled_call_may_come_again() -> None:
    inbox = Inbox()
    inbox.put(arrivals(1))
    inbox.recall([1])
    inbox.put(arrivals(2, 1))
    assert [taken(inbox), taken(inbox)] == [2, 1]


def test_cancel_removes_what_has_not_begun() -> None:
    inbox = Inbox()
    inbox.put(arrivals(1))
    assert inbox.cancel(1)
    assert not inbox.cancel(1)
    assert not inbox.cancel(99)


def test_cancel_tells_a_running_call_to_stop() -> None:
    inbox = Inbox()
    inbox.put(arrivals(1))
    call = inbox.take()
    assert call is not None
    stopped: list[bool] = []
    call.stop = lambda: stopped.append(True)
    assert not inbox.cancel(1)
    assert call.cancelled
    assert stopped == [True]


def test_each_call_is_taken_or_recalled_and_never_both() -> None:  # G2
    inbox = Inbox()
    count = 20_000
    begun: list[int] = []

    def take_all() -> None:
        while (call := inbox.take()) is not None:
            begun.append(call.call_id)
            inbox.ended(call.call_id)

    threads = [threading.Thread(target=take_all) for _ in range(2)]
    for thread in threads:
        thread.start()
    back: list[int] = []
    for first in range(0, count, 10):
        inbox.put(arrivals(*range(first, first + 10)))
        back += inbox.recall(range(first + 5, first + 10))
    while len(inbox):
        pass
    inbox.close()
    for thread in threads:
        thread.join()
    assert sorted(begun + back) == list(range(count))


def test_a_call_is_announced_before_it_is_taken_and_once() -> None:
    announced: list[list[int]] = []

    def announce(call_ids: Sequence[int]) -> bool:
        announced.append(list(call_ids))
        return True

    inbox = Inbox(announce)
    inbox.put(arrivals(*range(ANNOUNCED_AT_ONCE + 2)))
    assert taken(inbox) == 0
    assert announced == [list(range(ANNOUNCED_AT_ONCE))]
    for _ in range(ANNOUNCED_AT_ONCE):
        taken(inbox)
    assert announced[1:] == [[ANNOUNCED_AT_ONCE, ANNOUNCED_AT_ONCE + 1]]


def test_an_announced_call_may_still_be_recalled() -> None:
    inbox = Inbox(lambda call_ids: True)
    inbox.put(arrivals(1, 2))
    assert taken(inbox) == 1
    assert inbox.recall([2]) == [2]


def test_a_recalled_call_is_not_announced() -> None:
    announced: list[int] = []

    def announce(call_ids: Sequence[int]) -> bool:
        announced.extend(call_ids)
        return True

    inbox = Inbox(announce)
    inbox.put(arrivals(1, 2))
    inbox.recall([1])
    assert taken(inbox) == 2
    assert announced == [2]


def test_what_cannot_be_announced_does_not_begin() -> None:  # G2
    inbox = Inbox(lambda call_ids: False)
    inbox.put(arrivals(1, 2))
    assert inbox.take() is None
    assert not len(inbox)
    assert inbox.take() is None


def test_no_call_begins_while_another_thread_announces_it() -> None:  # G2
    announcing, written = threading.Event(), threading.Event()
    announced: list[list[int]] = []

    def announce(call_ids: Sequence[int]) -> bool:
        if not announcing.is_set():
            announcing.set()
            assert written.wait(10)
        announced.append(list(call_ids))
        return True

    inbox = Inbox(announce)
    inbox.put(arrivals(1, 2))
    first = threading.Thread(target=taken, args=(inbox,))
    first.start()
    assert announcing.wait(10)
    assert taken(inbox) == 2
    assert announced == [[1, 2]]
    written.set()
    first.join()


def test_close_ends_every_take() -> None:
    inbox = Inbox()
    inbox.put(arrivals(1))
    inbox.close()
    assert inbox.take() is None
    assert inbox.take() is None


# ---------------------------------------------------------------- withdrawn calls


class Shared:
    """An inbox whose caller can withdraw calls, and what it gives back."""

    def __init__(self) -> None:
        memory = memoryview(bytearray(MARKS_SIZE))
        self.marks = Marks(memory)
        self.inbox = Inbox(lambda call_ids: True)
        self.inbox.marks = Marks(memory)
        self.given_back: list[int] = []
        self.inbox.give_back = self.given_back.append

    def put(self, call_id: int, mark: int | None) -> None:
        call = Arrival(CallMessage(CALL, call_id, "method", b""))
        call.mark = mark
        self.inbox.put((call,))


def test_a_withdrawn_call_does_not_begin_though_nobody_has_told_the_inbox() -> None:  # G2
    shared = Shared()
    shared.put(1, 10)
    shared.put(2, 20)
    shared.put(3, UNMARKED)
    shared.put(4, None)
    assert shared.marks.withdraw([10]) == [True]
    assert [taken(shared.inbox) for _ in range(3)] == [2, 3, 4]
    assert shared.given_back == [1]
    assert shared.inbox.recall([1]) == []
    assert shared.marks.withdraw([20]) == [False]


def test_a_withdrawn_call_may_come_again_under_a_new_mark() -> None:
    shared = Shared()
    shared.put(1, 10)
    shared.marks.withdraw([10])
    assert shared.inbox.recall([1]) == [1]
    shared.put(1, 11)
    assert taken(shared.inbox) == 1
    assert shared.given_back == []


def test_each_call_begins_or_is_withdrawn_and_never_both() -> None:  # G2
    shared = Shared()
    begun: list[int] = []

    def take_all() -> None:
        while (call := shared.inbox.take()) is not None:
            begun.append(call.call_id)
            shared.inbox.ended(call.call_id)

    threads = [threading.Thread(target=take_all) for _ in range(2)]
    for thread in threads:
        thread.start()
    withdrawn: list[int] = []
    for call_id in range(MARKS):
        shared.put(call_id, call_id)
        if call_id % 4 == 3:
            numbers = list(range(call_id - 3, call_id + 1))
            gone = shared.marks.withdraw(numbers)
            withdrawn += [number for number, is_gone in zip(numbers, gone, strict=True) if is_gone]
    while len(shared.inbox):
        pass
    shared.inbox.close()
    for thread in threads:
        thread.join()
    assert set(withdrawn) <= set(shared.given_back)
    assert sorted(begun + shared.given_back) == list(range(MARKS))
