"""A web service that classifies handwritten digits on a pool of workers.

All that it needs to say about the pool is here: opened and closed with the application, one line for a call, and a
page, metrics and an HTTP status for each way in which a call can fail to be answered.
"""

import dataclasses
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

import poise
from examples.digits.classifier import SIDE, Answer, Classifier
from poise import asgi

Ink = Annotated[int, Field(ge=0, le=16)]
Row = Annotated[list[Ink], Field(min_length=SIDE, max_length=SIDE)]


class Scan(BaseModel):
    """An image: 8 rows of 8 pixels, from 0 (paper) to 16 (ink)."""

    pixels: Annotated[list[Row], Field(min_length=SIDE, max_length=SIDE)]


def create_app(
    *,
    workers: int = 2,
    most: int | None = None,
    timeout: float = 5.0,
    backlog: int = 500,
    record: Path | None = None,
    spans: Path | None = None,
) -> FastAPI:
    """Make the service.

    Args:
        workers: how many processes classify, each with a classifier of its own.
        most: how many there may be while there is much to do; no more than `workers` if None.
        timeout: seconds within which a call is answered, or refused with 504.
        backlog: the most calls that may wait for a worker; one more is refused with 503.
        record: where to write down which worker ran what, and when.
        spans: where the workers write their spans, for OpenTelemetry.
    """
    policies: dict[str, Any] = {
        # What leaks ends with its process: none answers for ever, or outgrows its machine.
        "recycle": poise.Recycle(calls=100_000, memory="2GiB"),
        # One that hangs, or answers nonsense, is found without anybody's complaint.
        "health": poise.Health(Classifier.check, every=10.0, timeout=5.0),
        # More of them while calls would wait for longer than a start takes.
        "size": poise.Elastic(workers, max(workers, most or 0), idle=30.0),
    }
    watching: dict[str, Any] = {
        # What slow requests have done is found by their traces: their spans, in the log, and in the recording.
        "traces": find_spec("opentelemetry") is not None,
        "logs": "forward",
        "record": record,
    }
    factory: Any = Classifier
    if spans is not None:
        from examples.digits.traces import traced_classifier

        factory = partial(traced_classifier, spans)
    pool: poise.Pool[Classifier] = poise.Pool(factory, backlog=backlog, **policies, **watching)
    app = FastAPI(title="Handwritten digits")
    app.state.pool = pool
    # To classify twice does no harm, so a call whose worker dies is run again on another.
    app.state.view = pool.options(timeout=timeout, retries=2)
    # Opens and closes it with the application, and answers /healthz and /readyz.
    asgi.install(app, pool, page="/poise", metrics="/metrics")
    app.post("/classify")(classify)
    app.get("/stats")(stats)
    app.post("/reload")(reload)
    for kind in STATUS:
        app.add_exception_handler(kind, refuse)
    return app


def _pool(request: Request) -> poise.Pool[Classifier]:
    return cast("poise.Pool[Classifier]", request.app.state.pool)


def _view(request: Request) -> poise.View[Classifier]:
    return cast("poise.View[Classifier]", request.app.state.view)


async def classify(scan: Scan, view: Annotated[poise.View[Classifier], Depends(_view)]) -> Answer:
    """Say which digit an image shows."""
    # `submit` and not `run`, which waits for room: when the backlog is full, a service had better refuse at once.
    return await view.submit(Classifier.classify, scan.pixels)


async def stats(pool: Annotated[poise.Pool[Classifier], Depends(_pool)]) -> dict[str, Any]:
    """Say what the pool is doing."""
    return dataclasses.asdict(pool.stats())


async def reload(pool: Annotated[poise.Pool[Classifier], Depends(_pool)]) -> dict[str, int]:
    """Replace every classifier by one that is trained anew, while the service goes on; to be kept from strangers."""
    await pool.reload()
    return {"generation": pool.stats().generation}


STATUS = {  # beside those of asgi.STATUS
    poise.WorkerLost: 502,  # on a worker at its death three times over
    poise.ReplaceFailed: 500,  # the classifiers are the old ones still
}


async def refuse(request: Request, error: Exception) -> Response:  # noqa: ARG001 (as Starlette calls it)
    """Say which error it is."""
    status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    return JSONResponse({"error": type(error).__name__, "detail": str(error)}, status)
