"""One slow request of the demo is followed: from its HTTP header to what its worker did, logged, and is drawn with."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import httpx
from opentelemetry.trace import format_span_id, format_trace_id

from examples.digits.classifier import unseen
from examples.digits.service import create_app
from tests.spans import Seen, exporter, seen

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
"""Those of the W3C's own example."""


def here(name: str, kind: str) -> Seen:
    """The one span of the trace that has ended in this process and is called so."""
    (span,) = (span for span in seen() if (format_trace_id(span.trace), span.name, span.kind) == (TRACE, name, kind))
    return span


def above(span: Seen) -> list[str]:
    """The spans above one, from below, by their ids."""
    parents = {each.id: each.parent for each in seen()}
    found: list[str] = []
    parent = span.parent
    while parent is not None:
        found.append(format_span_id(parent))
        parent = parents.get(parent)
    return found


def there(spans: Path) -> dict[str, dict[str, Any]]:
    """The spans that have ended in workers, by their ids."""
    lines = [json.loads(line) for line in spans.read_text().splitlines()]
    return {line["context"]["span_id"].removeprefix("0x"): line for line in lines}


def in_trace(span: dict[str, Any]) -> bool:
    """Whether it is of the trace that is followed."""
    return bool(span["context"]["trace_id"] == f"0x{TRACE}")


async def test_one_slow_request_is_followed_from_its_header_to_its_worker_and_to_its_bar(
    shared_ray: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exporter()
    caplog.set_level(logging.INFO, "examples.digits.classifier")
    spans, record = tmp_path / "spans.jsonl", tmp_path / "run.json"
    images, _ = unseen(20)
    app = create_app(workers=1, timeout=60.0, spans=spans, record=record)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(base_url="http://digits", transport=httpx.ASGITransport(app)) as http,
    ):
        others = [http.post("/classify", json={"pixels": image}) for image in images[1:]]
        header = {"traceparent": f"00-{TRACE}-{CLIENT}-01"}
        slow = http.post("/classify", json={"pixels": images[0]}, headers=header)
        *_, answer = await asyncio.gather(*others, slow)
    assert answer.status_code == 200

    # Here: the request's span is below its client's, and the call's below the request's.
    request, call = here("POST /classify", "SERVER"), here("Classifier.classify", "CLIENT")
    assert above(request) == [CLIENT]
    assert above(call)[-2:] == [format_span_id(request.id), CLIENT]
    assert call.attributes["poise.outcome"] == "returned"

    # In the worker: the call's span is below that, and what ran is linked to it, for the image was not looked at alone.
    workers = there(spans)
    (own,) = (number for number, span in workers.items() if in_trace(span) and span["kind"] == "SpanKind.SERVER")
    assert workers[own]["parent_id"] == f"0x{format_span_id(call.id)}"
    ran = next((link["context"]["span_id"].removeprefix("0x") for link in workers[own]["links"]), own)

    # The log line of the worker.
    (line,) = (each for each in caplog.records if TRACE in getattr(each, "trace_ids", ()))
    assert "looked at together" in line.getMessage()
    assert (line.__dict__["worker"], line.__dict__["span_id"]) == (call.attributes["poise.worker"], ran)

    # Its bar in the timeline: it says why the request was slow.
    (bar,) = (event for event in json.loads(record.read_text()) if event.get("args", {}).get("trace_id") == TRACE)
    assert (bar["name"], bar["args"]["span_id"]) == ("Classifier.classify", format_span_id(call.id))
    assert bar["args"]["call"] == call.attributes["poise.call"]
    assert bar["pid"] == line.__dict__["worker"] + 1
    assert bar["args"]["waiting_ms"] > 0
