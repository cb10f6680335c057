"""`poise top` shows what is, and changes what it is told to change, in a real terminal and without one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

import poise
from poise._watch.sockets import Found
from poise.cli.frame import Scene, draw, duration, size_of, spark
from poise.cli.top import Failure, choose, spied
from poise.testing import Faults, LocalPool
from tests.gate import Gate, wait_at
from tests.watch.terminal import Terminal
from tests.watch.test_model import Source

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable


class Model:
    def predict(self, x: int) -> int:
        return x

    def wait(self, gate: str) -> None:
        wait_at(gate)


@contextlib.asynccontextmanager
async def opened(gate: Gate) -> AsyncGenerator[None]:
    """Open the gate in the end, whatever has failed, or the pool would wait for ever."""
    try:
        yield
    finally:
        gate.open()


async def run(*arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "poise.cli", "top", *arguments]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


async def test_one_frame_without_a_terminal(place: str, gate: Gate) -> None:
    faults = Faults()
    async with LocalPool(Model, size=2, min_ready=2, watch=True, faults=faults) as pool, opened(gate):
        faults.die(function=Model.predict)
        with pytest.raises(poise.WorkerLost):
            await pool.run(Model.predict, 1)
        await pool.until_ready()
        call = pool.submit(Model.wait, gate.path)
        await gate.reached()
        status, out, errors = await run("--once")
        assert (status, errors) == (0, ""), errors
        assert f"Model ({Path(sys.argv[0]).name}, pid {os.getpid()})   open   2 of 2 workers ready" in out
        assert "Model.wait" in out
        assert "crashed by the test while Model.predict ran" in out
        status, out, _ = await run("Model", "--once", "--json")
        picture = json.loads(out)
        assert (status, picture["ready"], picture["totals"]["deaths"]) == (0, 2, 1)
        gate.open()
        await call


async def test_what_to_do_if_there_is_nothing_to_see(place: str) -> None:
    status, out, errors = await run("--once")
    assert (status, out) == (1, "")
    assert "watch=True" in errors
    assert "POISE_WATCH=1" in errors
    status, _, errors = await run()
    assert status == 2
    assert "--once or --json" in errors
    async with LocalPool(Model, size=1, watch=True):
        status, _, errors = await run("Other", "--once")
        assert status == 1
        assert "no watched pool is 'Other': there are 1 Model (" in errors


async def test_lines_of_json_come_until_the_pool_ends(place: str) -> None:
    async with LocalPool(Model, size=1, watch=True) as pool:
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "poise.cli", "top", "--json", "--interval", "0.05"),
            stdout=subprocess.PIPE,
            limit=1 << 24,
        )
        assert program.stdout is not None
        await pool.run(Model.predict, 1)
        pictures = [json.loads(await program.stdout.readline()) for _ in range(4)]
        assert {picture["pool"] for picture in pictures} == {"Model"}
        assert sum(len(picture["bars"]) for picture in pictures) <= 1
        await pool.aclose()
        await program.stdout.read()
        assert await program.wait() == 0


def found(name: str, program: int) -> Found:
    return Found(f"/nowhere/{name}", name, program, "serve.py", "open")


@pytest.mark.parametrize(
    ("name", "chosen"),
    [(None, [0, 1, 2]), ("2", [1]), ("Model", [0]), ("Mod", [0, 1]), ("4711", [0, 1]), ("functions", [2])],
)
def test_a_pool_is_chosen_by_name_number_or_process(name: str | None, chosen: list[int]) -> None:
    pools = [found("Model", 4711), found("Models", 4711), found("functions", 4712)]
    assert choose(pools, name) == [pools[each] for each in chosen]


@pytest.mark.parametrize(("pools", "why"), [([], "watch=True"), ([found("Model", 4711)], "1 Model")])
def test_what_is_not_there_is_not_chosen(pools: list[Found], why: str) -> None:
    with pytest.raises(Failure, match=why):
        choose(pools, "9")


async def test_keys_in_a_real_terminal(place: str, gate: Gate) -> None:
    async with LocalPool(Model, size=2, min_ready=2, watch=True) as pool, LocalPool(size=1, watch=True), opened(gate):
        calls = [pool.submit(Model.wait, gate.path) for _ in range(2)]  # one on each
        await gate.reached(2)
        with Terminal("top", "--interval", "0.1") as terminal:
            drawn = await terminal.until("pool 1 of 2")
            assert "2 of 2 workers ready" in drawn
            assert "Model.wait" in drawn
            assert terminal.now != terminal.before
            terminal.press("\x1b[B\x1b[B\x1b[A\x1b[B")
            await terminal.until("▶ 1")
            terminal.press("r")
            await terminal.until("replace worker 1? (y/n)")
            terminal.press("n")
            await terminal.until("q quit")
            assert {worker.id for worker in pool.stats().workers} == {0, 1}
            terminal.press("ry")
            await terminal.until("worker 1 was replaced by worker 2")
            terminal.press("s17\x7f\x7fx")  # no number: it is left
            await terminal.until("q quit")
            terminal.press("s3-1\r")
            await terminal.until("not done: size=(3, 1)")
            terminal.press("s3-4-5\r")
            await terminal.until("neither a number")
            terminal.press("s31\x7f\r")
            await terminal.until("the pool is to have 3 workers")
            await pool.until_ready()
            assert pool.stats().ready == 3
            terminal.press("\x1b[A\x1b[A\x1b[A\x1b[A")
            await terminal.until("▶ 0")
            terminal.press("k")
            assert "wait_at" in await terminal.until("any other key goes back")
            terminal.press(" ")
            await terminal.until("workers ready")
            terminal.press("\t")
            assert "functions (" in await terminal.until("pool 2 of 2")
            terminal.press("1")
            await terminal.until("pool 1 of 2")
            terminal.press("dy")
            await terminal.until("takes no more calls, and finishes")
            assert pool.state == "draining"
            terminal.press("q")
            assert await terminal.ended() == 0
            assert terminal.now == terminal.before
        gate.open()
        await asyncio.gather(*calls)


async def test_it_ends_with_the_pool_and_leaves_the_terminal_as_it_was(place: str) -> None:
    async with LocalPool(Model, size=1, watch=True):
        terminal = Terminal("top", "--interval", "0.1", columns=60, lines=12)
        await terminal.until("1 of 1")
    with terminal:
        await terminal.until("has ended")
        assert await terminal.ended() == 0
        assert terminal.now == terminal.before
    async with LocalPool(Model, size=1, watch=True):
        with Terminal("top") as terminal:
            await terminal.until("1 of 1")
            terminal.program.send_signal(signal.SIGINT)
            assert await terminal.ended() == 1
            assert terminal.now == terminal.before


SPIED = r"printf 'process %s\nThread 1\n  x\nThread 2\n  Runner.run (poise/_worker/runner.py:1)\nThread 3' $3"


@pytest.mark.parametrize(
    ("script", "seen"),
    [
        (SPIED, "process 4711\nThread 2\n  Runner.run (poise/_worker/runner.py:1)\nThread 1\n  x\nThread 3"),
        ("exit 1", None),
    ],
)
def test_py_spy_is_asked_first_if_it_is_there_and_may_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, seen: str | None
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert spied(4711) is None or shutil.which("py-spy") is not None
    spy = tmp_path / "py-spy"
    spy.write_text(f"#!/bin/sh\n{script}\n")
    spy.chmod(0o755)
    assert spied(4711) == seen


@pytest.fixture
def render() -> Callable[..., list[str]]:
    def rendered(source: Source, **more: Any) -> list[str]:
        picture = source.at(source.now + 1)
        picture.update(more.pop("picture", {}))
        console = Console(width=100, no_color=True)
        with console.capture() as capture:
            console.print(draw(Scene(picture, picture["seconds"], "Model", **more)))
        return capture.get().splitlines()

    return rendered


def test_of_many_workers_those_around_the_chosen_one_are_shown(render: Callable[..., list[str]]) -> None:
    source = Source()
    (worker, _) = source.at(100.0)["workers"]
    workers = [{**worker, "id": number} for number in range(50)]
    lines = render(source, picture={"workers": workers}, chosen=25, rows=10)
    assert [line.split()[:2] for line in lines if "ready" in line.split()[:3]][4] == ["▶", "25"]
    assert any("and 41 more" in line for line in lines)
    lines = render(source, picture={"workers": workers}, chosen=49, rows=10)
    assert any(line.split()[:2] == ["▶", "49"] for line in lines)


def test_what_is_wrong_is_seen(render: Callable[..., list[str]]) -> None:
    source = Source()
    source.begin(100.0, 1)
    source.begin(100.2, 2)
    source.end(100.3, 3, worker=1)
    source.die(100.5, 1)
    workers = source.at(101.0)["workers"]
    workers[0]["quarantined"] = True
    workers[1]["leased"] = True
    workers[1]["state"] = "retiring"
    text = "\n".join(
        render(source, picture={"workers": workers, "most": 5, "starting": 1, "state": "broken"}, notice="no answer")
    )
    for part in ("ready, sick", "predict and 1 more", "retiring, leased", "broken", "(of 0 to 5), 1 starting"):
        assert part in text
    assert "it exited while predict ran" in text
    assert "no answer" in text


def test_what_a_program_says_is_shown_and_not_obeyed(render: Callable[..., list[str]]) -> None:
    source = Source()
    source.begin(100.0, 1)
    source.die(100.5, 1)
    death = {**source.at(101.0)["deaths"][0], "reason": "no weights at [/models/a.bin]\x1b]0;x\x07 [bold]"}
    text = "\n".join(render(source, picture={"deaths": [death]}))
    assert "no weights at [/models/a.bin]" in text
    assert "[bold]" in text
    assert "\x1b" not in text


def test_numbers_for_people() -> None:
    assert spark([0, 1, 2, 4], 4) == "▁▃▅█"
    assert spark([0, 0], 0) == "▁▁"
    times = [duration(each) for each in (0, 12e-6, 0.0123, 1.5, 100, 7000)]
    assert times == ["0 µs", "12 µs", "12.3 ms", "1.5 s", "1 min", "1 h"]
    assert [size_of(each) for each in (100, 2048, 300 << 20, 3 << 30)] == ["100 B", "2 KB", "300 MB", "3 GB"]
