"""Spans of the service and of its workers, in one file: what a request has done is found by its trace id.

The spans of requests are FastAPI's own; before 0.165 they are made by OpenTelemetry's FastAPIInstrumentor.
"""

from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from examples.digits.classifier import Classifier


def write_spans(path: Path) -> None:
    """Append each span of this process when it ends, as a line of JSON; others may append to the same file.

    A service of yours exports them to where you look at traces, with OTLPSpanExporter.
    """
    file = path.open("a", encoding="utf-8")
    exporter = ConsoleSpanExporter(out=file, formatter=lambda span: span.to_json(indent=None) + "\n")
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def traced_classifier(spans: Path) -> Classifier:
    """Make what a worker holds, where its spans are written too."""
    write_spans(spans)
    return Classifier()
