"""What traces and context variables need, what they leave alone, and the faces beside the pool."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace

import poise
from poise.testing import LocalPool, local_pools
from tests.spans import Seen, exporter, mark, request_id, seen, tenant

if TYPE_CHECKING:
    from concurrent import futures

    from tests.faces.conftest import Start

here_alone: ContextVar[int] = ContextVar("here_alone")


def alone() -> int:
    return here_alone.get()


async def hang() -> None:
    await asyncio.Event().wait()


def found() -> tuple[str | None, object]:
    mark("within")
    return request_id.get(None), tenant.get()


def in_trace(number: int, name: str, kind: str) -> Seen:
    (span,) = [each for each in seen() if (each.trace, each.name, each.kind) == (number, name, kind)]
    return span


def test_a_call_of_an_executor_takes_the_context_of_the_thread_that_submits_it() -> None:
    exporter()
    with local_pools(), poise.Executor(max_workers=1, traces=True, context=[request_id]) as executor:
        token = request_id.set("7")
        with trace.get_tracer("tests").start_as_current_span("request") as request:
            future: futures.Future[Any] = executor.submit(found)
            mapped = executor.map(lambda _: found(), [1])
        request_id.reset(token)
        assert future.result() == ("7", "nobody")
        assert list(mapped) == [("7", "nobody")]
        assert executor.submit(found).result() == (None, "nobody")
    number = request.get_span_context().trace_id
    call = in_trace(number, "found", "CLIENT")
    assert call.parent == request.get_span_context().span_id
    assert in_trace(number, "found", "SERVER").parent == call.id


async def test_every_outcome_of_a_call_ends_its_span() -> None:
    exporter()
    async with LocalPool(size=1, traces=True, backlog=1) as pool:
        with trace.get_tracer("tests").start_as_current_span("request") as request:
            running = pool.submit(hang)
            await pool.until(lambda stats: stats.running == 1)
            with pytest.raises(poise.DeadlineExceeded):
                await pool.options(timeout=0.01).run(sorted, [])
            waiting: poise.Call[Any] = pool.submit(list)
            with pytest.raises(poise.Overloaded):
                pool.submit(dict)
            assert waiting.cancel()
            assert running.cancel()
            await pool.run(abs, -1)
            lost = pool.submit(hang)
            await pool.until(lambda stats: stats.running == 1)
            (worker,) = pool.stats().workers
            pool.crash(worker.id)
            with pytest.raises(poise.WorkerLost):
                await lost
    number = request.get_span_context().trace_id
    ends = {
        (span.name, span.attributes["poise.outcome"], span.status, span.attributes.get("error.type"))
        for span in seen()
        if span.trace == number and span.kind == "CLIENT"
    }
    assert ends == {
        ("hang", "cancelled", "UNSET", None),
        ("sorted", "expired", "ERROR", "poise.errors.DeadlineExceeded"),
        ("list", "cancelled", "UNSET", None),
        ("dict", "refused", "ERROR", "poise.errors.Overloaded"),
        ("abs", "returned", "UNSET", None),
        ("hang", "lost", "ERROR", "poise.errors.WorkerLost"),
    }


async def test_what_opentelemetry_raises_harms_no_call(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object, **kwargs: object) -> Any:
        raise OSError("no disk")

    exporter()
    monkeypatch.setattr(exporter(), "export", fail)
    for name in ["inject", "extract"]:
        monkeypatch.setattr(f"opentelemetry.propagate.{name}", fail)
    monkeypatch.setattr("opentelemetry.sdk.trace.Span.end", fail)
    async with LocalPool(size=1, traces=True) as pool:
        assert await pool.run(abs, -1) == 1
        monkeypatch.undo()
        monkeypatch.setattr("opentelemetry.sdk.trace.Span.end", fail)
        assert await pool.run(abs, -2) == 2
        monkeypatch.undo()
        monkeypatch.setattr("opentelemetry.sdk.trace.Tracer.start_span", fail)
        assert await pool.run(abs, -3) == 3
    assert "a trace is not complete" in caplog.text
    assert "the span of a call is not complete" in caplog.text


@pytest.mark.parametrize("name", ["poise._engine.tracing", "opentelemetry"])
def test_traces_without_the_package_are_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delitem(sys.modules, "poise._engine.tracing", raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(poise.ConfigError, match=r"traces=True .* pip install 'poise\[otel\]'"):
        poise.Pool(traces=True)


def test_a_wrong_context_is_refused_by_name() -> None:
    nowhere = ContextVar[int]("nowhere")
    with pytest.raises(poise.ConfigError, match=r"context='nowhere' .* as a global"):
        poise.Pool(context=[nowhere])
    wrong: Any = request_id
    with pytest.raises(poise.ConfigError, match="a list of variables"):
        poise.Pool(context=wrong)
    wrong = ["request_id"]
    with pytest.raises(poise.ConfigError, match=r"'request_id' .* a list of variables"):
        poise.Pool(context=wrong)
    wrong = 1
    with pytest.raises(poise.ConfigError, match=r"traces=1 .* True or False"):
        poise.Pool(traces=wrong)


async def test_variables_travel_without_traces() -> None:
    async with LocalPool(size=1, context=[request_id, here_alone]) as pool:
        here_alone.set(3)
        assert await pool.run(alone) == 3
        assert await pool.run(found) == (None, "nobody")


async def test_a_worker_without_the_package_runs_calls_all_the_same_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exporter()
    monkeypatch.setitem(sys.modules, "poise._worker.spans", None)
    monkeypatch.setattr("poise._worker.context._untraced", threading.Event())
    async with LocalPool(size=1, traces=True) as pool:
        assert [await pool.run(abs, -number) for number in range(3)] == [0, 1, 2]
    assert caplog.text.count("a worker has no opentelemetry-api") == 1


async def found_later() -> tuple[str | None, object]:
    await asyncio.sleep(0)
    mark(f"within {request_id.get()}")
    await asyncio.sleep(0)
    return request_id.get(None), tenant.get()


async def test_calls_that_run_at_the_same_time_have_each_their_own() -> None:
    async def call(function: Any, number: int) -> Any:
        request_id.set(str(number))
        with trace.get_tracer("tests").start_as_current_span("request"):
            return await pool.run(function)

    exporter().clear()
    async with LocalPool(size=1, concurrency=3, traces=True, context=[request_id]) as pool:
        for function in [found, found_later]:
            answers = await asyncio.gather(*(call(function, number) for number in range(20)))
            assert answers == [(str(number), "nobody") for number in range(20)]
    spans = {span.id: span for span in seen()}
    within = [span for span in spans.values() if span.name.startswith("within ")]
    assert len({span.trace for span in within}) == len(within) == 20
    assert {spans[span.parent or 0].name for span in within} == {"found_later"}


async def test_a_call_that_has_ended_holds_nothing_of_its_trace() -> None:
    exporter()
    async with LocalPool(size=1, traces=True, context=[request_id]) as pool:
        call = pool.submit(abs, -1)
        assert await call == 1
        await pool.run(abs, -1)
        gone = weakref.ref(call)
        gc.disable()
        try:
            del call
            assert gone() is None
        finally:
            gc.enable()


WITHOUT_A_PROVIDER = """
import asyncio
from opentelemetry import propagate, trace
from poise.testing import LocalPool

