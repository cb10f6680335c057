"""An application for the tests of `poise.asgi`, also run by uvicorn as a program of its own."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator  # noqa: TC003 - FastAPI reads annotations
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import uvicorn
from fastapi import BackgroundTasks, Depends, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse

import poise
from poise import asgi
from tests.gate import count_until_closed, leave_mark, wait_at, wait_at_async


class Desk:
    """What the workers hold."""

    def square(self, x: int, seconds: float = 0.0, gate: str = "") -> int:
        time.sleep(seconds)
        if gate:
            wait_at(gate, x)
        return x * x

    def hold(self, gate: str, mark: str = "") -> str:
        wait_at(gate, mark)
        return mark

    async def hold_async(self, gate: str) -> None:
        try:
            await wait_at_async(gate, "held")
        except asyncio.CancelledError:
            leave_mark(gate, "cancelled")
            raise

    def count(self, gate: str) -> Iterator[int]:
        yield from count_until_closed(gate)


DeskPool = Annotated[poise.View[Desk], Depends(asgi.pool)]


def make_app(  # noqa: C901 - its endpoints
    make_pool: Callable[[], poise.Pool[Any]], events: list[str] | None = None, **options: Any
) -> FastAPI:
    told = [] if events is None else events

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        told.append("the application starts")
        yield {"greeting": "hello"}
        told.append("the application ends")

    pools: list[poise.Pool[Any]] = []

    def make_and_keep_pool() -> poise.Pool[Any]:
        pools.append(make_pool())
        return pools[-1]

    app = FastAPI(lifespan=lifespan)
    asgi.install(app, make_and_keep_pool, **options)

    @app.get("/square")
    async def square(x: int, desk: DeskPool, seconds: float = 0.0, gate: str = "") -> int:
        return await desk.submit(Desk.square, x, seconds, gate)

    @app.get("/later")
    async def later(x: int, gate: str, desk: DeskPool) -> int:
        """Ask for more time than the request may have left."""
        deadline = asyncio.get_running_loop().time() + 3600
        return await desk.options(deadline=deadline).options(timeout=None).submit(Desk.square, x, 0.0, gate)

    @app.get("/submitted")
    async def submitted() -> int:
        return pools[-1].stats().submitted

    @app.get("/twice")
    async def twice(gate: str, desk: DeskPool) -> tuple[int, str]:
        return await desk.run(Desk.square, 1, 0.0), await desk.run(Desk.hold, gate)

    @app.post("/hold")
    async def hold(request: Request, gate: str, desk: DeskPool) -> int:
        length = len(await request.body())
        await desk.run(Desk.hold_async, gate)
        return length

    @app.get("/count")
    async def count(gate: str, desk: DeskPool) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            async for number in desk.stream(Desk.count, gate):
                yield f"{number}\n"

        return StreamingResponse(lines())

    @app.get("/background")
    async def background(gate: str, tasks: BackgroundTasks) -> str:
        async def work() -> None:
            await wait_at_async(gate, "begun")
            leave_mark(gate, "ended")

        tasks.add_task(work)
        return "sent"

    @app.get("/greeting")
    async def greeting(request: Request) -> str:
        return str(request.state.greeting)

    @app.get("/fail/{kind}")
    async def fail(kind: str) -> None:
        raise ERRORS[kind]()

    @app.post("/upload")
    async def upload(request: Request) -> int:
        return sum([len(chunk) async for chunk in request.stream()])

    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        raise ERRORS["overloaded"]()

    @app.middleware("http")
    async def around(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Any:
        return await call_next(request)  # BaseHTTPMiddleware, which users have: must not hide a disconnect

    return app


ERRORS: dict[str, Callable[[], Exception]] = {
    "overloaded": lambda: poise.Overloaded(20, 20, 2.3),
    "soon": lambda: poise.Overloaded(20, 20, 0.001),
    "late": lambda: poise.DeadlineExceeded(0.5, started=False),
    "broken": lambda: poise.PoolBroken("no weights", 3),
    "closed": lambda: poise.PoolClosed("the pool is closed"),
    "lost": lambda: poise.WorkerLost(1, "gone"),
}


@asynccontextmanager
async def serving(app: Any, port: int = 0) -> AsyncIterator[httpx.AsyncClient]:
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical", ws="none"))
    task = asyncio.ensure_future(server.serve())
    try:
        while not server.started:
            assert not task.done(), "the server has not started"
            await asyncio.sleep(0.001)
        port = server.servers[0].sockets[0].getsockname()[1]
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        await task


def program() -> FastAPI:
    """For `uvicorn --factory`."""
    backlog = int(os.environ.get("BACKLOG", "100"))
    return make_app(lambda: poise.Pool(Desk, size=2, backlog=backlog), page="/poise")
