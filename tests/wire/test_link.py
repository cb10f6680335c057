"""A link between nodes that is cut, or whose other host is dead: the kernel tells, and nobody else."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

import poise
from poise._wire.express import ExpressLane
from poise._wire.peer import keep_alive
from tests.contract.conftest import TlsPool
from tests.contract.desk import Desk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.gate import Gate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux's")

SO_ATTACH_FILTER = 26
DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # classic BPF: return 0 bytes of the packet

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname())
        there, _ = listener.accept()
    with here, there:
        here.settimeout(30)
        yield here, there


def cut(end: Any) -> None:
    """Let nothing reach this end any more, and so nothing be acknowledged by it."""
    program = ctypes.create_string_buffer(DROP_ALL)
    end.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))


@pytest.mark.parametrize("is_idle", [False, True])
def test_a_cut_link_is_noticed_after_its_timeout(pair: Pair, is_idle: bool) -> None:
    here, there = pair
    keep_alive(here, 2.0)
    cut(there)
    began = time.monotonic()
    if not is_idle:
        here.sendall(b"is anybody there?")
    with pytest.raises(OSError) as caught:  # noqa: PT011 - which one is looked at below
        here.recv(1)
    assert caught.value.errno == errno.ETIMEDOUT
    assert 1.0 <= time.monotonic() - began < 15.0


def test_a_peer_that_is_alive_and_says_nothing_is_left_alone(pair: Pair) -> None:
    here, there = pair
    keep_alive(here, 1.0)
    here.settimeout(3.0)
    here.sendall(b"take your time")  # never read: the peer's kernel answers all the same
    with pytest.raises(TimeoutError) as caught:
        here.recv(1)
    assert caught.value.errno is None  # our own patience, not the kernel's word
    there.sendall(b"!")
    assert here.recv(1) == b"!"


@pytest.mark.usefixtures("shared_ray")
async def test_calls_on_a_worker_whose_link_is_cut_are_lost_and_it_is_replaced(gate: Gate) -> None:  # G1, G2, G8
    async with TlsPool(Desk, size=1, link_timeout=2.0) as pool:
        begun = pool.submit(Desk.hold, gate.path)
        waiting = pool.submit(Desk.echo, "next")
        await gate.reached()
        (lane,) = pool._home.dispatcher.lanes.values()  # noqa: SLF001
        assert isinstance(lane, ExpressLane)
        assert lane._link is not None  # noqa: SLF001
        cut(lane._link.endpoint)  # noqa: SLF001
        with pytest.raises(poise.WorkerLost, match="the connection to it was lost"):
            await asyncio.wait_for(begun, 30)
        assert await waiting == "next"
        assert pool.stats().deaths == 1
