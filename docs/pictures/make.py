"""Takes the pictures of the documentation from a real pool under load: `python -m docs.pictures.make [NAME ...]`.

Each is taken by one function, in the order of `PICTURES`, while the same pool is under the same load. Some need a
browser: see `tools/browser.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import uvicorn
from rich.console import Console
from starlette.applications import Starlette

import poise
from poise._watch.sockets import find
from poise._web.page import Page
from poise._web.routes import page_route
from poise.cli.frame import draw
from poise.cli.top import Watch
from poise.view import engine_of
from tools.browser import browser
from tools.pictures import bars_of, smaller

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HERE: Final = Path(__file__).parent
RECORDED: Final = Path(tempfile.mkdtemp()) / "run.json"
WORKERS: Final = 4
WARM_UP: Final = 45.0
"""Seconds of load before the pictures are taken; a worker is killed on the way."""
KILLED_AT: Final = 36.0


class Model:
    """What workers hold."""

    def predict(self, seconds: float) -> None:
        """Compute for so long."""
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            sum(range(10_000))
            time.sleep(min(0.001, left))

    def embed(self, seconds: float) -> None:
        """The same under another name."""
        self.predict(seconds)


async def load(pool: poise.Pool[Model]) -> None:
    """Make calls, in waves, until it is cancelled."""
    chance, began = random.Random(7), time.monotonic()
    calls: set[asyncio.Future[None]] = set()
    while True:
        function = Model.embed if chance.random() < 0.3 else Model.predict
        call = pool.submit(function, chance.expovariate(1 / 0.025))
        calls.add(call)
        call.add_done_callback(calls.discard)
        call.add_done_callback(lambda done: done.cancelled() or done.exception())
        wave = 70 + 60 * ((time.monotonic() - began) % 20 < 8)
        await asyncio.sleep(chance.expovariate(wave))


async def take_top(_pool: poise.Pool[Model]) -> None:
    """What `poise top` shows."""

    def take() -> str:
        (found,) = [each for each in find() if each.program == os.getpid()]
        watch = Watch(found)
        watch.look()
        time.sleep(1.5)
        watch.look()
        scene = watch.scene()
        watch.close()
        assert scene is not None
        scene.chosen = scene.picture["workers"][1]["id"]
        console = Console(record=True, width=112, force_terminal=True, file=open(os.devnull, "w"))  # noqa: SIM115 (recorded)
        console.print(draw(scene))
        return console.export_svg(title="poise top")

    picture = await asyncio.to_thread(take)
    picture = re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)  # fonts from elsewhere
    (HERE / "top.svg").write_text(picture)


async def take_page(pool: poise.Pool[Model]) -> None:
    """The live page, and on a phone at night."""
    page, app = Page(), Starlette()
    page.watch(engine_of(pool))
    app.router.routes.append(page_route(app, "/poise", page, None))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it says so in no other way
        await asyncio.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/poise"
    async with browser() as chromium:
        tab = await chromium.open(url, width=960, height=1100)
        await tab.until("document.querySelector('#legend li')")
        (HERE / "page.png").write_bytes(await smaller(chromium, await tab.picture("html")))
        tab = await chromium.open(url, width=360, height=780, prefers_color_scheme="dark")
        await tab.until("document.querySelector('#legend li')")
        (HERE / "page-phone.png").write_bytes(await smaller(chromium, await tab.picture()))
    server.should_exit = True
    await serving


async def take_notebook(pool: poise.Pool[Model]) -> None:
    """What a notebook shows of a pool, below the cell that has asked for it."""
    cell = f"<pre style='color:#666'>In [3]: <span style='color:#111'>{escape('pool')}</span></pre>"
    html = f"<body style='font:14px sans-serif;margin:0;padding:1em;display:inline-block'>{cell}{pool._repr_html_()}"
    async with browser() as chromium:
        tab = await chromium.open(f"data:text/html;charset=utf-8,{quote(html)}", width=980, height=400)
        await tab.until("document.querySelector('table')")
        (HERE / "notebook.png").write_bytes(await smaller(chromium, await tab.picture("body")))


async def take_recording(_pool: poise.Pool[Model]) -> None:
    """What was recorded around the death of a worker."""
    events = json.loads(RECORDED.read_text().rstrip().removesuffix("]") + "]")  # it has no end yet
    death = next(each["ts"] for each in events if each["name"].startswith("lost:"))
    (HERE / "recording.svg").write_text(bars_of(events, death - 0.8e6, death + 1.6e6))


PICTURES: Final[dict[str, Callable[[poise.Pool[Model]], Awaitable[None]]]] = {
    "top": take_top,
    "page": take_page,
    "notebook": take_notebook,
    "recording": take_recording,
}


async def main(names: list[str]) -> None:
    """Put a pool under load, and take these pictures of it."""
    async with poise.Pool(Model, size=WORKERS, watch=True, record=RECORDED) as pool:
        await pool.until_ready()
        loading = asyncio.create_task(load(pool))
        await asyncio.sleep(KILLED_AT)
        pid = pool.stats().workers[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(WARM_UP - KILLED_AT)
        for name in names or PICTURES:
            await PICTURES[name](pool)
            print(f"took {name}")  # noqa: T201
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
