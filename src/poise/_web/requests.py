"""One request: its deadline, its calls, and a client that may go."""

from __future__ import annotations

import asyncio
import math
import re
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse

from poise.options import CallOptions
from poise.view import View, engine_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from poise._engine.call import Call
    from poise._web.home import Home
    from poise.pool import Pool

SCOPE_KEY: Final = "poise.asgi"
_SECONDS: Final = re.compile(r"[0-9]+(\.[0-9]+)?")


class Current:
    """What one request may use, for `asgi.pool`."""

    __slots__ = ("calls", "deadline", "home")

    def __init__(self, home: Home, deadline: float | None) -> None:
        self.home = home
        self.deadline = deadline
        """By the pool's clock."""
        self.calls: set[Call[Any]] = set()
        """Those that have not ended."""

    def drop_calls(self) -> None:
        """The client has gone: nobody will ask for the outcome of its calls."""
        for call in tuple(self.calls):
            call.drop()


class RequestView(View[Any]):
    """A view for one request, which has a deadline and may end before its calls."""

    __slots__ = ("_current",)

    def __init__(self, current: Current, pool: Pool[Any], options: CallOptions | None = None) -> None:
        first = CallOptions(deadline=current.deadline)
        super().__init__(engine_of(pool), first if options is None else options)
        self._current = current

    def _with(self, options: CallOptions) -> View[Any]:
        granted = self._current.deadline
        if granted is not None and (options.deadline is None or options.deadline > granted):
            options = options.but(deadline=granted)  # no call outlives its request
        return RequestView(self._current, self._current.home.pool, options)

    def _submit(self, *args: Any, **options: Any) -> Call[Any]:
        call = super()._submit(*args, **options)
        self._current.calls.add(call)
        call.add_done_callback(self._current.calls.discard)
        return call


class RequestScope:
    """Pure ASGI middleware: notes the request's deadline, and watches for a client that goes."""

    def __init__(self, app: ASGIApp, *, home: Home, deadline_header: str | None, cancel_on_disconnect: bool) -> None:
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
        scope[SCOPE_KEY] = current = Current(self._home, deadline)
        if self._cancels and scope["type"] == "http":
            await Watched(self._app, current, scope, receive, send).run()
        else:
            await self._app(scope, receive, send)


def _seconds(text: str) -> float:
    """Read digits with or without a fraction, and nothing else that Python takes for a number."""
    seconds = float(text) if _SECONDS.fullmatch(text) else math.inf
    if seconds == math.inf:
        raise ValueError(f"{text!r} is not a number of seconds, such as 0.5")
    return seconds


class Watched:
    """One request, ended when its client goes before the response is complete.

    ASGI tells of that by `receive`, which is the application's: a task reads ahead of it, at most two messages so that
    an upload is still held back by whoever takes it, and hands on what it reads.
    """

    def __init__(self, app: ASGIApp, current: Current, scope: Scope, receive: Receive, send: Send) -> None:
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
