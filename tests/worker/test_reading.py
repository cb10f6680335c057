"""The two threads of a worker that take turns at reading: every message is heard, once and in order, by either."""

from __future__ import annotations

import random
import socket
import threading
import time
from queue import Queue, SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from poise._protocol.frames import Frame, FrameError, pack_frame
from poise._protocol.messages import CALL, CallMessage
from poise._worker.connections import PlainConnection
from poise._worker.inbox import Arrival, Inbox
from poise._worker.reading import CAN_TAKE_TURNS, Turns

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not CAN_TAKE_TURNS, reason="there is no epoll")

PATIENCE = 20.0


class Desk:
    """A worker: a thread that runs its calls and leads, and one that follows. A call is what it does and a number."""

    def __init__(self) -> None:
        self.caller, peer = socket.socketpair()
        self.connection = PlainConnection(peer)
        self.inbox = Inbox()
        self.turns = Turns(self.connection, self.inbox, self._hear)
        self.inbox.lead = self.turns.lead
        self.begun: SimpleQueue[int] = SimpleQueue()
        self.ended: SimpleQueue[int] = SimpleQueue()
        self.heard: SimpleQueue[tuple[Any, threading.Thread]] = SimpleQueue()
        """What was said beside calls and each call's number, and who has read it."""
        self.gate = threading.Semaphore(0)
        self.outcome: Queue[BaseException | None] = Queue()
        self.runner = threading.Thread(target=self._run)
        self.reader = threading.Thread(target=self._follow)
        self.runner.start()
        self.reader.start()

    def say(self, *messages: Any) -> None:
        """Send messages to the worker: a number and what to do is a call, anything else is just heard."""
        for piece in pack_frame(messages):
            self.caller.sendall(piece)

    def _hear(self, frames: list[Frame]) -> None:
        for messages, _ in frames:
            for message in messages:
                if isinstance(message, list):
                    number, todo = message
                    self.heard.put((number, threading.current_thread()))
                    self.inbox.put([Arrival(CallMessage(CALL, number, todo, b""))])
                elif message == "open":
                    self.heard.put((message, threading.current_thread()))
                    self.gate.release()
                else:
                    raise FrameError(message)

    def _run(self) -> None:
        while (call := self.inbox.take()) is not None:
            self.begun.put(call.call_id)
            if call.target == "wait":
                assert self.gate.acquire(timeout=PATIENCE)
            self.inbox.ended(call.call_id)
            self.ended.put(call.call_id)

    def _follow(self) -> None:
        try:
            self.turns.follow()
        except (OSError, FrameError) as error:
            self.outcome.put(error)
        else:
            self.outcome.put(None)
        finally:
            self.inbox.close()
            self.connection.close()

    def leave(self) -> None:
        self.caller.close()
        self.gate.release()
        self.runner.join(PATIENCE)
        self.reader.join(PATIENCE)
        assert not self.runner.is_alive()
        assert not self.reader.is_alive()


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.leave()


def led(desk: Desk) -> None:
    """Have one call done: from now on the runner leads, for it was not there when the other began to read."""
    desk.say([0, ""])
    assert desk.begun.get(timeout=PATIENCE) == desk.ended.get(timeout=PATIENCE) == desk.heard.get()[0] == 0
    until_idle(desk)


def until_idle(desk: Desk) -> None:
    """Wait until the runner waits, which is a moment after its call has ended; until then either may read."""
    deadline = time.monotonic() + PATIENCE
    while desk.inbox.on_news is None:
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def test_the_thread_that_runs_the_calls_reads_those_for_which_it_waits(desk: Desk) -> None:
    led(desk)
    for number in range(1, 20):
        desk.say([number, ""])
        assert desk.ended.get(timeout=PATIENCE) == number
        assert desk.heard.get() == (number, desk.runner)
        until_idle(desk)


def test_the_other_reads_while_a_call_runs(desk: Desk) -> None:
    led(desk)
    for number in range(1, 10):
        desk.say([number, "wait"])
        assert desk.begun.get(timeout=PATIENCE) == number
        desk.say("open")
        assert desk.ended.get(timeout=PATIENCE) == number
        assert desk.heard.get() == (number, desk.runner)
        assert desk.heard.get() == ("open", desk.reader)
        until_idle(desk)


def test_what_was_read_with_a_call_and_what_comes_right_behind_it_are_heard(desk: Desk) -> None:
    led(desk)
    desk.say([1, "wait"], "open", [2, "wait"])
    desk.say("open")
    desk.say([3, ""])
    assert [desk.ended.get(timeout=PATIENCE) for _ in range(3)] == [1, 2, 3]


def test_a_call_that_comes_another_way_finds_the_thread_that_reads(desk: Desk) -> None:
    led(desk)
    for number in range(1, 50):
        desk.inbox.put([Arrival(CallMessage(CALL, number, "", b""))])
        assert desk.ended.get(timeout=PATIENCE) == number


@pytest.mark.parametrize("busy", [False, True])
def test_both_end_with_the_connection(desk: Desk, busy: bool) -> None:
    led(desk)
    if busy:
        desk.say([1, "wait"])
        desk.begun.get(timeout=PATIENCE)
    desk.caller.close()
    assert desk.outcome.get(timeout=PATIENCE) is None


def test_both_end_when_the_connection_is_closed_here(desk: Desk) -> None:  # as after a failed write
    led(desk)
    desk.connection.close()
    desk.outcome.get(timeout=PATIENCE)


@pytest.mark.parametrize("busy", [False, True])
def test_what_is_no_message_is_told_where_the_connection_is_ended(desk: Desk, busy: bool) -> None:
    led(desk)
    if busy:
        desk.say([1, "wait"])
        desk.begun.get(timeout=PATIENCE)
    desk.say("nonsense")
    assert isinstance(desk.outcome.get(timeout=PATIENCE), FrameError)


def test_closing_the_inbox_wakes_the_thread_that_reads(desk: Desk) -> None:
    led(desk)
    desk.inbox.close()
    desk.runner.join(PATIENCE)
    assert not desk.runner.is_alive()


@pytest.mark.parametrize("seed", range(4))
def test_of_many_calls_at_odd_moments_each_runs_once_and_in_order(desk: Desk, seed: int) -> None:
    chance = random.Random(seed)
    awaited = []
    for number in range(1, 1500):
        todo = chance.choice(["", "", "", "wait"])
        parts: list[Any] = [[number, todo]]
        if todo == "wait":
            parts.append("open")
        if chance.random() < 0.5:
            desk.say(*parts)
        else:
            for part in parts:
                desk.say(part)
        awaited.append(number)
        if chance.random() < 0.3:
            assert [desk.ended.get(timeout=PATIENCE) for _ in awaited] == awaited
            awaited.clear()
    assert [desk.ended.get(timeout=PATIENCE) for _ in awaited] == awaited
