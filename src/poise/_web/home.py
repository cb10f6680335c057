"""An application's pool."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from starlette.responses import JSONResponse

from poise._engine.watching import WAITS
from poise.errors import LoopBlocked, PoolClosed, WorkerLost
from poise.pool import Pool
from poise.view import engine_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from poise._web.page import Page


class Home:
    """An application's pool, over the starts and ends of the application."""

    def __init__(
        self, source: Pool[Any] | Callable[[], Pool[Any]], *, has_metrics: bool = False, page: Page | None = None
    ) -> None:
        self._source = source
        self._has_metrics = has_metrics
        self._pool: Pool[Any] | None = None
        self.page = page

    @property
    def pool(self) -> Pool[Any]:
        if self._pool is None:
            raise PoolClosed("the application has not started, or its lifespan is not run: see asgi.install")
        return self._pool

    def time(self) -> float:
        """What time it is by the clock that tells the pool's deadlines."""
        return asyncio.get_running_loop().time() if self._pool is None else engine_of(self._pool).time()

    @asynccontextmanager
    async def open(self, page: Page | None = None) -> AsyncGenerator[None]:
        """Open the pool for as long as the block lasts, and show it on its own page, or on this one."""
        source: Any = self._source
        self._pool = pool = cast("Pool[Any]", source if isinstance(source, Pool) else source())
        engine = engine_of(pool)
        if self._has_metrics:
            from poise import prometheus

            prometheus.watch(pool, repr(engine))
        if (page := self.page or page) is not None:
            page.watch(engine)
        async with pool:
            yield

    async def readyz(self, request: Request) -> Response:  # noqa: ARG002 (as Starlette calls it)
        """Say whether a worker is ready."""
        if self._pool is None or self._pool.state == "new":
            return JSONResponse({"state": "new", "ready": 0, "size": 0}, 503)
        state = self._pool.state
        try:
            stats = engine_of(self._pool).stats(WAITS)
        except (LoopBlocked, WorkerLost):  # the owner of a shared pool does not answer
            return JSONResponse({"state": state, "ready": 0, "size": 0}, 503)
        is_ready = state == "open" and (stats.ready > 0 or stats.least == 0)  # asleep: a call wakes it
        return JSONResponse({"state": state, "ready": stats.ready, "size": stats.size}, 200 if is_ready else 503)
