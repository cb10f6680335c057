"""Traces, and variables of the caller's context, reach the code of a call over every lane."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace

import poise
from tests.spans import Seen, exporter, mark, request_id, seen, tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractAsyncContextManager

    from tests.contract.conftest import SharePool

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Post:
    """Leaves a span of its own in each call, and says what variables it has found."""

    def __init__(self) -> None:
        exporter()
        self.failures = 0

    def plain(self, name: str) -> tuple[str | None, object]:
        mark(name)
        return request_id.get(None), tenant.get()

    async def coroutine(self, name: str) -> tuple[str | None, object]:
        await asyncio.sleep(0)
        mark(name)
        return await asyncio.create_task(self.found())

    async def found(self) -> tuple[str | None, object]:
        return request_id.get(None), tenant.get()

    def stream(self, name: str) -> Iterator[tuple[str | None, object]]:
        yield self.plain(name)

    async def async_stream(self, name: str) -> AsyncIterator[tuple[str | None, object]]:
        yield await self.coroutine(name)

    def changing(self, name: str) -> None:
        tenant.set(name)

    def failing_once(self, name: str) -> None:
        mark(name)
        self.failures += 1
        if self.failures % 2:
            raise ValueError("not yet")

    @poise.batched(max=3, wait=30.0)
    def together(self, names: list[str]) -> list[object]:
        mark(names[0])
        return [(request_id.get(None), tenant.get()) for _ in names]

    def spans(self) -> list[Seen]:
        return seen()


def posts(share_pool: SharePool) -> AbstractAsyncContextManager[poise.Pool[Post]]:
    return share_pool(Post, size=1, traces=True, context=(request_id, tenant))


class Trace:
    """The spans of one trace, on both sides."""

    def __init__(self, spans: list[Seen], number: int) -> None:
        self.spans = {span.id: span for span in spans if span.trace == number}

    def named(self, name: str, kind: str) -> list[Seen]:
        return [span for span in self.spans.values() if (span.name, span.kind) == (name, kind)]

    def one(self, name: str, kind: str) -> Seen:
        (span,) = self.named(name, kind)
        return span

    def above(self, span: Seen) -> list[str]:
        names = [span.name]
        while span.parent is not None:
            span = self.spans[span.parent]
            names.append(span.name)
        return names


async def trace_of(pool: poise.Pool[Post], number: int) -> Trace:
    """Its spans, once they have all ended; the call that asks is in no trace that is looked at."""
    there = await pool.run(Post.spans)
    await asyncio.sleep(0)  # the last call's observers are told
    return Trace([*there, *seen()], number)


async def test_what_a_call_runs_is_below_its_caller_in_the_trace(share_pool: SharePool) -> None:
    async with posts(share_pool) as pool:
        exporter()
        with trace.get_tracer("tests").start_as_current_span("request") as request:
            number = request.get_span_context().trace_id
            await pool.run(Post.plain, "by run")
            await pool.submit(Post.coroutine, "by submit")
            _ = [each async for each in pool.map(Post.plain, ["by map"])]
            _ = [each async for each in pool.stream(Post.stream, "by stream")]
            _ = [each async for each in pool.stream(Post.async_stream, "by async stream")]
            async with pool.lease() as worker:
                await worker.run(Post.plain, "in a lease")
        whole = await trace_of(pool, number)
    for name, method in [
        ("by run", "plain"),
        ("by submit", "coroutine"),
        ("by map", "plain"),
        ("by stream", "stream"),
        ("by async stream", "async_stream"),
        ("in a lease", "plain"),
    ]:
        span = whole.one(name, "INTERNAL")
        assert whole.above(span) == [name, f"Post.{method}", f"Post.{method}", "request"]
    call = whole.one("Post.coroutine", "CLIENT")
    assert call.events == ("wait", "run")
    assert call.status == "UNSET"
    assert call.attributes.items() >= {"poise.function": "Post.coroutine", "poise.outcome": "returned"}.items()
    assert whole.one("Post.coroutine", "SERVER").parent == call.id
    assert whole.one("lease", "CLIENT").attributes["poise.outcome"] == "returned"


async def test_a_further_attempt_is_linked_to_the_one_before(share_pool: SharePool) -> None:
    async with posts(share_pool) as pool:
        with trace.get_tracer("tests").start_as_current_span("request") as request:
            number = request.get_span_context().trace_id
            await pool.options(retries=1, retry_on=ValueError, retry_delay=0).run(Post.failing_once, "tried")
        whole = await trace_of(pool, number)
    call = whole.one("Post.failing_once", "CLIENT")
    again = whole.one("Post.failing_once (attempt 2)", "CLIENT")
    assert call.events == ("wait", "run", "wait", "run")
    assert (again.parent, again.links) == (call.id, (call.id,))
    first, second = whole.named("Post.failing_once", "SERVER")
    assert (first.parent, first.status, first.events) == (call.id, "ERROR", ("exception",))
    assert first.attributes["error.type"] == "ValueError"
    assert (second.parent, second.status, second.attributes["poise.attempt"]) == (again.id, "UNSET", 2)


async def test_each_call_of_a_batch_has_a_span_that_is_linked_to_that_of_the_batch(share_pool: SharePool) -> None:
    async with posts(share_pool) as pool:
        with trace.get_tracer("tests").start_as_current_span("request") as request:
            number = request.get_span_context().trace_id
            await asyncio.gather(*(pool.submit(Post.together, f"value {value}") for value in range(3)))
        whole = await trace_of(pool, number)
    calls = whole.named("Post.together", "CLIENT")
    batch = whole.one("Post.together (batch)", "INTERNAL")
    assert batch.links == tuple(call.id for call in calls)
    each = whole.named("Post.together", "SERVER")
    assert [span.parent for span in each] == [call.id for call in calls]
    assert [span.links for span in each] == [(batch.id,)] * 3
    assert whole.one("value 0", "INTERNAL").parent == batch.id


async def test_variables_have_their_callers_values_while_a_call_runs(share_pool: SharePool) -> None:
    async with posts(share_pool) as pool:
        assert await pool.run(Post.plain, "") == (None, "nobody")
        token = request_id.set("7")
        try:
            call = pool.submit(Post.plain, "")
            own = tenant.set({"name": "us", "long": "x" * 20_000})
            them = tenant.get()
            assert await pool.run(Post.plain, "") == ("7", them)
            assert await pool.run(Post.coroutine, "") == ("7", them)
            assert [each async for each in pool.stream(Post.stream, "")] == [("7", them)]
            assert [each async for each in pool.stream(Post.async_stream, "")] == [("7", them)]
            tenant.reset(own)
            assert await call == ("7", "nobody")
            await pool.run(Post.changing, "somebody else")
        finally:
            request_id.reset(token)
        assert await pool.run(Post.plain, "") == (None, "nobody")
        assert await pool.run(Post.coroutine, "") == (None, "nobody")


async def test_a_batch_has_what_all_of_its_callers_agree_on(share_pool: SharePool) -> None:
    async def call(pool: poise.Pool[Post], value: int) -> Any:
        tenant.set("all of us")
        request_id.set(str(value))
        return await pool.run(Post.together, str(value))

    async with posts(share_pool) as pool:
        assert await asyncio.gather(*(call(pool, value) for value in range(3))) == [(None, "all of us")] * 3


async def test_a_variable_that_cannot_travel_fails_its_own_call_by_name(share_pool: SharePool) -> None:
    async def call(pool: poise.Pool[Post], value: object, name: str) -> Any:
        tenant.set(value)
        return await pool.run(Post.together if name == "together" else Post.plain, name)

    async with posts(share_pool) as pool:
        large = "x" * 100_000
        with pytest.raises(poise.PayloadError, match=r"the context variable 'tenant' .* 65536 .* give it as an arg"):
            await call(pool, large, "")
        for name in ["plain", "together"]:
            wrong, *right = await asyncio.gather(
                call(pool, asyncio.get_running_loop(), name),
                *(call(pool, 1, name) for _ in range(2 if name == "together" else 1)),
                return_exceptions=True,
            )
            assert isinstance(wrong, poise.PayloadError)
            assert "the context variable 'tenant'" in str(wrong)
            assert wrong.started is False
            assert right == [(None, 1)] * len(right)


class Refuses:
    """What can be pickled and not unpickled."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


async def test_a_variable_that_cannot_arrive_fails_its_own_call_by_name(share_pool: SharePool) -> None:
    async with posts(share_pool) as pool:
        own = tenant.set(Refuses())
        call = pool.submit(Post.coroutine, "")
        tenant.reset(own)
        with pytest.raises(poise.PayloadError, match=r"the context variable 'tenant' .*ValueError: invalid literal"):
            await call
        assert await pool.run(Post.plain, "") == (None, "nobody")
