"""A link between nodes that is cut, or whose other host is dead: the kernel tells, and nobody else.

And a peer that is alive and does not read, for many times as long, is left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pytest

import poise
from poise._lanes.host_lane import HostLane
from poise._protocol.certificates import Authority
from poise._protocol.peer import CALLER, LOOKS, PROBES, LinkWatch, Standing, keep_alive
from poise._protocol.tls import tls_context
from poise._worker.connections import TlsConnection
from poise.view import engine_of
from tests.contract.conftest import tls_pool
from tests.contract.desk import Desk

if TYPE_CHECKING:
    import ssl

    from tests.gate import Gate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux's")

SO_ATTACH_FILTER = 26
DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # classic BPF: return 0 bytes of the packet

Pair = tuple[socket.socket, socket.socket]
Story = Callable[[Pair], None]


@contextlib.contextmanager
def connected() -> Iterator[Pair]:
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname())
        there, _ = listener.accept()
    with here, there:
        here.settimeout(30)
        yield here, there


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two ends of a TCP connection."""
    with connected() as ends:
        yield ends


def socket_of(lane: Any) -> socket.socket:
    assert isinstance(lane, HostLane)
    assert lane._express is not None  # noqa: SLF001
    assert lane._express._link is not None  # noqa: SLF001
    return lane._express._link.endpoint  # type: ignore[no-any-return] # noqa: SLF001


def cut(end: Any) -> None:
    """Let nothing reach this end any more, and so nothing be acknowledged by it."""
    program = ctypes.create_string_buffer(DROP_ALL)
    end.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))


TIMEOUT: Final = 1.0
"""Seconds."""
LIMIT: Final = TIMEOUT * (PROBES + 1)
"""Seconds that even a peer that nobody asks anything is not silent for: its kernel probes each second."""
PATIENCE: Final = round(LIMIT / TIMEOUT * LOOKS)
"""As many looks."""
LONG: Final = 3 * PATIENCE


def watch(end: socket.socket) -> LinkWatch:
    """Have the end watched as a pool would do it."""
    keep_alive(end, TIMEOUT)
    return LinkWatch(end, TIMEOUT)


def fill(end: socket.socket) -> int:
    """Write until nothing more is taken; return how much was."""
    end.setblocking(False)
    written = 0
    waits = 0
    while waits < 20:  # the kernel moves it on meanwhile
        try:
            written += end.send(bytes(1 << 20))
            waits = 0
        except BlockingIOError:
            waits += 1
            time.sleep(0.01)
    return written


def look(watch: LinkWatch, most: int) -> Standing:
    """Look so many times, or until it is settled one way or the other."""
    standing = Standing.OPEN
    for _ in range(most):
        time.sleep(watch.interval)
        if (standing := watch.look()) is not Standing.OPEN:
            break
    return standing


# ---------------------------------------------------------------------------------------------------------------------
# Links alone. Each of these waits for the kernel most of the time, so they do it together.


def a_cut_link_that_is_idle_is_noticed_by_the_kernel(pair: Pair) -> None:
    here, there = pair
    keep_alive(here, 2.0)
    cut(there)
    began = time.monotonic()
    with pytest.raises(OSError) as caught:  # noqa: PT011 - which one is looked at below
        here.recv(1)
    assert caught.value.errno == errno.ETIMEDOUT
    assert time.monotonic() - began >= 1.0


def a_cut_link_is_noticed_when_something_is_on_its_way(pair: Pair, *, other_also_probes: bool = False) -> None:
    here, there = pair
    watching = watch(here)
    cut(there)
    if other_also_probes:
        cut(here)
        keep_alive(there, TIMEOUT)
    here.sendall(b"is anybody there?")
    assert look(watching, LOOKS - 1) is Standing.OPEN
    assert look(watching, 4) is Standing.GONE


def a_cut_link_is_noticed_when_both_sides_probe(pair: Pair) -> None:
    a_cut_link_is_noticed_when_something_is_on_its_way(pair, other_also_probes=True)


