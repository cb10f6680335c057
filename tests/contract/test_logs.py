"""What workers log: `logs="forward"`."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any, cast

import pytest
from opentelemetry import trace
from opentelemetry.trace import format_span_id, format_trace_id

import poise
from tests.contract.desk import Desk
from tests.gate import leave_mark, wait_at
from tests.spans import Seen, exporter, seen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.contract.conftest import OpenPool
    from tests.gate import Gate

log = logging.getLogger("tests.app")


class Odd:
    """Cannot be pickled, and logs when it is asked for its text."""

    def __reduce__(self) -> Any:
        log.warning("being pickled")
        raise TypeError("never")

    def __str__(self) -> str:
        log.warning("being shown")
        return "odd"


class Clerk(Desk):
    """Logs what it does."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        log.warning("made")
        if fails:
            raise LookupError("no such model")

    def say(self, text: str, level: int = logging.INFO, extra: dict[str, Any] | None = None) -> int:
        log.log(level, "%s", text, extra=extra)
        return os.getpid()

    async def say_async(self, text: str) -> None:
        await asyncio.sleep(0)
        await asyncio.create_task(self._say_in_task(text))

    async def _say_in_task(self, text: str) -> None:
        log.info(text)

    def say_in_stream(self, text: str) -> Iterator[int]:
        yield 1
        log.info(text)

    def say_failure(self) -> None:
        try:
            dict[str, int]()["not here"]
        except LookupError:
            log.exception("it failed", stack_info=True)

    def say_odd_things(self) -> None:
        log.info("odd field", extra={"odd": Odd(), "large": b"x" * 100_000, "many": (1, "two")})
        log.info("%s", Odd())
        log.info("%d", "no number")
        log.info("long %s", "x" * 100_000)
        logging.getLogger("poise").warning("poise's own")

    def say_much(self, lines: int, gate: str) -> None:
        leave_mark(gate, "begins")
        for number in range(lines):
            log.info("line %d %s", number, "x" * 500)
        leave_mark(gate, "has said it")

    def say_and_die(self) -> None:
        log.error("the last words")
        os._exit(3)

    def say_and_hold(self, gate: str) -> None:
        log.info("before")
        wait_at(gate)
        log.info("after")

    def close(self) -> None:
        log.warning("closed")


class Traced:
    """Logs in the trace of its caller, and in spans of its own below that."""

    def __init__(self) -> None:
        exporter()

    def say(self, text: str) -> None:
        log.info(text)
        with trace.get_tracer("tests").start_as_current_span("own"):
            log.info("%s, in a span of its own", text)
        log.info("%s, in its own words", text, extra={"trace_id": "mine"})

    async def say_async(self, text: str) -> None:
        await asyncio.sleep(0)
        await asyncio.create_task(self._say_in_task(text))

    async def _say_in_task(self, text: str) -> None:
        log.info(text)

    @poise.batched(max=2, wait=30.0)
    def say_together(self, texts: list[str]) -> list[None]:
        log.info(" and ".join(texts))
        return [None for _ in texts]

    def spans(self) -> list[Seen]:
        return seen()


class Untraced:
    """Is in a process that has no package for traces."""

    def __init__(self) -> None:
        cast("dict[str, Any]", sys.modules)["poise._worker.spans"] = None

    def say(self, text: str) -> None:
        log.info(text)

    @poise.batched(max=2, wait=30.0)
    def say_together(self, texts: list[str]) -> list[None]:
        log.info(" and ".join(texts))
        return [None for _ in texts]


def fails() -> Clerk:
    return Clerk(fails=True)


def say_alone(text: str) -> None:
    log.info(text)


class Heard(logging.Handler):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    async def until(self, predicate: Callable[[list[str]], bool]) -> None:
        async with asyncio.timeout(60):
            while not predicate(self.texts):
                await asyncio.sleep(0.005)

    async def one(self, text: str) -> Any:
        """The one record of this text, once it is there: untyped, because of its fields."""
        await self.until(lambda texts: text in texts)
        (record,) = (record for record in self.records if record.getMessage() == text)
        return record


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler = Heard()
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler
    log.setLevel(before)
    log.removeHandler(handler)


