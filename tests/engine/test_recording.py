"""What a pool writes down of itself is what Perfetto reads, whatever happens to the pool."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import format_span_id, format_trace_id

import poise
from poise import events as told
from poise.recording import Recording
from poise.testing import Faults, LocalPool
from tests.gate import Gate, wait_at
from tests.spans import exporter, seen

if TYPE_CHECKING:
    from pathlib import Path

    from poise.events import Outcome


class Model:
    def predict(self, x: int) -> int:
        return x * 2

    def fail(self) -> None:
        raise LookupError("no such thing")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.json"


def read(path: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(path.read_text())
    return events


def bars(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["ph"] == "X" and event["name"] == name]


def marks(events: list[dict[str, Any]]) -> list[str]:
    return [event["name"] for event in events if event["ph"] == "i"]


def check_rows(events: list[dict[str, Any]]) -> None:
    """Bars of one row come one after the other, or Perfetto draws one in another."""
    ends: dict[Any, float] = defaultdict(float)
    for bar in sorted((event for event in events if event["ph"] == "X"), key=lambda event: event["ts"]):
        row = bar["pid"], bar["tid"]
        assert bar["dur"] >= 0
        assert bar["ts"] >= ends[row] - 0.2, bar
        ends[row] = bar["ts"] + bar["dur"]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_every_call_is_a_bar_on_its_worker(path: Path, concurrency: int) -> None:
    async with LocalPool(Model, size=2, min_ready=2, concurrency=concurrency, record=path) as pool:
        await asyncio.gather(*(pool.submit(Model.predict, number) for number in range(300)))
        with pytest.raises(LookupError):
            await pool.run(Model.fail)
    events = read(path)
    calls = bars(events, "Model.predict")
    assert len({bar["args"]["call"] for bar in calls}) == len(calls) == 300
    assert {bar["args"]["outcome"] for bar in calls} == {"returned"}
    # A row more than slots is for a call that has run while another, which was asked back, was still on its way.
    assert {bar["tid"] for bar in calls} <= set(range(concurrency + 1))
    (failed,) = bars(events, "Model.fail")
    assert (failed["args"]["outcome"], failed["args"]["error"]) == ("raised", "LookupError")
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names[0] == "pool of Model"
    assert {names[bar["pid"]].split(" (")[0] for bar in calls} <= {"worker 0", "worker 1"}
    assert len(bars(events, "start")) == 2
    assert [mark for mark in marks(events) if mark != "ended"] == ["opening", "whole: 2 workers are ready", "closed"]
    check_rows(events)


async def test_deaths_retries_and_what_overruns(path: Path, gate: Gate) -> None:
    faults = Faults()
    async with LocalPool(size=1, faults=faults, record=str(path)) as pool:
        faults.die(function=abs)
        assert await pool.options(retries=1, retry_delay=0).run(abs, -1) == 1
        with pytest.raises(poise.DeadlineExceeded):
            await pool.options(timeout=0.02).run(wait_at, gate.path)
        cancelled = pool.submit(abs, -2)
        cancelled.cancel()
        gate.open()
        await pool.until(lambda stats: not stats.abandoned)
        await pool.replace(1)
        faults.refuse_start(1)
        await pool.resize(2)
        await pool.until_ready()
    events = read(path)
    first, second = bars(events, "abs")
    assert (first["pid"], first["args"]["outcome"]) == (1, "to be tried again")
    assert (second["pid"], second["args"]["outcome"], second["args"]["attempt"]) == (2, "returned", 2)
    (overrun,) = bars(events, "wait_at")
    assert overrun["args"]["outcome"] == "expired"
    assert overrun["args"]["overran_ms"] > 0
    assert any(mark.startswith("lost: crashed") for mark in marks(events))
    assert any(mark.startswith("to be replaced by worker 2") for mark in marks(events))
    assert [bar["args"].get("outcome") for bar in bars(events, "start")].count("failed") == 1
    check_rows(events)


async def test_bars_of_calls_that_are_traced_say_their_trace_and_their_attempts_span(path: Path, gate: Gate) -> None:
    exporter()
    faults = Faults()
    async with LocalPool(size=1, faults=faults, record=path, traces=True) as pool:
        with trace.get_tracer("tests").start_as_current_span("request") as request:
            faults.die(function=abs)
            assert await pool.options(retries=1, retry_delay=0).run(abs, -1) == 1
            with pytest.raises(poise.DeadlineExceeded):
                await pool.options(timeout=0.02).run(wait_at, gate.path)
        gate.open()
        await pool.until(lambda stats: not stats.abandoned)
    number = request.get_span_context().trace_id
    spans = {span.name: format_span_id(span.id) for span in seen() if (span.trace, span.kind) == (number, "CLIENT")}
    events = read(path)
    drawn = [*bars(events, "abs"), *bars(events, "wait_at")]
    assert [bar["args"]["span_id"] for bar in drawn] == [spans[name] for name in ("abs", "abs (attempt 2)", "wait_at")]
    assert {bar["args"]["trace_id"] for bar in drawn} == {format_trace_id(number)}


async def test_a_call_in_no_trace_has_a_bar_without_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opentelemetry.trace.get_tracer", lambda _: trace.NoOpTracer())  # nobody has set one up
    async with LocalPool(size=1, record=path, traces=True) as pool:
        assert await pool.run(abs, -1) == 1
    (bar,) = bars(read(path), "abs")
    assert "trace_id" not in bar["args"]


def test_what_was_only_taken_back_is_no_bar(path: Path) -> None:
    recording, who = Recording(path), ("pool", 7, "Model.predict", 0, 1)
    for at, is_retry in (1.0, False), (2.0, True):
        recording.call_begun(told.CallBegun(at, *who))
        recording.call_put_back(told.CallPutBack(at + 0.5, *who, is_retry))
    recording.call_begun(told.CallBegun(3.0, *who))
    recording.call_ended(told.CallEnded(3.5, *who, "returned", None, 2.0, 0.0, 0.5, is_abandoned=False))
    recording.pool_ended(told.PoolEnded(4.0, "pool"))
    drawn = bars(read(path), "Model.predict")
    assert [(bar["ts"], bar["tid"], bar["args"]["outcome"]) for bar in drawn] == [
        (2e6, 0, "to be tried again"),
        (3e6, 0, "returned"),
    ]


def test_what_ends_where_it_does_not_run_is_no_bar(path: Path) -> None:
    """Of two calls that were given to a worker without a row, one has run and the other waited to be tried again."""
    recording, times = Recording(path), (2.0, 0.0, 0.5)
    outcomes: tuple[Outcome, ...] = ("returned", "cancelled")
    for number, outcome in enumerate(outcomes):
        who = "pool", number, "Model.predict", number, 1
        recording.call_ended(told.CallEnded(3.5, *who, outcome, None, *times, is_abandoned=False))
    recording.pool_ended(told.PoolEnded(4.0, "pool"))
    (drawn,) = bars(read(path), "Model.predict")
    assert (drawn["ts"], drawn["pid"], drawn["args"]["outcome"]) == (3e6, 1, "returned")


async def test_a_pool_that_breaks_while_it_opens_has_a_whole_recording(path: Path) -> None:
    faults = Faults()
    faults.refuse_start(10)
    with pytest.raises(poise.PoolBroken):
        await LocalPool(Model, size=1, faults=faults, record=path).open()
    events = read(path)
    assert any(mark.startswith("broken: ") for mark in marks(events))
    assert marks(events)[-1] == "closed"


def test_what_a_program_that_was_killed_has_written_is_a_recording(path: Path) -> None:
    program = f"""
