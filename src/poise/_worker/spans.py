"""Spans of calls in their worker, for OpenTelemetry."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from opentelemetry import context, propagate, trace
from opentelemetry.trace import Link, SpanKind, StatusCode

from poise._protocol.headers import ATTEMPT, FUNCTION, Ids, batch_fields, trace_fields
from poise._protocol.words import describe, type_name

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from poise._protocol.messages import Headers


class Spans:
    """The span of one call; of a batch one for each of its calls, and one for the batch, which is linked to them."""

    __slots__ = ("_spans",)

    def __init__(self, headers: Headers) -> None:
        """Begin them here and now, below what the caller says, and make current the one in which the code runs."""
        tracer = trace.get_tracer("poise")
        name = headers[FUNCTION].decode()
        attributes: dict[str, str | int] = {"poise.function": name, "poise.attempt": int(headers.get(ATTEMPT, b"1"))}
        above = propagate.extract(trace_fields(headers))
        callers = [propagate.extract(fields) for fields in batch_fields(headers)]
        if not callers:
            span = tracer.start_span(name, above, SpanKind.SERVER, attributes=attributes)
            self._spans = [span]
        else:
            links = [_link(caller) for caller in callers]
            batched: dict[str, str | int] = {"poise.function": name, "poise.batched": len(callers)}
            span = tracer.start_span(f"{name} (batch)", above, attributes=batched, links=links)
            own = [Link(span.get_span_context())]
            each = [tracer.start_span(name, caller, SpanKind.SERVER, batched, own) for caller in callers]
            self._spans = [*each, span]
        context.attach(trace.set_span_in_context(span, above))  # never detached: this context ends with the call

    @property
    def here(self) -> Ids | None:
        """The span that is current, which the code may have begun below the call's own; None if there is none."""
        current = trace.get_current_span().get_span_context()
        if not current.is_valid:  # nor is anything below a caller without one
            return None
        number, span = trace.format_trace_id(current.trace_id), trace.format_span_id(current.span_id)
        return Ids(number, span, current.trace_flags.sampled)

    @property
    def traces(self) -> tuple[str, ...]:
        """Of a batch: those of its calls."""
        each = self._spans[:-1]
        return tuple(trace.format_trace_id(span.get_span_context().trace_id) for span in each)

    def end(self) -> None:
        """The call has ended, by the exception that is being handled if there is one."""
        error = sys.exception()
        for span in self._spans:
            if error is not None:
                _fail(span, error)
            span.end()


def _link(caller: Context) -> Link:
    return Link(trace.get_current_span(caller).get_span_context())


def _fail(span: Span, error: BaseException) -> None:
    span.set_attribute("error.type", type_name(error))
    span.set_status(StatusCode.ERROR, describe(error))
    span.record_exception(error)