async def test_a_record_arrives_with_its_worker_its_function_and_all_else_that_it_had(
    open_pool: OpenPool, lane: str, heard: Heard
) -> None:
    async with open_pool(Clerk, size=1, logs="forward") as pool:
        before = time.time()
        pid = await pool.run(Clerk.say, "hello", extra={"customer": 17, "trace_id": "4bf92f"})
        after = time.time()
        record = await heard.one("hello")
        assert (record.name, record.levelname, record.funcName, record.module) == (log.name, "INFO", "say", "test_logs")
        assert (record.customer, record.trace_id) == (17, "4bf92f")
        assert before - 0.1 <= record.created <= after + 0.1
        assert record.process == pid
        if lane != "local":
            assert (record.worker, record.function) == (pool.stats().workers[0].id, "Clerk.say")
            assert pid != os.getpid()
        await pool.run(Clerk.say_failure)
        failure = await heard.one("it failed")
        text = logging.Formatter().format(failure)
        assert "it failed\nTraceback" in text
        assert "KeyError: 'not here'" in text
        assert "Stack (most recent call last)" in text
    assert len(heard.records) == len(set(heard.texts)), "each came once"


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_coroutines_streams_and_calls_beside_each_other_log_under_their_own_names(
    open_pool: OpenPool, lane: str, heard: Heard, concurrency: int
) -> None:
    async with open_pool(Clerk, size=1, concurrency=concurrency, logs="forward") as pool:
        await asyncio.gather(*(pool.submit(Clerk.say_async, f"task {n}") for n in range(5)))
        await asyncio.gather(*(pool.submit(Clerk.say, f"call {n}") for n in range(5)))
        assert [item async for item in pool.stream(Clerk.say_in_stream, "streamed")] == [1]
        await pool.run(lambda clerk: log.info("by a lambda of %s", type(clerk).__name__))
        if lane != "local":
            for n in range(5):
                assert (await heard.one(f"task {n}")).function == "Clerk.say_async"
                assert (await heard.one(f"call {n}")).function == "Clerk.say"
            assert (await heard.one("streamed")).function == "Clerk.say_in_stream"
            assert (await heard.one("by a lambda of Clerk")).function.endswith("<lambda>")


OF_A_TRACE = {"trace_id", "trace_ids", "span_id", "otelTraceID", "otelSpanID", "otelTraceSampled"}


async def test_what_a_call_logs_says_in_which_trace_and_span(open_pool: OpenPool, lane: str, heard: Heard) -> None:
    if lane == "local":
        pytest.skip("nothing is added there")
    exporter()
    async with open_pool(Traced, size=1, traces=True, logs="forward") as pool:
        with trace.get_tracer("tests").start_as_current_span("request") as request:
            await pool.run(Traced.say, "plain")
            await pool.run(Traced.say_async, "in a task")
            await asyncio.gather(*(pool.submit(Traced.say_together, f"value {value}") for value in range(2)))
        number = request.get_span_context().trace_id
        spans = {
            (span.name, span.kind): format_span_id(span.id)
            for span in await pool.run(Traced.spans)
            if span.trace == number
        }
        plain, said = await heard.one("plain"), await heard.one("plain, in its own words")
        for record, span in [
            (plain, ("Traced.say", "SERVER")),
            (await heard.one("plain, in a span of its own"), ("own", "INTERNAL")),
            (await heard.one("in a task"), ("Traced.say_async", "SERVER")),
            (batch := await heard.one("value 0 and value 1"), ("Traced.say_together (batch)", "INTERNAL")),
        ]:
            assert record.trace_id == record.otelTraceID == format_trace_id(number)
            assert record.span_id == record.otelSpanID == spans[span]
            assert record.otelTraceSampled is True
        assert (said.trace_id, said.otelTraceID) == ("mine", format_trace_id(number)), "it says so itself"
        assert batch.trace_ids == (format_trace_id(number),) * 2
        assert plain.trace_ids == (format_trace_id(number),)


async def test_what_is_logged_without_the_package_says_whose_call_it_was(
    open_pool: OpenPool, lane: str, heard: Heard
) -> None:
    if lane == "local":
        pytest.skip("nothing is added there")
    exporter()
    async with open_pool(Untraced, size=1, traces=True, logs="forward") as pool:
        await pool.run(Untraced.say, "plain")
        record = await heard.one("plain")
        await asyncio.gather(*(pool.submit(Untraced.say_together, f"value {value}") for value in range(2)))
        batch = await heard.one("value 0 and value 1")
    (call,) = (
        span for span in seen() if span.name == "Untraced.say" and format_trace_id(span.trace) == record.trace_id
    )
    assert (call.kind, format_span_id(call.id)) == ("CLIENT", record.span_id)
    assert record.otelTraceSampled is True
    assert len(set(batch.trace_ids)) == 2
    assert batch.trace_ids[0] == batch.trace_id


async def test_without_traces_nothing_of_them_is_added(open_pool: OpenPool, heard: Heard) -> None:
    exporter()
    async with open_pool(Traced, size=1, logs="forward") as pool:
        with trace.get_tracer("tests").start_as_current_span("request"):
            await pool.run(Traced.say_async, "in no trace")
        record = await heard.one("in no trace")
    assert not OF_A_TRACE & set(vars(record))


async def test_a_clean_close_loses_nothing(open_pool: OpenPool, lane: str, heard: Heard) -> None:
    async with open_pool(Clerk, size=2, min_ready=2, logs="forward") as pool:
        await asyncio.gather(*(pool.submit(Clerk.say, f"call {n}") for n in range(500)))
    texts = heard.texts
    assert sorted(texts) == sorted(["made"] * 2 + ["closed"] * 2 + [f"call {n}" for n in range(500)])
    if lane != "local":
        assert {record.__dict__["worker"] for record in heard.records} == {0, 1}