import asyncio, os
from poise.testing import LocalPool

async def main():
    pool = await LocalPool(size=1, record={str(path)!r}).open()
    for number in range(50):
        await pool.run(abs, number)
    os._exit(0)

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    events = json.loads(path.read_text() + "]")
    assert len(bars(events, "abs")) == 50


async def test_it_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("poise.recording.MOST_EVENTS", 20)
    with caplog.at_level(logging.WARNING, "poise"):
        async with LocalPool(size=1, record=path) as pool:
            for number in range(50):
                await pool.run(abs, number)
    assert len(read(path)) == 20
    assert [record.getMessage() for record in caplog.records if record.name == "poise"] == [
        f"the recording {path} is full after 20 events, and was ended"
    ]


async def test_a_file_that_cannot_be_written_costs_no_call(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pool = LocalPool(size=1, record="/dev/full")
    with caplog.at_level(logging.ERROR, "poise"):
        async with pool:
            assert await pool.run(abs, -1) == 1
    (told,) = (record.getMessage() for record in caplog.records if record.name == "poise")
    assert "observes it no more" in told


@pytest.mark.parametrize("where", ["/nowhere/run.json", "/", "", 3])
def test_where_no_file_can_be_is_said_at_once(where: Any) -> None:
    with pytest.raises(poise.ConfigError, match="record"):
        poise.Pool(record=where)
