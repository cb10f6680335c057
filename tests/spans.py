"""What is traced, and the variables of a context, for tests: on either side, for workers import this too."""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import NamedTuple

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

request_id: ContextVar[str] = ContextVar("request_id")
tenant: ContextVar[object] = ContextVar("tenant", default="nobody")


class Seen(NamedTuple):
    """A span that has ended, as it can travel."""

    name: str
    kind: str
    trace: int
    id: int
    parent: int | None
    links: tuple[int, ...]
    events: tuple[str, ...]
    status: str
    attributes: dict[str, object]


@functools.cache
def exporter() -> InMemorySpanExporter:
    """What this process's spans go to."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def seen() -> list[Seen]:
    """The spans that have ended in this process."""
    return [_seen(span) for span in exporter().get_finished_spans()]


def _seen(span: ReadableSpan) -> Seen:
    assert span.context is not None
    return Seen(
        span.name,
        span.kind.name,
        span.context.trace_id,
        span.context.span_id,
        None if span.parent is None else span.parent.span_id,
        tuple(link.context.span_id for link in span.links),
        tuple(event.name for event in span.events),
        span.status.status_code.name,
        dict(span.attributes or {}),
    )


def mark(name: str) -> None:
    """Leave a span below the one that is current."""
    with trace.get_tracer("tests").start_as_current_span(name):
        pass