async def test_what_a_constructor_has_logged_before_it_failed_arrives(open_pool: OpenPool, heard: Heard) -> None:
    with pytest.raises(poise.PoolBroken):
        await open_pool(fails, size=1, logs="forward").open()
    assert "made" in heard.texts


async def test_the_last_words_before_a_death_arrive(
    open_pool: OpenPool, lane: str, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    if lane != "express":
        pytest.skip("it is another thread that writes them there" if lane == "tls" else "nothing is written there")
    async with open_pool(Clerk, size=1, logs="forward") as pool:
        for _ in range(3):
            with pytest.raises(poise.WorkerLost):
                await pool.run(Clerk.say_and_die)
    assert heard.texts.count("the last words") == 3


async def test_what_the_caller_would_drop_is_not_sent_and_workers_are_told_of_other_levels(
    open_pool: OpenPool, lane: str, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poise._lanes.logs.LEVELS_EVERY", 0.02)
    async with open_pool(Clerk, size=1, logs="forward") as pool:
        await pool.run(Clerk.say, "too low", logging.DEBUG)
        assert not await pool.run(lambda _: log.isEnabledFor(logging.DEBUG))
        log.setLevel(logging.DEBUG)
        while not await pool.run(lambda _: log.isEnabledFor(logging.DEBUG)):
            await asyncio.sleep(0.005)
        await pool.run(Clerk.say, "low", logging.DEBUG)
        await heard.one("low")
        log.setLevel(logging.ERROR)
        if lane != "local":
            await pool.run(lambda _: log.setLevel(logging.DEBUG))  # the worker may do as it likes, and the caller too
        await pool.run(Clerk.say, "not any more", logging.INFO)
    assert not {"too low", "not any more"} & set(heard.texts)


async def test_a_worker_that_logs_without_end_is_bounded_and_what_was_dropped_is_counted(
    open_pool: OpenPool, lane: str, heard: Heard, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    lines = 40_000
    async with open_pool(Clerk, size=1, logs="forward") as pool:
        began = pool.submit(Clerk.say_much, lines, gate.path)
        await gate.reached()
        while lane != "local" and len(gate.marks) < 2:
            time.sleep(0.002)  # noqa: ASYNC251 - the caller reads nothing
        await began
        assert await pool.run(Clerk.echo, 1) == 1
    numbers = [int(text.split()[1]) for text in heard.texts if text.startswith("line")]
    assert numbers == sorted(set(numbers)), "in order, and each once"
    said = [record.args for record in caplog.records if "records were dropped" in record.getMessage()]
    dropped = sum(args[1] for args in said if isinstance(args, tuple) and isinstance(args[1], int))
    assert len(numbers) + dropped == lines
    assert lane == "local" or dropped, "more than what waits and what buffers hold"


async def test_fields_that_cannot_travel_and_messages_that_cannot_be_formatted_harm_nothing(
    open_pool: OpenPool, lane: str, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    if lane == "local":
        pytest.skip("they do not travel")
    async with open_pool(Clerk, size=1, logs="forward") as pool:
        await pool.run(Clerk.say_odd_things)
        record = await heard.one("odd field")
        assert record.odd.endswith("Odd, which could not be pickled: TypeError: never>")
        assert record.large.startswith("<bytes of 100,0")
        assert record.many == (1, "two")
        await heard.one("odd")
        await heard.until(lambda texts: any("could not be formatted: TypeError" in text for text in texts))
        await heard.until(lambda texts: any("characters left out" in text for text in texts))
    assert not {"being pickled", "being shown"} & set(heard.texts), "no recursion"
    (own,) = (record for record in caplog.records if record.getMessage() == "poise's own")
    assert own.__dict__["function"] == "Clerk.say_odd_things"


async def test_as_long_as_nobody_asks_nothing_is_forwarded(open_pool: OpenPool, lane: str, heard: Heard) -> None:
    if lane == "local":
        pytest.skip("they log in this process")
    async with open_pool(None, size=1) as pool:
        await pool.run(say_alone, "unheard")
        assert await pool.run(lambda: not logging.getLogger().handlers)
    assert heard.texts == []


async def test_plain_functions_log_too(open_pool: OpenPool, lane: str, heard: Heard) -> None:
    async with open_pool(None, size=1, logs="forward") as pool:
        await pool.run(say_alone, "heard")
        record = await heard.one("heard")
        if lane != "local":
            assert record.function == "say_alone"


def test_an_executor_forwards_too(lane: str, heard: Heard) -> None:
    if lane != "express":
        pytest.skip("it is the same pool")
    with poise.Executor(max_workers=1, logs="forward") as executor:
        executor.submit(say_alone, "heard").result()
    (record,) = heard.records
    assert record.getMessage() == "heard"
    assert record.__dict__["worker"] == 0


def test_it_is_one_of_two() -> None:
    with pytest.raises(poise.ConfigError, match=r"logs='stdout' is not allowed.*'ray'.*'forward'"):
        poise.Pool(logs="stdout")  # type: ignore[call-overload]
