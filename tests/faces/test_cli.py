"""The command `poise`, as a program of its own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from poise.cli import run
from poise.cli.commands import poise
from poise.cli.doctor import examine
from poise.testing import LocalPool
from tests.faces.conftest import ROOT, Start
from tests.faces.lines import HELD_FROM

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from tests.gate import Gate

PERIOD = 0.01


def finish(program: subprocess.Popen[str], text: str | None = None) -> tuple[int, str, str]:
    out, errors = program.communicate(text, timeout=100)
    return program.returncode, out, errors


def poise_run(start: Start, *arguments: object, **options: object) -> subprocess.Popen[str]:
    return start("-m", "poise.cli", "run", *(str(each) for each in arguments), **{"cwd": ROOT, **options})


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def write_numbers(path: Path, count: int) -> Path:
    path.write_text("".join(f"{number}\n" for number in range(count)))
    return path


def write_held(path: Path, count: int, gate: Gate) -> Path:
    path.write_text("".join(f"{json.dumps([number, gate.path])}\n" for number in range(count)))
    return path


def reached(path: Path, count: int, program: subprocess.Popen[str]) -> None:
    """Wait until the output has so many lines."""
    deadline = time.monotonic() + 60
    while len(lines_of(path)) < count:
        assert program.poll() is None, program.communicate()
        assert time.monotonic() < deadline, lines_of(path)
        time.sleep(PERIOD)


# ---------------------------------------------------------------------------------------------------------------------
# run


def test_lines_of_standard_input_come_out_in_order_and_nothing_else_does(start: Start) -> None:
    program = poise_run(start, "tests.faces.lines:Model.double", "--size", 2, stdin=subprocess.PIPE)
    status, out, errors = finish(program, "1\n\n2\n  \n3")  # blank lines, and no newline at the end
    assert status == 0, errors
    assert [json.loads(line) for line in out.splitlines()] == [{"doubled": 2}, {"doubled": 4}, {"doubled": 6}]
    assert "3 lines done, 0 of them with an error" in errors


def test_results_are_in_order_though_later_lines_are_done_earlier(join: Start, tmp_path: Path) -> None:
    source, output = write_numbers(tmp_path / "in", 50), tmp_path / "out"
    status, out, errors = finish(poise_run(join, "tests.faces.lines:uneven", source, "-o", output, "--size", 2))
    assert (status, out) == (0, ""), errors
    assert lines_of(output) == [str(number) for number in range(50)]


def test_an_error_is_recorded_in_the_place_of_its_line(join: Start, tmp_path: Path) -> None:
    source, output = write_numbers(tmp_path / "in", 9), tmp_path / "out"
    source.write_text(source.read_text() + "no JSON\n9\n")
    options = ("-o", output, "--size", 2, "--on-error", "record")
    status, _, errors = finish(poise_run(join, "tests.faces.lines:picky", source, *options))
    assert status == 0, errors
    results = [json.loads(line) for line in lines_of(output)]
    assert results[3] == {"error": "ValueError", "detail": "not three"}
    assert results[5]["error"] == "TypeError"
    assert "not JSON" in results[9]["detail"]
    assert [results[place] for place in (0, 1, 2, 4, 6, 7, 8, 10)] == [0, 1, 2, 4, 6, 7, 8, 9]
    assert "11 lines done, 3 of them with an error" in errors


def test_an_error_stops_the_run_which_says_how_to_go_on(join: Start, tmp_path: Path) -> None:
    source, output = write_numbers(tmp_path / "in", 6), tmp_path / "out"
    status, _, errors = finish(poise_run(join, "tests.faces.lines:picky", source, "-o", output, "--size", 1))
    assert status == 1
    assert lines_of(output) == ["0", "1", "2"]
    assert "line 4: ValueError: not three" in errors
    assert "3 lines are done" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_goes_on_where_it_stopped(
    start: Start, join: Start, tmp_path: Path, gate: Gate, stop: signal.Signals
) -> None:
    source, output = write_held(tmp_path / "in", 150, gate), tmp_path / "out"
    command = ("tests.faces.lines:held", source, "-o", output, "--size", 2)
    first = poise_run(start if stop is signal.SIGINT else join, *command)  # one with a Ray of its own
    reached(output, HELD_FROM, first)
    first.send_signal(stop)
    status, _, errors = finish(first)
    assert lines_of(output) == [str(number) for number in range(HELD_FROM)]
    if stop is signal.SIGKILL:
        assert status == -stop
        with output.open("a") as file:
            file.write("10")  # what a write that was cut short leaves
    else:
        assert status == 130
        assert "100 lines are done, run the same command again" in errors
        assert "Traceback" not in errors
    gate.open()
    status, _, errors = finish(poise_run(join, *command))
    assert status == 0, errors
    assert "has 100 lines already" in errors
    assert lines_of(output) == [str(number) for number in range(150)]


def test_a_run_that_is_complete_does_nothing_unless_it_is_to_begin_again(join: Start, tmp_path: Path) -> None:
    source, output = write_numbers(tmp_path / "in", 3), tmp_path / "out"
    output.write_text("0\n1\n2\n")
    command = ("tests.faces.lines:Model.triple", source, "-o", output, "--size", 1)
    assert finish(poise_run(join, *command))[0] == 0
    assert lines_of(output) == ["0", "1", "2"]
    assert finish(poise_run(join, *command, "--restart"))[0] == 0
    assert lines_of(output) == ["0", "3", "6"]


def test_an_output_that_is_longer_than_the_input_is_not_touched(start: Start, tmp_path: Path) -> None:
    source, output = write_numbers(tmp_path / "in", 3), tmp_path / "out"
    output.write_text("0\n1\n2\n3\n")
    status, _, errors = finish(poise_run(start, "tests.faces.lines:uneven", source, "-o", output))
    assert status == 1
    assert "the output has 4 lines and the input only 3" in errors
    assert lines_of(output) == ["0", "1", "2", "3"]


def test_two_runs_do_not_write_one_file(join: Start, tmp_path: Path, gate: Gate) -> None:
    source, output = write_held(tmp_path / "in", HELD_FROM + 1, gate), tmp_path / "out"
    command = ("tests.faces.lines:held", source, "-o", output, "--size", 1)
    first = poise_run(join, *command)
    reached(output, HELD_FROM, first)
    status, _, errors = finish(poise_run(join, *command))
    assert (status, "another run is writing" in errors) == (1, True)
    gate.open()
    assert finish(first)[0] == 0


@pytest.mark.parametrize("options", [[], ["--restart"]])
@pytest.mark.parametrize("name", ["in", "link"])
def test_the_input_is_not_taken_for_the_output(tmp_path: Path, name: str, options: list[str]) -> None:
    source = write_numbers(tmp_path / "in", 3)
    (tmp_path / "link").symlink_to(source)
    command = ["run", "tests.faces.lines:Model.triple", str(source), "-o", str(tmp_path / name), *options]
    answer = CliRunner().invoke(poise, command)
    assert answer.exit_code == 2
    assert "is the input too" in answer.stderr
    assert lines_of(source) == ["0", "1", "2"]


@pytest.mark.usefixtures("poise_local")
def test_a_run_can_be_recorded(tmp_path: Path) -> None:
    source, recording = write_numbers(tmp_path / "in", 20), tmp_path / "run.json"
    command = ["run", "tests.faces.lines:Model.triple", str(source), "-o", str(tmp_path / "out"), "--size", "2"]
    answer = CliRunner().invoke(poise, [*command, "--record", str(recording)])
    assert answer.exit_code == 0, answer.output
    events = json.loads(recording.read_text())
    assert sum(event["name"] == "Model.triple" for event in events) == 20
    answer = CliRunner().invoke(poise, [*command, "--restart", "--record", str(tmp_path / "nowhere" / "run.json")])
    assert answer.exit_code == 1
    assert "record=" in answer.stderr


@pytest.mark.usefixtures("poise_local")
def test_what_is_hard_to_read_or_to_write_spoils_its_own_line_at_most(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    deep = "[" * 200_000 + "]" * 200_000
    source.write_text(f'"\\ud800"\n{deep}\nNaN\n[1, Infinity]\n"ü"\n')
    command = ["run", "tests.faces.lines:picky", str(source), "-o", str(output), "--size", "1"]
    answer = CliRunner().invoke(poise, [*command, "--on-error", "record"])
    assert answer.exit_code == 0, answer.output
    assert "5 lines done, 3 of them with an error" in answer.stderr
    surrogate, nested, nan, infinity, last = lines_of(output)
    assert surrogate == '"\\ud800"'
    assert "not JSON" in json.loads(nested)["detail"]
    assert [json.loads(line)["error"] for line in (nested, nan, infinity)] == ["ValueError"] * 3
    assert last == '"ü"'


async def test_a_line_that_is_not_json_is_told_of_while_the_input_is_silent() -> None:
    written: list[bytes] = []
    goes_on, told = asyncio.Event(), asyncio.Event()

    async def lines() -> AsyncGenerator[Any]:
        yield run._Line(b"-2", 1, 3)  # noqa: SLF001
        yield run._Line(b"no json", 2, 8)  # noqa: SLF001
        await goes_on.wait()
        yield run._Line(b"[]", 3, 3)  # noqa: SLF001

    class Output:
        def write(self, line: bytes) -> None:
            written.append(line)
            if len(written) == 2:
                told.set()

    class Bar:
        failed = 0

        def step(self, _: int, *, has_failed: bool = False) -> None:
            self.failed += has_failed

    order, bar, out = run.Order(None, abs, None, None, 0, records_errors=True), Bar(), Output()
    feed: Any = run.Feed(order, "-", None, restarts=False)
    async with LocalPool(size=1) as pool, contextlib.aclosing(lines()) as source:
        pump = asyncio.create_task(feed._pump(pool, await anext(source), source, 4, out, bar))  # noqa: SLF001
        await asyncio.wait_for(told.wait(), 60)
        goes_on.set()
        await pump
    assert [json.loads(line).get("error") if b"{" in line else json.loads(line) for line in written] == [
        2,
        "ValueError",
        "TypeError",
    ]
    assert bar.failed == 2


def test_the_bar_tells_how_many_lines_have_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    (tmp_path / "in.jsonl").write_text("1\n2\n")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with open(tmp_path / "in.jsonl", "rb") as source, run._Bar(source) as bar:  # noqa: SLF001
        bar.step(2)
        bar.step(2, has_failed=True)
    assert "2 lines, 1 failed" in terminal.getvalue()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("tests.faces.lines", "write module:function"),
        ("no.such.module:function", "cannot import"),
        ("tests.faces.lines:nothing", "has no 'nothing'"),
        ("tests.faces.lines:Model", "is a class"),
        ("tests.faces.lines:Model.nothing", "has no 'nothing'"),
        ("tests.faces.lines:NOT_A_FUNCTION", "is not a function"),
    ],
)
def test_a_target_that_does_not_exist_is_named(target: str, message: str, tmp_path: Path) -> None:
    answer = CliRunner().invoke(poise, ["run", target, str(write_numbers(tmp_path / "in", 1))])
    assert answer.exit_code == 2
    assert message in answer.stderr


# ---------------------------------------------------------------------------------------------------------------------
# doctor, bench, help


@pytest.mark.parametrize("command", [[], ["run"], ["doctor"], ["bench"]])
def test_help_says_what_there_is(command: list[str]) -> None:
    answer = CliRunner().invoke(poise, [*command, "--help"])
    assert answer.exit_code == 0
    assert "Usage: poise" in answer.output
    for name in ("run", "doctor", "bench") if not command else ():
        assert f"poise {name}" in answer.output


def test_the_doctor_finds_a_healthy_machine_healthy_and_tries_a_pool(start: Start) -> None:
    status, out, errors = finish(start("-m", "poise.cli", "doctor"))
    assert status == 0, out + errors
    assert "pool: ready after" in out
    assert "fail" not in out


@pytest.mark.parametrize(
    ("variable", "value", "what"),
    [
        ("RAY_ADDRESS", "ray://somewhere:10001", "Ray Client"),
        ("RAY_ADDRESS", "127.0.0.1:1", "nobody is reached"),
        ("TMPDIR", "/no/such/directory", "TMPDIR"),
    ],
)
def test_the_doctor_says_what_is_wrong_and_what_to_do(
    variable: str, value: str, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if variable == "TMPDIR":
        monkeypatch.setattr("tempfile.tempdir", value)
    monkeypatch.setenv(variable, value)
    answer = CliRunner().invoke(poise, ["doctor", "--no-ray"])
    assert answer.exit_code == 1
    assert what in answer.output
    assert "->" in answer.output


def test_every_warning_and_failure_of_the_doctor_has_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    findings = {finding.name: finding for finding in examine(with_ray=False)}
    assert findings["sockets"].verdict == "warn"
    assert findings["RAY_AUTH_MODE"].verdict == "warn"
    assert all(finding.remedy for finding in findings.values() if finding.verdict != "ok")


def test_the_short_bench_prints_a_table_with_ratios(start: Start) -> None:
    status, out, errors = finish(start("-m", "poise.cli", "bench", "--seconds", "0.1"))
    assert status == 0, errors
    for name in ("poise", "Ray actor calls", "ProcessPoolExecutor"):
        assert name in out
    assert " x" in out
