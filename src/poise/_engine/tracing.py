"""Spans of calls, as their caller sees them, for OpenTelemetry.

Each call has a span of its own, from its submission to its outcome, below the one that is current where it is
submitted. The worker's span, in which the user's code runs, is below that. A further attempt has a span between the
two, which is linked to the attempt before.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from opentelemetry import context, propagate, trace
from opentelemetry.trace import Link, SpanKind, StatusCode

from poise._protocol.headers import trace_headers
from poise._protocol.words import describe, type_name
from poise.events import Observer

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from opentelemetry.trace import Span, Tracer

    from poise._engine.carrying import CarryingCall
    from poise._protocol.messages import Headers
    from poise.events import CallAdmitted, CallBegun, CallEnded, CallGranted, CallPutBack

logger = logging.getLogger("poise")


@contextlib.contextmanager
def harmless() -> Generator[None]:
    """Whatever becomes of a trace, its call goes on."""
    try:
        yield
    except Exception:
        logger.exception("a trace is not complete: OpenTelemetry, or what it was told to do, has failed")


class Tracing(Observer):
    """Follows the calls of one pool."""

    def __init__(self, pool: str) -> None:
        """Follow none yet."""
        self._pool = pool
        self._tracer = trace.get_tracer("poise")
        self._newest: CarryingCall[Any] | None = None
        """The call that was made last, whose number was not known yet."""
        self._trails: dict[int, Trail] = {}
        """Those of calls that have not ended."""

    def __repr__(self) -> str:
        """Say what it does, for the log."""
        return "what traces=True does"

    def follow(self, call: CarryingCall[Any]) -> Trail | None:
        """Begin the span of a call that is about to be submitted, where that is done."""
        self._learn_number()
        trail: Trail | None = None
        with harmless():
            trail = Trail(self._tracer, call, self._pool)
            self._newest = call
        return trail

    def _learn_number(self) -> None:
        """Whatever happens next, the newest call has its number now, or was refused before it got one."""
        call, self._newest = self._newest, None
        if call is not None and call.trail is not None and call.record is not None:
            self._trails[call.record.id] = call.trail

    def said_of(self, call_id: int) -> dict[str, str]:
        """What a recording says of the trace of a call that has not been told to have ended, if it is in one."""
        self._learn_number()
        trail = self._trails.get(call_id)
        return {} if trail is None else trail.said

    def _mark(self, at: float, call_id: int, what: str, **attributes: int | bool) -> None:
        self._learn_number()
        if (trail := self._trails.get(call_id)) is not None:
            trail.mark(at, what, attributes)

    def call_admitted(self, event: CallAdmitted, /) -> None:
        """Mark that it waits."""
        self._mark(event.at, event.call, "wait")

    def call_granted(self, event: CallGranted, /) -> None:
        """Mark that it is sent to wait at a worker."""
        if event.is_ahead:
            self._mark(event.at, event.call, "sent ahead", worker=event.worker, attempt=event.attempt)

    def call_begun(self, event: CallBegun, /) -> None:
        """Mark that it runs."""
        self._mark(event.at, event.call, "run", worker=event.worker, attempt=event.attempt)

    def call_put_back(self, event: CallPutBack, /) -> None:
        """Mark that it waits again."""
        who = {"worker": event.worker, "attempt": event.attempt}
        self._mark(event.at, event.call, "wait", **who, is_retry=event.is_retry)

    def call_ended(self, event: CallEnded, /) -> None:
        """End its span."""
        self._learn_number()
        if (trail := self._trails.pop(event.call, None)) is not None:
            trail.end(event)


class Trail:
    """The spans of one call at its caller."""

    __slots__ = ("_attempt", "_began", "_call", "_context", "_number", "_span", "_tracer")

    def __init__(self, tracer: Tracer, call: CarryingCall[Any], pool: str) -> None:
        """Begin the span of the call."""
        self._tracer = tracer
        self._call = call
        self._context = context.get_current()
        self._began = time.time_ns()
        attributes = {"poise.pool": pool, "poise.function": call.name}
        self._span = tracer.start_span(
            call.name, self._context, SpanKind.CLIENT, attributes=attributes, start_time=self._began
        )
        self._attempt: Span = self._span
        """The span of the present attempt: for the first one that of the call."""
        self._number = 1

    @property
    def said(self) -> dict[str, str]:
        """Its trace and the span of the present attempt, as W3C writes them, if it is in a trace."""
        here = self._attempt.get_span_context()
        if not here.is_valid:
            return {}
        return {"trace_id": trace.format_trace_id(here.trace_id), "span_id": trace.format_span_id(here.span_id)}

    def headers(self, attempt: int) -> Headers:
        """What tells a worker of the trace."""
        fields: dict[str, str] = {}
        with harmless():
            if attempt > self._number:
                self._try_again(attempt)
            propagate.inject(fields, trace.set_span_in_context(self._attempt, self._context))
        return trace_headers(self._call.name, attempt, fields)

    def _try_again(self, attempt: int) -> None:
        before, self._number = self._attempt, attempt
        self._attempt = self._tracer.start_span(
            f"{self._call.name} (attempt {attempt})",
            trace.set_span_in_context(self._span, self._context),
            SpanKind.CLIENT,
            attributes={"poise.attempt": attempt},
            links=[Link(before.get_span_context())],
        )
        if before is not self._span:
            before.end()

    def mark(self, at: float, what: str, attributes: Mapping[str, int | bool]) -> None:
        """Mark what has happened at this time of the pool's clock."""
        with harmless():
            self._span.add_event(what, {f"poise.{name}": value for name, value in attributes.items()}, self._ns(at))

    def refused(self, error: BaseException | None) -> None:
        """The call was not accepted."""
        with harmless():
            self._span.set_attribute("poise.outcome", "refused")
            self._close(error, None)

    def end(self, event: CallEnded) -> None:
        """The call has had its outcome."""
        with harmless():
            names = ("call", "worker", "attempt", "outcome", "waiting", "travelling", "running")
            said = {f"poise.{name}": getattr(event, name) for name in names}
            self._span.set_attributes({name: value for name, value in said.items() if value is not None})
            self._close(None if event.outcome == "cancelled" else self._call.failure, self._ns(event.at))

    def _close(self, error: BaseException | None, at: int | None) -> None:
        self._call.trail = None  # neither is to keep the other alive
        if error is not None:
            self._span.set_attribute("error.type", type_name(error))
            self._span.set_status(StatusCode.ERROR, describe(error))
        if self._attempt is not self._span:
            self._attempt.end(at)
        self._span.end(at)

    def _ns(self, at: float) -> int:
        """A time of the pool's clock as nanoseconds since 1970."""
        assert self._call.record is not None
        return self._began + max(0, int((at - self._call.record.submitted_at) * 1e9))
