"""The context in which a call runs whose caller has given it one: variables, and a span that is current.

Each such call has a copy of its thread's context, so that nothing of it is left for the next.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from typing import TYPE_CHECKING, Any

from poise._protocol.headers import CONTEXT, FUNCTION, batch_fields, ids_in, trace_fields, unpack_context

if TYPE_CHECKING:
    from poise._protocol.messages import Headers
    from poise._worker.inbox import Arrival
    from poise._worker.spans import Spans

_log = logging.getLogger("poise")

_spans: contextvars.ContextVar[Spans | None] = contextvars.ContextVar("poise_spans", default=None)
_untraced = threading.Event()
"""Set once it was said that there can be no spans here."""


def context_of(call: Arrival) -> contextvars.Context:
    """The context in which a call with headers is to run.

    Raises:
        PayloadError: a variable is not found here, or its value cannot be unpickled.
    """
    assert call.headers is not None
    context = contextvars.copy_context()
    context.run(_enter, call.headers)
    return context


def _enter(headers: Headers) -> None:
    if CONTEXT in headers:
        for variable, value in unpack_context(headers[CONTEXT]):
            variable.set(value)
    if FUNCTION in headers and not _untraced.is_set():
        try:
            from poise._worker.spans import Spans

            _spans.set(Spans(headers))
        except ImportError:
            _untraced.set()
            _log.warning("a worker has no opentelemetry-api, so that what it runs is in no trace")
        except Exception:  # noqa: BLE001 - what exports them may raise anything, and the call is to run
            _log.exception("a call runs without a span: OpenTelemetry has failed")


def trace_said(call: Arrival) -> dict[str, Any]:
    """What a log record says of the trace in which the call runs that logs it: nothing if it is in none.

    By the names that OpenTelemetry's specification has for logs, and by those of its instrumentation of `logging`, for
    which the formatters of a program that has that are made.
    """
    headers = call.headers
    if headers is None or FUNCTION not in headers:
        return {}
    spans = _spans.get()
    ids = ids_in(trace_fields(headers)) if spans is None else spans.here
    if ids is None:
        return {}
    together = _traces(headers) if spans is None else spans.traces
    said: dict[str, Any] = {"trace_id": ids.trace, "trace_ids": together or (ids.trace,), "span_id": ids.span}
    return said | {"otelTraceID": ids.trace, "otelSpanID": ids.span, "otelTraceSampled": ids.is_sampled}


def _traces(headers: Headers) -> tuple[str, ...]:
    """Of a batch: those of its calls."""
    return tuple(ids.trace for fields in batch_fields(headers) if (ids := ids_in(fields)) is not None)


def leave() -> None:
    """The call has ended, within its context; if by an exception, that is being handled."""
    if (spans := _spans.get()) is not None:
        try:
            spans.end()
        except Exception:  # noqa: BLE001 - likewise
            _log.exception("the span of a call is not complete: OpenTelemetry has failed")