def a_cut_link_is_noticed_when_the_peer_had_no_room_for_more(pair: Pair, *, shut_for: int = 0) -> None:
    here, there = pair
    watching = watch(here)
    watch(there)
    fill(here)
    assert look(watching, shut_for) is Standing.OPEN
    cut(there)
    cut(here)
    assert look(watching, LONG) is Standing.GONE


def a_cut_link_is_noticed_when_the_peer_has_had_no_room_for_long(pair: Pair) -> None:
    a_cut_link_is_noticed_when_the_peer_had_no_room_for_more(pair, shut_for=LONG)


def a_live_peer_that_does_not_read_is_left_alone_and_gets_it_all_in_the_end(pair: Pair) -> None:
    here, there = pair
    watching = watch(here)
    watch(there)
    written = fill(here)
    assert look(watching, LONG) is Standing.OPEN
    there.settimeout(30)
    while written:
        written -= len(there.recv(1 << 20))
    assert look(watching, LONG) is Standing.SETTLED


def two_live_peers_of_which_neither_reads_leave_each_other_alone(pair: Pair) -> None:
    watching = [watch(end) for end in pair]
    for end in pair:
        fill(end)
    for _ in range(LONG):
        time.sleep(watching[0].interval)
        assert [each.look() for each in watching] == [Standing.OPEN, Standing.OPEN]


def a_caller_that_was_held_up_between_two_looks_judges_by_what_it_sees_afterwards(pair: Pair) -> None:
    here, there = pair
    watching = watch(here)
    watch(there)
    fill(here)
    assert look(watching, PATIENCE) is Standing.OPEN
    time.sleep(2 * LIMIT)
    assert look(watching, PATIENCE) is Standing.OPEN


def what_is_acknowledged_needs_no_watch(pair: Pair) -> None:
    here, _ = pair
    watching = watch(here)
    here.sendall(b"take your time")
    assert look(watching, LONG) is Standing.SETTLED


def a_peer_that_is_alive_and_says_nothing_is_left_alone(pair: Pair) -> None:
    here, there = pair
    keep_alive(here, 1.0)
    here.settimeout(3.0)
    here.sendall(b"take your time")  # never read: the peer's kernel answers all the same
    with pytest.raises(TimeoutError) as caught:
        here.recv(1)
    assert caught.value.errno is None  # our own patience, not the kernel's word
    there.sendall(b"!")
    assert here.recv(1) == b"!"


STORIES: Final[list[Story]] = [
    a_cut_link_that_is_idle_is_noticed_by_the_kernel,
    a_cut_link_is_noticed_when_something_is_on_its_way,
    a_cut_link_is_noticed_when_both_sides_probe,
    a_cut_link_is_noticed_when_the_peer_had_no_room_for_more,
    a_cut_link_is_noticed_when_the_peer_has_had_no_room_for_long,
    a_live_peer_that_does_not_read_is_left_alone_and_gets_it_all_in_the_end,
    two_live_peers_of_which_neither_reads_leave_each_other_alone,
    a_caller_that_was_held_up_between_two_looks_judges_by_what_it_sees_afterwards,
    what_is_acknowledged_needs_no_watch,
    a_peer_that_is_alive_and_says_nothing_is_left_alone,
]


def tell(story: Story) -> None:
    with connected() as pair:
        story(pair)


@pytest.fixture(scope="module")
def told() -> Iterator[dict[Story, Future[None]]]:
    """What becomes of the stories, all of which are told at once."""
    with ThreadPoolExecutor(len(STORIES)) as threads:
        yield {story: threads.submit(tell, story) for story in STORIES}


@pytest.mark.parametrize("story", STORIES)
def test_of_a_link(told: dict[Story, Future[None]], story: Story) -> None:
    told[story].result()


# ---------------------------------------------------------------------------------------------------------------------
# Links of workers