def number():
    return trace.get_current_span().get_span_context().trace_id

async def main():
    async with LocalPool(size=1, traces=True) as pool:
        print(await pool.run(number))
        above = propagate.extract({"traceparent": "00-" + "0" * 31 + "7-0000000000000001-01"})
        with trace.use_span(trace.get_current_span(above)):
            print(await pool.run(number))

asyncio.run(main())
"""


def test_a_trace_goes_on_through_a_program_that_has_no_provider(start: Start) -> None:
    said, complaints = start("-c", WITHOUT_A_PROVIDER).communicate(timeout=60)
    assert (said.split(), complaints) == (["0", "7"], "")


OFF = """
import asyncio, sys
from poise.testing import LocalPool

async def main():
    async with LocalPool(size=1) as pool:
        assert await pool.run(abs, -1) == 1

asyncio.run(main())
print(*sorted(name for name in sys.modules if name in ("poise._engine.tracing", "poise._worker.spans")))
"""


def test_without_traces_nothing_of_them_is_imported(start: Start) -> None:
    said, complaints = start("-c", OFF).communicate(timeout=60)
    assert (said.strip(), complaints) == ("", "")


MAIN = """
import asyncio
from contextvars import ContextVar

import poise
from poise.testing import LocalPool
from tests.spans import request_id

mine = ContextVar("mine", default=1)

def theirs():
    return request_id.get()

def own():
    return mine.get()

async def main():
    try:
        LocalPool(context=[mine])
    except poise.ConfigError as error:
        print(error)
    async with LocalPool(size=1, context=[request_id]) as pool:
        request_id.set("7")
        print(await pool.run(theirs))
        try:
            await pool.run(own)
        except poise.PayloadError as error:
            print(error)

asyncio.run(main())
"""


def test_a_function_of_main_may_use_the_variables_of_modules_and_not_those_of_main(start: Start) -> None:
    said, complaints = start("-c", MAIN).communicate(timeout=60)
    assert complaints == ""
    refused, found_there, failed = said.splitlines()
    assert refused.startswith("context='mine' is not allowed: ")
    assert found_there == "7"
    assert "cannot pickle the ContextVar 'mine': it is no global of a module but __main__" in failed
