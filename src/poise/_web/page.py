"""The live page: one document, and a stream of server-sent events that keeps it current.

https://html.spec.whatwg.org/multipage/server-sent-events.html: a browser that loses the stream asks for it again, and
names the last message that it has got, so that it is told only what it has missed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import signal
from base64 import b64encode
from contextlib import aclosing, suppress
from functools import cache
from importlib.resources import files
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from poise._engine.watching import watched

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from poise._engine.engine import Engine

LIFE: Final = 15.0
"""Seconds that one stream lasts, after which a browser asks for the next: a server that ends waits for no longer."""
STEP: Final = 0.2
"""Seconds after which it is noticed that the server ends."""
KEPT: Final = 30
"""Ticks for which a viewer that is slow, or comes back, is told what it has missed; later it is told all again."""
MOST_BARS: Final = 4000
"""Bars that are told of in one message, the latest of them, which takes the loop some 10 ms to make."""
_HEADERS: Final = {"Cache-Control": "no-store", "Vary": "Accept", "X-Content-Type-Options": "nosniff"}
_SCRIPTS: Final = ("charts.js", "timeline.js", "live.js")


class Page:
    """The pools of an application as its viewers see them. What they are told is made once a second for all of them."""

    def __init__(self) -> None:
        self._engines: dict[str, Engine] = {}
        self._life = secrets.token_hex(4)
        """Tells what this process has told from what another has."""
        self._marks: dict[int, dict[str, int]] = {}
        """Of the last ticks in which somebody was told something, what to ask the models for changes since."""
        self._told: dict[int | None, bytes] = {}
        """What is told in this tick to those who were told last in another; None to those who know nothing."""

    def watch(self, engine: Engine) -> None:
        """Show a pool, in the place of one of the same name that is closed."""
        name = next(name for name in _names(repr(engine)) if self._is_free(name))
        watched(engine)
        self._engines[name] = engine
        self._marks.clear()

    def _is_free(self, name: str) -> bool:
        return name not in self._engines or self._engines[name].state == "closed"

    def answer(self, request: Request) -> Response:
        """The document, or the stream where that is asked for."""
        if "text/event-stream" in request.headers.get("accept", ""):
            return _Stream(self, request.headers.get("last-event-id", ""))
        html, policy = _document()
        return Response(html, headers={**_HEADERS, "Content-Security-Policy": policy}, media_type="text/html")

    async def tell(self, last: str, gone: asyncio.Future[Any]) -> AsyncGenerator[bytes]:
        """What a viewer is told, until it is gone or the server ends. One that is slow is told less often.

        Args:
            last: the name of the message that it has got last, if any.
            gone: done when it is gone.
        """
        time = asyncio.get_running_loop().time
        end = time() + LIFE
        seen = self._tick_of(last)
        yield b"retry: 500\n\n"
        while not gone.done() and time() < end:
            if is_server_ending():
                yield b"event: ending\ndata: {}\n\n"
                return
            tick = int(time())
            yield self._message(tick, seen)
            if all(engine.state == "closed" for engine in self._engines.values()):
                yield b"retry: 5000\n\n"
                return
            seen = tick
            while (rest := tick + 1 - time()) > 0 and not gone.done() and not is_server_ending():
                await asyncio.wait([gone], timeout=min(rest, STEP))

    def _tick_of(self, message: str) -> int | None:
        life, _, tick = message.partition("-")
        return int(tick) if life == self._life and tick.isdecimal() and len(tick) < 20 else None

    def _message(self, tick: int, seen: int | None) -> bytes:
        if tick not in self._marks:
            self._told.clear()
            self._marks[tick] = {}
            if len(self._marks) > KEPT:
                del self._marks[next(iter(self._marks))]
        marks = self._marks.get(seen) if seen is not None and seen < tick else None
        if marks is None:
            seen = None
        if seen not in self._told:
            pools = {name: self._changes(name, tick, marks or {}) for name in self._engines}
            news = json.dumps({"whole": marks is None, "pools": pools}, separators=(",", ":"))
            self._told[seen] = f"id: {self._life}-{tick}\ndata: {news}\n\n".encode()
        return self._told[seen]

    def _changes(self, name: str, tick: int, marks: dict[str, int]) -> object:
        engine = self._engines[name]
        picture = watched(engine).changes(marks.get(name, 0))
        if picture is None:  # it is not open yet, or was never
            return {"state": engine.state}
        del picture["bars"][:-MOST_BARS]
        # What comes later in this tick is told in the next one, also to whom is told of it now.
        self._marks[tick].setdefault(name, picture["mark"])
        return picture


def _names(name: str) -> Iterator[str]:
    yield name
    for number in count(2):
        yield f"{name} ({number})"


def is_server_ending() -> bool:
    """Whether the server has been told to stop.

    uvicorn waits for every response before it tells the application. But what it has made of the signal is a method of
    its own, so that it can be asked. Of another server it is not known: the stream ends after `LIFE`.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return getattr(server, "should_exit", False) is True


class _Stream(Response):
    """The stream of one viewer. Nothing is kept for it: what it does not take at once is not made."""

    media_type = "text/event-stream"

    def __init__(self, page: Page, last: str) -> None:
        super().__init__(headers={**_HEADERS, "X-Accel-Buffering": "no"})  # nginx hands on what it gets
        del self.headers["content-length"]
        self._page = page
        self._last = last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (as Starlette calls it)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            async with aclosing(self._page.tell(self._last, gone)) as told:
                async for message in told:
                    await send({"type": "http.response.body", "body": message, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            await asyncio.wait([gone])


async def _until_gone(receive: Receive) -> None:
    with suppress(OSError):
        while (await receive())["type"] != "http.disconnect":
            pass


@cache
def _document() -> tuple[str, str]:
    """The page, with all that it needs inside it, and the policy that lets it have no more."""
    folder = files("poise._web") / "page"
    style = (folder / "style.css").read_text(encoding="utf-8")
    script = '"use strict";\n' + "".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    html = (folder / "page.html").read_text(encoding="utf-8")
    html = html.replace("/* style.css */", style).replace("/* script */", script)
    policy = (
        f"default-src 'none'; style-src '{_hash_of(style)}'; script-src '{_hash_of(script)}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )
    return html, policy


def _hash_of(text: str) -> str:
    return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode()
