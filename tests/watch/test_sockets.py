"""Whoever may look at a pool finds it and is answered; nobody else is, and nobody can hold it up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import poise
from poise._engine.watching import watched
from poise._places import own_directories, own_directory
from poise._watch import server
from poise._watch.sockets import SILENT, Line, Refused, find
from poise.testing import LocalPool
from poise.view import engine_of
from tests.gate import Gate, wait_at

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

PROGRAM = """
import asyncio
from poise.testing import LocalPool

async def main():
    async with LocalPool(size=1):
        print("ready", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def aside(function: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """Call it on another thread, as another process would."""
    return await asyncio.to_thread(function, *args, **named)


@contextlib.asynccontextmanager
async def line_to(place: str) -> AsyncGenerator[Line]:
    (name,) = os.listdir(place)
    line = await aside(Line, os.path.join(place, name))
    try:
        yield line
    finally:
        line.close()


def files(place: str) -> list[str]:
    return os.listdir(place) if os.path.isdir(place) else []


async def test_a_pool_that_is_watched_is_found_looked_at_and_gone_with_its_end(place: str) -> None:
    async with LocalPool(size=2, min_ready=2, watch=True) as pool:
        (found,) = await aside(find)
        assert (found.name, found.program, found.state) == ("functions", os.getpid(), "open")
        assert stat.S_IMODE(os.stat(place).st_mode) == 0o700
        async with line_to(place) as line:
            await pool.run(abs, -1)
            picture = await aside(line.ask, do="look")
            assert (picture["pool"], picture["ready"], picture["totals"]["completed"]) == ("functions", 2, 1)
            assert len(picture["bars"]) == 1
            changes = await aside(line.ask, do="look", since=picture["mark"], bars=False)
            assert changes["bars"] == []
            assert len(changes["seconds"]) <= 2
            await pool.aclose()
            with pytest.raises(Refused):
                await aside(line.ask, do="look")
    assert files(place) == []
    assert await aside(find) == []


async def test_others_are_not_shown_unless_the_variable_says_so(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with LocalPool(size=1):
        assert files(place) == []
    monkeypatch.setenv("POISE_WATCH", "1")
    async with LocalPool(size=1), LocalPool(size=1):
        assert len(await aside(find)) == 2
    assert files(place) == []
    with poise.testing.local_pools(), poise.Executor(max_workers=1) as executor:
        assert executor.submit(abs, -1).result() == 1
        assert len(await aside(find)) == 1


async def test_workers_are_replaced_and_their_number_changed_and_the_pool_drained(place: str) -> None:
    async with LocalPool(size=1, watch=True) as pool, line_to(place) as line:
        assert await aside(line.ask, do="replace", worker=0) == "worker 0 was replaced by worker 1"
        with pytest.raises(Refused, match="the number of a worker that is ready: 1"):
            await aside(line.ask, do="replace", worker=0)
        assert "3 workers" in await aside(line.ask, do="resize", size=3)
        await pool.until_ready()
        assert pool.stats().ready == 3
        await aside(line.ask, do="resize", size=[1, 4])
        assert (pool.stats().least, pool.stats().most) == (1, 4)
        assert "takes no more calls" in await aside(line.ask, do="drain")
        assert pool.state == "draining"


async def test_a_draining_pool_finishes_what_it_has(place: str, gate: Gate) -> None:
    async with LocalPool(size=1, watch=True) as pool, line_to(place) as line:
        call = pool.submit(wait_at, gate.path)
        assert await aside(line.ask, do="drain") == "the pool takes no more calls, and finishes those that it has"
        with pytest.raises(poise.PoolClosed):
            pool.submit(abs, -1)
        gate.open()
        await call


async def sleep_at(gate: str) -> None:
    await asyncio.sleep(0)
    while not await asyncio.to_thread(os.path.exists, gate):
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_worker_tells_what_it_is_doing(place: str, make_gate: Callable[[str], Gate], concurrency: int) -> None:
    async with LocalPool(size=1, watch=True, concurrency=concurrency) as pool, line_to(place) as line:
        for function in (wait_at, sleep_at):
            gate = make_gate(function.__name__)
            call = pool.submit(function, gate.path)
            await pool.until(lambda stats: stats.running == 1)
            async with asyncio.timeout(10):
                while f"in {function.__name__}" not in (text := await aside(line.ask, do="stack", worker=0)):
                    await asyncio.sleep(0.01)
            assert __name__.replace(".", "/") in text or "gate.py" in text
            gate.open()
            await call
        with pytest.raises(Refused, match="a worker that has started: 0"):
            await aside(line.ask, do="stack", worker=7)


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (b"what\n", "Expecting value"),
        (b"[]\n", "object"),
        (b"{}\n", "do=None"),
        (b'{"do": "look", "since": -1}\n', "since=-1"),
        (b'{"do": "replace"}\n', "worker=-1"),
        (b'{"do": "replace", "worker": "x"}\n', "worker='x'"),
        (b'{"do": "resize", "size": "many"}\n', "size='many'"),
        (b'{"do": "resize", "size": -3}\n', "size=-3"),
        (b'{"do": ["look"]}\n', "do="),
        (b"[" * 4000 + b"\n", "recursion"),
        (b"{\xe9}\n", "utf"),
    ],
)
async def test_what_is_no_request_is_answered_with_what_is_wrong(place: str, request_: bytes, why: str) -> None:
    async with LocalPool(size=1, watch=True) as pool:
        (name,) = os.listdir(place)

        def ask() -> Any:
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(os.path.join(place, name))
                peer.sendall(request_)
                with peer.makefile("rb") as answers:
                    return json.loads(answers.readline())

        assert why in (await aside(ask))["error"]
        assert await pool.run(abs, -1) == 1


def is_cut(peer: socket.socket) -> bool:
    """Whether the other end closes it, within twenty seconds, though nothing is read."""
    poll = select.poll()
    poll.register(peer, select.POLLHUP)
    return bool(poll.poll(20_000))


async def test_who_does_not_read_or_does_not_end_is_cut_and_the_pool_goes_on(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "TAKES_IN", 0.2)
    monkeypatch.setattr(server, "ASKS_IN", 0.4)
    async with LocalPool(size=1, watch=True) as pool:
        (name,) = os.listdir(place)
        path = os.path.join(place, name)
        await asyncio.gather(*(pool.submit(abs, -number) for number in range(300)))

        def connect(first: bytes) -> socket.socket:
            peer = socket.socket(socket.AF_UNIX)
            peer.connect(path)
            if first:
                peer.sendall(first)
            return peer

        deaf = await aside(connect, b'{"do": "look"}\n' * 100)
        endless = await aside(connect, b"x" * (server.LINE + 1))
        silent = await aside(connect, b'{"do": ')
        began = time.monotonic()
        async with asyncio.timeout(10):
            while time.monotonic() - began < 0.6:
                await pool.run(abs, -1)
        for peer in (deaf, endless, silent):
            assert await aside(is_cut, peer)
            peer.close()
        crowd = [await aside(connect, b"") for _ in range(server.MOST + 1)]
        assert await aside(is_cut, crowd[-1])
        for peer in crowd:
            peer.close()
        async with asyncio.timeout(10):
            while not await aside(find):  # there is room again
                await asyncio.sleep(0.01)


async def test_a_blocked_loop_is_told_of(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poise._engine.desk.LOOKS_FOR", 0.05)
    async with LocalPool(size=1, watch=True), line_to(place) as line:
        seen: list[str] = []

        def look() -> None:
            try:
                line.ask(do="look")
            except Refused as refusal:
                seen.append(str(refusal))

        looking = threading.Thread(target=look)
        looking.start()
        looking.join(10)  # which blocks the loop
    assert "loop" in seen[0]


async def test_whoever_looks_without_end_leaves_the_loop_to_the_pool(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    monkeypatch.setattr("poise._engine.desk.sleep", rests.append)
    async with LocalPool(size=1, watch=True) as pool, line_to(place) as line:
        model = watched(engine_of(pool))
        monkeypatch.setattr(type(model), "changes", lambda *_, **__: time.sleep(0.02))  # a picture that takes long
        for _ in range(4):
            assert await aside(line.ask, do="look") is None
        monkeypatch.undo()
    assert rests[0] == 0
    assert min(rests[1:]) > 0.1
    assert rests[3] > 2 * rests[1] * 0.9  # what was not rested is added


def start() -> subprocess.Popen[str]:
    environment = {**os.environ, "POISE_WATCH": "1"}
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    return program


def test_what_a_killed_program_has_left_is_removed_by_the_next_look(place: str) -> None:
    with start() as first, start() as second:
        assert [found.program for found in find()] == [first.pid, second.pid]
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert len(files(place)) == 2
        assert [found.program for found in find()] == [second.pid]
        assert len(files(place)) == 1
        second.send_signal(signal.SIGSTOP)
        waiting: list[socket.socket] = []
        for _ in range(2):  # and if no more connections are taken
            (silent,) = find()
            assert (silent.program, silent.state, silent.command) == (second.pid, "silent", SILENT)
            for _ in range(server.MOST + 3):
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    waiting[-1].connect(silent.path)
        for peer in waiting:
            peer.close()
        second.send_signal(signal.SIGKILL)
    assert find() == []
    assert files(place) == []


FORKING = """
import asyncio, os, time
from poise.testing import LocalPool

async def main():
    async with LocalPool(size=1):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        print(child, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def test_a_forked_child_does_not_keep_its_parents_socket(place: str) -> None:
    environment = {**os.environ, "POISE_WATCH": "1"}
    command = [sys.executable, "-W", "ignore", "-c", FORKING]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        child = int(program.stdout.readline())
        try:
            assert [found.program for found in find()] == [program.pid]
            program.send_signal(signal.SIGKILL)
            program.wait()
            assert find() == []
            assert files(place) == []
        finally:
            os.kill(child, signal.SIGKILL)


async def test_a_pool_that_is_forgotten_is_seen_no_more(place: str) -> None:
    pools = [await LocalPool(size=1, watch=True).open()]
    assert await pools[0].run(abs, -1) == 1
    assert len(await aside(find)) == 1
    with pytest.warns(ResourceWarning, match="was not closed"):
        pools.clear()
    gc.collect()
    async with asyncio.timeout(10):
        while files(place):
            await asyncio.sleep(0.01)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_strangers_are_turned_away(place: str, caplog: pytest.LogCaptureFixture) -> None:
    stranger = """
import os, socket, sys
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as peer:
    try:
        peer.connect(sys.argv[1])
        peer.sendall(b'{"do": "look"}\\n')
        print("got", peer.recv(100))
    except OSError as error:
        print(type(error).__name__)
"""
    async with LocalPool(size=1, watch=True):
        (name,) = os.listdir(place)
        path = os.path.join(place, name)

        def visit() -> str:
            return subprocess.check_output([sys.executable, "-c", stranger, path], text=True).strip()

        assert await aside(visit) == "PermissionError"
        for each in (os.path.dirname(place), place, path):  # and if the directory were open
            os.chmod(each, 0o777)
        assert await aside(visit) in ("got b''", "ConnectionResetError", "BrokenPipeError")
    assert "a process of user 65534 tried to look at a pool" in caplog.text


def test_a_place_that_others_can_enter_or_that_is_a_link_is_not_used(place: str, tmp_path: Path) -> None:
    os.mkdir(place, 0o755)
    os.chmod(place, 0o755)
    assert place not in own_directories()
    with pytest.raises(poise.PoiseError, match="must be a directory of mode 700"):
        own_directory()
    os.rmdir(place)
    os.symlink(tmp_path, place)
    assert place not in own_directories()
    with pytest.raises(poise.PoiseError, match="must be a directory of mode 700"):
        own_directory()
    os.unlink(place)
    assert own_directory() == place
    assert own_directories()[0] == place


@pytest.mark.parametrize("fault", ["unwritable", "long", "open"])
async def test_where_there_can_be_no_socket_the_pool_lives_and_says_so_once(
    place: str, fault: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "unwritable":
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/proc")
    elif fault == "long":
        long = os.path.join(os.path.dirname(place), "x" * 100)
        os.mkdir(long)
        monkeypatch.setenv("XDG_RUNTIME_DIR", long)
    else:
        os.mkdir(place)
        os.chmod(place, 0o777)
    with caplog.at_level(logging.WARNING, "poise"):
        async with LocalPool(size=1, watch=True) as pool:
            assert await pool.run(abs, -1) == 1
    (told,) = (record.getMessage() for record in caplog.records if record.name == "poise")
    assert told.startswith("pool of functions: `poise top` cannot look at it: ")


def test_the_option_is_yes_or_no() -> None:
    for kind in (poise.Pool, LocalPool, poise.Executor):
        with pytest.raises(poise.ConfigError, match="watch"):
            kind(watch="yes")  # type: ignore[call-overload]


def test_a_pool_that_has_just_gone_is_not_found(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkdir(place, 0o700)
    monkeypatch.setattr("poise._watch.sockets._paths", lambda: [os.path.join(place, "watch-1-1")])
    assert find() == []