@pytest.mark.usefixtures("shared_ray")
async def test_calls_on_a_worker_whose_link_is_cut_are_lost_and_it_is_replaced(gate: Gate) -> None:  # G1, G2, G8
    async with tls_pool(Desk, size=1, link_timeout=2.0) as pool:
        begun = pool.submit(Desk.hold, gate.path)
        waiting = pool.submit(Desk.echo, "next")
        await gate.reached()
        (lane,) = engine_of(pool)._opened.lanes.values()  # noqa: SLF001
        cut(socket_of(lane))
        with pytest.raises(poise.WorkerLost, match="the connection to it was lost"):
            await asyncio.wait_for(begun, 30)
        assert await waiting == "next"
        assert pool.stats().deaths == 1


@pytest.mark.usefixtures("shared_ray")
async def test_a_worker_that_does_not_read_for_long_is_not_taken_for_dead() -> None:
    async with tls_pool(Desk, size=1, link_timeout=TIMEOUT) as pool:
        (worker,) = pool.stats().workers
        assert worker.pid is not None
        await pool.run(Desk.echo, 0)
        os.kill(worker.pid, signal.SIGSTOP)  # as C code that holds the GIL does it, only more so
        try:
            calls = [pool.submit(Desk.echo, bytes(10 << 20)) for _ in range(3)]
            await asyncio.sleep(3 * LIMIT)
        finally:
            os.kill(worker.pid, signal.SIGCONT)
        for call in calls:
            assert len(await call) == 10 << 20
        assert pool.stats().deaths == 0


@pytest.mark.usefixtures("shared_ray")
async def test_a_caller_whose_loop_is_blocked_for_long_loses_no_replies() -> None:
    async with tls_pool(Desk, size=1, concurrency=4, link_timeout=TIMEOUT) as pool:
        calls = [pool.submit(Desk.echo, bytes(10 << 20)) for _ in range(3)]
        await asyncio.sleep(0.1)
        time.sleep(3 * LIMIT)  # noqa: ASYNC251 - that is the point
        for call in calls:
            assert len(await call) == 10 << 20
        assert pool.stats().deaths == 0


@pytest.mark.usefixtures("shared_ray")
async def test_a_link_that_is_cut_while_the_worker_does_not_read_is_noticed() -> None:  # G1, G8
    async with tls_pool(Desk, size=1, link_timeout=TIMEOUT) as pool:
        (worker,) = pool.stats().workers
        assert worker.pid is not None
        (lane,) = engine_of(pool)._opened.lanes.values()  # noqa: SLF001
        os.kill(worker.pid, signal.SIGSTOP)
        call = pool.submit(Desk.echo, bytes(10 << 20))
        await asyncio.sleep(1)
        cut(socket_of(lane))
        with pytest.raises(poise.WorkerLost, match="the worker's host is silent"):
            await asyncio.wait_for(call, 60)
        assert await pool.run(Desk.echo, 1) == 1


@pytest.mark.parametrize("megabytes", [0, 40], ids=["little", "more than goes out"])
def test_a_worker_notices_that_the_link_to_its_caller_is_cut(pair: Pair, megabytes: int) -> None:  # G12
    here, there = pair
    authority = Authority()
    context = tls_context(authority.issue(CALLER), is_server=False)
    context.check_hostname = False
    callers: list[ssl.SSLSocket] = []
    shaking = threading.Thread(target=lambda: callers.append(context.wrap_socket(there)))
    shaking.start()
    connection = TlsConnection(here, tls_context(authority.issue("worker"), is_server=True), 30.0)
    shaking.join()
    connection.watch(TIMEOUT)
    cut(callers[0])
    writing = threading.Thread(target=write, args=(connection, megabytes))
    writing.start()
    assert is_ended(connection)
    connection.close()
    writing.join(30)
    assert not writing.is_alive()
    callers[0].close()
    for thread in threading.enumerate():
        if thread.name == "poise-express-watch":
            thread.join(30)
            assert not thread.is_alive()


def write(connection: TlsConnection, megabytes: int) -> None:
    with contextlib.suppress(OSError):
        connection.send([memoryview(bytes((megabytes << 20) + 1))])


def is_ended(connection: TlsConnection) -> bool:
    """Wait for something from the peer; return whether the end came instead."""
    try:
        return connection.receive_into(memoryview(bytearray(1))) == 0
    except OSError:
        return True
