"""Whatever comes over a connection, it ends in words that were understood or in the end of that connection alone.

`FUZZ_SEED` repeats a run: the seed is in the message of a failure.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import pickle
import random
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import msgpack  # type: ignore[import-untyped] # pyright: ignore[reportMissingTypeStubs]

from poise._lanes.actor import Actor
from poise._lanes.caller_link import CallerLink
from poise._lanes.host_lane import HostLane
from poise._protocol.exceptions import pack_exception
from poise._protocol.frames import MAGIC, pack_frames
from poise._protocol.messages import unload
from poise._worker.inbox import Inbox
from poise._worker.link import Link
from poise._worker.shelf import FunctionShelf
from tests.lanes.ear import Ear

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

SEED = int(os.environ.get("FUZZ_SEED", "20"))
CASES = 4000
SECONDS = 10.0
"""In each direction, at most."""
STRANGE: list[Any] = [
    None, True, -1, 0, 1, 7, 2**63, 2**64 - 1, 1.5, float("nan"), float("inf"), "", "text", b"", b"\x80", b"\x80\x05N.",
    [], [[]], {}, {1: 2}, [None], [1, "a"], [b"x", 1], [None, 0], [None, 2**40], [b"\x80\x05N.", -1], [[1], 1],
    msgpack.ExtType(5, b"x"), msgpack.Timestamp(1), pickle.dumps(("a", "b", "c", None, "d")), "x" * 1000,
]  # fmt: skip
FROM_CALLER: list[list[Any]] = [
    [0, 1, "method", pickle.dumps(((1,), {})), None, None, None],
    [0, 3, "method", pickle.dumps(((1,), {})), None, 1, {"key": b"k"}],
    [0, 2, b"digest", pickle.dumps((1,)), 16, 2, None],
    [1, b"digest", pickle.dumps(len)],
    [2, [1, 2, 3]],
    [3, 2],
    [4, 2, 16],
]
FROM_WORKER: list[list[Any]] = [
    [5, 1, 0, pickle.dumps(1), 0.5],
    [5, 2, 1, pack_exception(ValueError("no")), 0.5],
    [5, 3, 2, None, 0.0],
    [6, 4, pickle.dumps("item")],
    [7, [1, 2]],
    [8],
    [9, 5],
    [10, 6, 7],
    [12, [b"no record"], 3],
]


def make(chance: random.Random, patterns: list[list[Any]]) -> bytes:
    """Something that might come."""
    kind = chance.randrange(6)
    if kind == 0:
        return chance.randbytes(chance.randrange(200))
    if kind == 1:  # a head that promises anything
        return MAGIC + chance.randbytes(6) + chance.randbytes(chance.randrange(100))
    if kind == 2:  # deep, or no list of messages
        depth = chance.choice([1, 10, 500, 600, 5000])
        return frame(b"\x91" * depth + b"\xc0")
    if kind == 3:
        return frame(cast("bytes", msgpack.packb(chance.choice(STRANGE))))
    messages = [list(chance.choice(patterns)) for _ in range(chance.randrange(1, 5))]
    if kind == 4:  # bytes flipped
        real = bytearray(b"".join(bytes(piece) for piece in pack_frames([unload(each) for each in messages])))
        for _ in range(chance.randrange(1, 4)):
            real[chance.randrange(len(real))] ^= chance.randrange(1, 256)
        return bytes(real)
    broken = chance.choice(messages)  # fields of wrong kinds, too many or too few
    how = chance.randrange(4)
    if how == 0 or len(broken) == 1:
        broken[chance.randrange(len(broken))] = chance.choice(STRANGE)
    elif how == 1:
        broken.append(chance.choice(STRANGE))
    elif how == 2:
        broken.pop()
    else:
        messages.append(chance.choice(STRANGE))
    return frame(cast("bytes", msgpack.packb(messages)))


def frame(body: bytes) -> bytes:
    return MAGIC + b"\0\0" + len(body).to_bytes(4, "big") + body


def try_all(patterns: list[list[Any]], one: Callable[[bytes], None]) -> None:
    """Run cases until there are enough, or the time is over."""
    deadline = time.monotonic() + SECONDS
    for number in range(CASES):
        if time.monotonic() > deadline:
            break
        seed = SEED * CASES + number
        data = make(random.Random(seed), patterns)
        try:
            one(data)
        except BaseException as error:
            raise AssertionError(f"FUZZ_SEED={SEED}, case {number}: {data[:200]!r}") from error


class Tape:
    """A connection on which this comes, and then the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.is_closed = False

    def receive_into(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self._data))
        buffer[:count] = self._data[:count]
        self._data = self._data[count:]
        return count

    def send(self, pieces: list[memoryview]) -> None: ...

    def takes_now(self) -> bool:
        return True

    def close(self) -> None:
        self.is_closed = True


def test_a_worker_lives_through_whatever_comes_over_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:  # G11
    escaped: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", escaped.append)
    inbox = Inbox()

    def hear(data: bytes) -> None:
        tape = Tape(data)
        own = Inbox()
        link = Link(tape, own, FunctionShelf(object()), lambda _reply: None)
        link.run()
        assert tape.is_closed
        calls = []
        while (call := own.take()) is not None:
            calls.append(call)
        assert not calls  # the end of the connection drops what has not begun
        assert not len(own)
        assert not escaped

    try_all(FROM_CALLER, hear)
    assert not len(inbox)
    for thread in threading.enumerate():
        if thread.name == "poise-express-flush":
            thread.join(30)


class Refs:
    """Stands for the host and for whatever Ray would answer: nothing comes of it."""

    def __getattr__(self, name: str) -> Refs:
        return self

    def remote(self, *_args: Any) -> Refs:
        return self

    def future(self) -> concurrent.futures.Future[Any]:
        return concurrent.futures.Future()


class Wire:
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        self.is_aborted = False

    def get_extra_info(self, _name: str) -> Wire:
        return self

    family = 0

    def fileno(self) -> int:
        return -1

    def write(self, data: Any) -> None: ...

    def abort(self) -> None:
        self.is_aborted = True


async def test_a_caller_lives_through_whatever_comes_from_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:  # G1
    monkeypatch.setattr(Actor, "may_call", lambda _actor: False)
    escaped: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: escaped.append(context))

    def hear(data: bytes) -> None:
        ear = Ear()
        lane = HostLane(1, ear, Refs(), Refs())
        lane.actor._forgotten.detach()  # noqa: SLF001
        express = lane.new_express()
        link = CallerLink(express)
        wire = Wire()
        link.connection_made(cast("asyncio.BaseTransport", wire))
        express.use(link)
        lane.use(express)
        while data and not wire.is_aborted:
            room = link.get_buffer(-1)
            count = min(len(room), len(data))
            room[:count] = data[:count]
            data = data[count:]
            link.buffer_updated(count)
        assert all(type(call_id) is int for call_id in [*ear.answers, *ear.items, *ear.begun])
        link.connection_lost(None)
        assert len(ear.lost) == 1
        assert not escaped

    try_all(FROM_WORKER, hear)
    gc.collect()
