"""A pool in a FastAPI or Starlette application.

```python
app = FastAPI()
asgi.install(app, poise.Pool(Model, size=4, backlog=100), deadline_header="X-Request-Timeout")

@app.post("/predict")
async def predict(x: float, model: Annotated[poise.View[Model], Depends(asgi.pool)]) -> float:
    return await model.submit(Model.predict, x)
```

In a service prefer `submit`, which refuses a call at once when the backlog is full, to `run`, which waits for room.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from starlette.requests import HTTPConnection  # noqa: TC002 - FastAPI reads the annotation of `pool`
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.websockets import WebSocket

from poise._web.home import Home
from poise._web.page import Page
from poise._web.requests import SCOPE_KEY, Current, RequestScope, RequestView
from poise._web.routes import page_route
from poise.errors import ConfigError, DeadlineExceeded, Overloaded, PoiseError, PoolBroken, PoolClosed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from starlette.applications import Starlette
    from starlette.requests import Request

    from poise.pool import Pool
    from poise.view import View

AnyPool: TypeAlias = "Pool[Any] | Callable[[], Pool[Any]]"
"""A pool that was not opened yet, or what makes one: an application that is started more than once needs the latter."""

STATUS: Final[dict[type[PoiseError], int]] = {Overloaded: 503, DeadlineExceeded: 504, PoolBroken: 503, PoolClosed: 503}
"""What clients are told. Any other error is a fault of the program and remains a 500."""

_STATE_KEY: Final = "poise_asgi"


def install(
    app: Starlette,
    pool: AnyPool,
    *,
    deadline_header: str | None = None,
    prefix: str = "",
    cancel_on_disconnect: bool = True,
    metrics: str | None = None,
    page: str | None = None,
    page_access: Any = None,
) -> None:
    """Give an application a pool. Call it once, before the application starts.

    The pool opens before the application's own lifespan begins and is drained after that has ended. Its errors become
    responses (`STATUS`): JSON with `error`, the error's name, and `detail`, its message; `Overloaded` with
    `Retry-After`. `GET {prefix}/healthz` says that the process lives, `GET {prefix}/readyz` whether a worker is ready
    (200) or none is, or the pool is broken or closing (503).

    Args:
        app: a FastAPI or Starlette application. A handler of its own for one of the errors wins if it is added later.
        pool: a pool that was not opened yet, or what makes one.
        deadline_header: the request header that says in how many seconds the client wants its answer, such as
            "X-Request-Timeout". It counts from the request's arrival and applies to the calls made through `asgi.pool`.
        prefix: put before the paths of the two health routes.
        cancel_on_disconnect: cancel an endpoint whose client has gone before its response was complete, and with it
            the calls made through `asgi.pool`. It is noticed once the endpoint has taken the request's body.
        metrics: the path, such as "/metrics", at which Prometheus finds the metrics of this pool, by the name of what
            it holds, and whatever else the process has for it: see `poise.prometheus`.
        page: the path, such as "/poise", of a live page for people: what the workers do, and the last fifteen minutes.
            It shows this pool and those that `asgi.lifespan` opens for this application, changes nothing, and is as
            open as your other routes unless you say who may see it.
        page_access: who may: in FastAPI a dependency or `Depends(...)`, in Starlette a function of the request, which
            may be a coroutine. What it raises is what others are answered.

    Raises:
        ConfigError: the application has a pool already, `metrics` or `page` is no path, or there is access to no page.
        ModuleNotFoundError: `metrics` needs `poise[prometheus]`.
    """
    for option, path in (("metrics", metrics), ("page", page)):
        if path is not None and not path.startswith("/"):
            raise ConfigError(option, path, f'a path, such as "/{option}", or None')
    if page_access is not None and page is None:
        raise ConfigError("page_access", page_access, 'it needs a page: page="/poise"')
    if hasattr(app.state, _STATE_KEY):
        raise ConfigError("app", app, "an application has one pool; open others with asgi.lifespan")
    home = Home(pool, has_metrics=metrics is not None, page=None if page is None else Page())
    setattr(app.state, _STATE_KEY, home)
    app.router.lifespan_context = _around(home, app.router.lifespan_context)
    for kind in STATUS:
        app.add_exception_handler(kind, _refuse)
    app.add_middleware(
        RequestScope, home=home, deadline_header=deadline_header, cancel_on_disconnect=cancel_on_disconnect
    )
    # At the front, so that a route of the application's that takes every path does not hide them.
    app.router.routes[:0] = [
        Route(f"{prefix}/healthz", _healthz, include_in_schema=False),
        Route(f"{prefix}/readyz", home.readyz, include_in_schema=False),
        *([] if metrics is None else [Route(metrics, _metrics_route(), include_in_schema=False)]),
        *([] if page is None or home.page is None else [page_route(app, page, home.page, page_access)]),
    ]


def lifespan(pool: AnyPool) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """A lifespan that opens the pool and drains it, and nothing else: `Starlette(lifespan=asgi.lifespan(pool))`.

    For a second pool, and for applications that do the rest by themselves.
    """
    home = Home(pool)

    @asynccontextmanager
    async def live(app: Any) -> AsyncGenerator[None]:
        async with home.open(_page_of(app)):
            yield

    return live


async def pool(connection: HTTPConnection) -> View[Any]:
    """The application's pool, as this request may use it: its calls expire at the request's deadline.

    In FastAPI `Annotated[poise.View[Model], Depends(asgi.pool)]`, in Starlette `await asgi.pool(request)`.

    Raises:
        PoolClosed: the application has not started.
        ConfigError: `asgi.install` was not called for it.
    """
    current = connection.scope.get(SCOPE_KEY)
    if not isinstance(current, Current):
        raise ConfigError("app", connection.scope.get("app"), "call asgi.install(app, pool) before it starts")
    return RequestView(current, current.home.pool)


def _metrics_route() -> Callable[[Request], Awaitable[Response]]:
    """What answers a scrape."""
    from prometheus_client import CONTENT_TYPE_LATEST

    from poise import prometheus

    async def metrics(request: Request) -> Response:  # noqa: ARG001 (as Starlette calls it)
        # It may read files of many processes, and wait for loops of other pools than the application's.
        return Response(await asyncio.to_thread(prometheus.scrape), media_type=CONTENT_TYPE_LATEST)

    return metrics


async def _healthz(request: Request) -> Response:  # noqa: ARG001 (as Starlette calls it)
    return JSONResponse({"status": "alive"})


def _page_of(app: Any) -> Page | None:
    home = getattr(getattr(app, "state", None), _STATE_KEY, None)
    return home.page if isinstance(home, Home) else None


def _around(
    home: Home, inner: Callable[[Any], AbstractAsyncContextManager[Any]]
) -> Callable[[Any], AbstractAsyncContextManager[Any]]:
    @asynccontextmanager
    async def live(app: Any) -> AsyncGenerator[Any]:
        async with home.open(), inner(app) as state:
            yield state

    return live


async def _refuse(connection: Any, error: Exception) -> Any:  # Starlette's type has no handler for both kinds
    """Tell a client which error has ended its request."""
    name = type(error).__name__
    if isinstance(connection, WebSocket):
        await connection.close(
            1013 if isinstance(error, Overloaded) else 1011, name
        )  # RFC 6455, 7.4.1: try again later
        return None
    status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    headers = {"Retry-After": str(max(1, math.ceil(error.retry_after)))} if isinstance(error, Overloaded) else None
    return JSONResponse({"error": name, "detail": str(error)}, status, headers)
