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
import re
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.websockets import WebSocket

from poise.errors import ConfigError, DeadlineExceeded, Overloaded, PoiseError, PoolBroken, PoolClosed
from poise.options import CallOptions
from poise.pool import Pool
from poise.view import View, engine_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from poise._engine.call import Call

AnyPool: TypeAlias = "Pool[Any] | Callable[[], Pool[Any]]"
"""A pool that was not opened yet, or what makes one: an application that is started more than once needs the latter."""

STATUS: Final[dict[type[PoiseError], int]] = {Overloaded: 503, DeadlineExceeded: 504, PoolBroken: 503, PoolClosed: 503}
"""What clients are told. Any other error is a fault of the program and remains a 500."""

_SCOPE_KEY: Final = "poise.asgi"
_SECONDS: Final = re.compile(r"[0-9]+(\.[0-9]+)?")
_STATE_KEY: Final = "poise_asgi"


def install(
    app: Starlette,
    pool: AnyPool,
    *,
    deadline_header: str | None = None,
    prefix: str = "",
    cancel_on_disconnect: bool = True,
    metrics: str | None = None,
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

    Raises:
        ConfigError: the application has a pool already, or `metrics` is no path.
        ModuleNotFoundError: `metrics` needs `poise[prometheus]`.
    """
    if metrics is not None and not metrics.startswith("/"):
        raise ConfigError("metrics", metrics, 'a path, such as "/metrics", or None')
    if hasattr(app.state, _STATE_KEY):
        raise ConfigError("app", app, "an application has one pool; open others with asgi.lifespan")
    home = _Home(pool, has_metrics=metrics is not None)
    setattr(app.state, _STATE_KEY, home)
    app.router.lifespan_context = _around(home, app.router.lifespan_context)
    for kind in STATUS:
        app.add_exception_handler(kind, _refuse)
    app.add_middleware(
        _RequestScope, home=home, deadline_header=deadline_header, cancel_on_disconnect=cancel_on_disconnect
    )
    # At the front, so that a route of the application's that takes every path does not hide them.
    app.router.routes[:0] = [
        Route(f"{prefix}/healthz", _healthz, include_in_schema=False),
        Route(f"{prefix}/readyz", home.readyz, include_in_schema=False),
        *([] if metrics is None else [Route(metrics, _metrics_route(), include_in_schema=False)]),
    ]


def lifespan(pool: AnyPool) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """A lifespan that opens the pool and drains it, and nothing else: `Starlette(lifespan=asgi.lifespan(pool))`.

    For a second pool, and for applications that do the rest by themselves.
    """
    home = _Home(pool)

    @asynccontextmanager
    async def live(app: Any) -> AsyncGenerator[None]:  # noqa: ARG001 (as Starlette calls it)
        async with home.open():
            yield

    return live


async def pool(connection: HTTPConnection) -> View[Any]:
    """The application's pool, as this request may use it: its calls expire at the request's deadline.

    In FastAPI `Annotated[poise.View[Model], Depends(asgi.pool)]`, in Starlette `await asgi.pool(request)`.

    Raises:
        PoolClosed: the application has not started.
        ConfigError: `asgi.install` was not called for it.
    """
    current = connection.scope.get(_SCOPE_KEY)
    if not isinstance(current, _Current):
        raise ConfigError("app", connection.scope.get("app"), "call asgi.install(app, pool) before it starts")
    return _RequestView(current, current.home.pool)


class _Home:
    """An application's pool, over the starts and ends of the application."""

    def __init__(self, source: AnyPool, *, has_metrics: bool = False) -> None:
        self._source = source
        self._has_metrics = has_metrics
        self._pool: Pool[Any] | None = None

    @property
    def pool(self) -> Pool[Any]:
        if self._pool is None:
            raise PoolClosed("the application has not started, or its lifespan is not run: see asgi.install")
        return self._pool

    def time(self) -> float:
        """What time it is by the clock that tells the pool's deadlines."""
        return asyncio.get_running_loop().time() if self._pool is None else engine_of(self._pool).time()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Open the pool for as long as the block lasts."""
        source: Any = self._source
        self._pool = cast("Pool[Any]", source if isinstance(source, Pool) else source())
        if self._has_metrics:
            from poise import prometheus

            prometheus.watch(self._pool, repr(engine_of(self._pool)))
        async with self._pool:
            yield

    async def readyz(self, request: Request) -> Response:  # noqa: ARG002 (as Starlette calls it)
        """Say whether a worker is ready."""
        if self._pool is None or self._pool.state == "new":
            return JSONResponse({"state": "new", "ready": 0, "size": 0}, 503)
        stats, state = self._pool.stats(), self._pool.state
        is_ready = state == "open" and (stats.ready > 0 or stats.least == 0)  # asleep: a call wakes it
        return JSONResponse({"state": state, "ready": stats.ready, "size": stats.size}, 200 if is_ready else 503)


def _metrics_route() -> Callable[[Request], Awaitable[Response]]:
    """What answers a scrape."""
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    async def metrics(request: Request) -> Response:  # noqa: ARG001 (as Starlette calls it)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return metrics


async def _healthz(request: Request) -> Response:  # noqa: ARG001 (as Starlette calls it)
    return JSONResponse({"status": "alive"})


def _around(
    home: _Home, inner: Callable[[Any], AbstractAsyncContextManager[Any]]
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


# ---------------------------------------------------------------------------------------------------------------------
# One request


class _Current:
    """What one request may use, for `asgi.pool`."""

    __slots__ = ("calls", "deadline", "home")

    def __init__(self, home: _Home, deadline: float | None) -> None:
        self.home = home
        self.deadline = deadline
        """By the pool's clock."""
        self.calls: set[Call[Any]] = set()
        """Those that have not ended."""

    def drop_calls(self) -> None:
        """The client has gone: nobody will ask for the outcome of its calls."""
        for call in tuple(self.calls):
            call.drop()


class _RequestView(View[Any]):
    """A view for one request, which has a deadline and may end before its calls."""

    __slots__ = ("_current",)

    def __init__(self, current: _Current, pool: Pool[Any], options: CallOptions | None = None) -> None:
        first = CallOptions(deadline=current.deadline)
        super().__init__(engine_of(pool), first if options is None else options)
        self._current = current

    def _with(self, options: CallOptions) -> View[Any]:
        granted = self._current.deadline
        if granted is not None and (options.deadline is None or options.deadline > granted):
            options = options.but(deadline=granted)  # no call outlives its request
        return _RequestView(self._current, self._current.home.pool, options)

    def _submit(self, *args: Any, **options: Any) -> Call[Any]:
        call = super()._submit(*args, **options)
        self._current.calls.add(call)
        call.add_done_callback(self._current.calls.discard)
        return call


class _RequestScope:
    """Pure ASGI middleware: notes the request's deadline, and watches for a client that goes."""

    def __init__(self, app: ASGIApp, *, home: _Home, deadline_header: str | None, cancel_on_disconnect: bool) -> None:
        self._app = app
        self._home = home
        self._header = deadline_header
        self._cancels = cancel_on_disconnect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        deadline = None
        given = None if self._header is None else HTTPConnection(scope).headers.get(self._header)
        if given is not None:
            try:
                deadline = self._home.time() + _seconds(given)
            except ValueError as error:
                detail = f"{self._header}: {error}"
                await JSONResponse({"error": "BadRequest", "detail": detail}, 400)(scope, receive, send)
                return
        scope[_SCOPE_KEY] = current = _Current(self._home, deadline)
        if self._cancels and scope["type"] == "http":
            await _Watched(self._app, current, scope, receive, send).run()
        else:
            await self._app(scope, receive, send)


def _seconds(text: str) -> float:
    """Read digits with or without a fraction, and nothing else that Python takes for a number."""
    seconds = float(text) if _SECONDS.fullmatch(text) else math.inf
    if seconds == math.inf:
        raise ValueError(f"{text!r} is not a number of seconds, such as 0.5")
    return seconds


class _Watched:
    """One request, ended when its client goes before the response is complete.

    ASGI tells of that by `receive`, which is the application's: a task reads ahead of it, at most two messages so that
    an upload is still held back by whoever takes it, and hands on what it reads.
    """

    def __init__(self, app: ASGIApp, current: _Current, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = app
        self._current = current
        self._scope = scope
        self._receive_from_server = receive
        self._send_to_server = send
        self._messages: asyncio.Queue[Message | Exception] = asyncio.Queue(maxsize=1)
        self._is_over = False
        """The response is complete, or the application has returned: a disconnect means nothing any more."""
        self._is_gone = False
        self._has_cancelled = False
        self._task: asyncio.Task[Any] | None = None

    async def run(self) -> None:
        """Run the application for this request."""
        self._task = asyncio.current_task()
        assert self._task is not None
        watcher = asyncio.create_task(self._watch(), name="poise-asgi-disconnect")
        try:
            await self._app(self._scope, self._receive, self._send)
        except asyncio.CancelledError:
            # As asyncio.timeout does it: ours ends here, somebody else's goes on.
            if not (self._has_cancelled and self._task.uncancel() == 0):
                raise
        else:
            if self._has_cancelled:  # the application took the cancellation for an end
                self._task.uncancel()
        finally:
            self._is_over = True
            self._task = None  # which may end with an error that holds this frame
            watcher.cancel()
            if self._has_cancelled:
                # A response that is cancelled while it sends leaves its generator suspended, and with it perhaps a
                # stream of the pool's, until the collector comes by.
                self._current.drop_calls()

    async def _watch(self) -> None:
        while not self._is_gone:
            try:
                message: Message | Exception = await self._receive_from_server()
            except Exception as error:  # noqa: BLE001 - it is raised in the application, which would have met it
                message = error
            if isinstance(message, Exception) or message["type"] == "http.disconnect":
                self._is_gone = True
                if not self._is_over and not isinstance(message, Exception):
                    self._cancel()
            await self._messages.put(message)
            del message  # an error holds this frame, which must not hold it

    def _cancel(self) -> None:
        assert self._task is not None
        self._has_cancelled = True
        self._task.cancel("the client has gone")

    async def _receive(self) -> Message:
        if self._is_gone and self._messages.empty():
            return {"type": "http.disconnect"}
        message = await self._messages.get()
        if isinstance(message, Exception):
            try:
                raise message
            finally:
                del message  # as in `_watch`
        return message

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._is_over = True
        await self._send_to_server(message)
