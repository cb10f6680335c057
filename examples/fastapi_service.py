"""A web service over a pool of workers: `uvicorn examples.fastapi_service:app`.

curl 'localhost:8000/square?x=7'                                  # 49
curl 'localhost:8000/square?x=7' -H 'X-Request-Timeout: 0.001'    # 504
curl localhost:8000/readyz
"""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse

import poise
from poise import asgi


class Model:
    """Stands for something that is slow to make and busy when it is used."""

    def __init__(self) -> None:
        self.bias = 0

    def square(self, x: int) -> int:
        """Take its time."""
        time.sleep(0.02)
        return x * x + self.bias

    def count(self, end: int) -> Iterator[int]:
        """Give one number after the other."""
        yield from range(end)


app = FastAPI(title="Squares")
asgi.install(app, lambda: poise.Pool(Model, size=2, backlog=20), deadline_header="X-Request-Timeout")

ModelPool = Annotated[poise.View[Model], Depends(asgi.pool)]


@app.get("/square")
async def square(x: int, model: ModelPool) -> int:
    """Refuse at once when the backlog is full: `submit`, not `run`."""
    return await model.submit(Model.square, x)


@app.get("/count")
async def count(end: int, model: ModelPool) -> StreamingResponse:
    """Send each number as it is made. A client that goes stops the worker."""

    async def lines() -> AsyncIterator[str]:
        async for number in model.stream(Model.count, end):
            yield f"{number}\n"

    return StreamingResponse(lines(), media_type="text/plain")
