"""The live page in a real browser, a headless Chromium."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import HTTPException
from starlette.applications import Starlette
from starlette.routing import Mount

import poise
from poise import asgi
from poise._web import page as live
from poise.testing import LocalPool
from tests.faces.web_service import Desk, make_app, serving
from tools.browser import Browser, Tab, browser, browser_path

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.gate import Gate

pytestmark = pytest.mark.skipif(
    browser_path() is None, reason="no browser: apt-get install --no-install-recommends chromium-headless-shell"
)

ROWS = "document.querySelectorAll('#workers tbody tr')"
STATUS = "document.querySelector('#status').textContent"
NOTICE = "document.querySelector('#notice').textContent"


@asynccontextmanager
async def showing(app: Any, path: str = "/poise", **options: Any) -> AsyncIterator[tuple[Browser, Tab]]:
    async with serving(app) as client, browser() as chromium:
        tab = await chromium.open(f"{str(client.base_url).rstrip('/')}{path}", **options)
        await tab.until(f"{ROWS}.length > 0")
        yield chromium, tab
        await tab.close()


def figure(name: str) -> str:
    """The value of a tile."""
    box = f"[...document.querySelectorAll('#figures div')].find(d => d.firstChild.textContent === '{name}')"
    return f"{box}.querySelector('.value').textContent"


class Kept:
    """Makes one pool and keeps it, so that a test can look at it."""

    def __init__(self, make: Callable[[], poise.Pool[Any]]) -> None:
        self.pool = make()

    def __call__(self) -> poise.Pool[Any]:
        return self.pool


@pytest.mark.usefixtures("shared_ray")
async def test_it_loads_moves_and_shows_a_worker_that_is_killed(gate: Gate) -> None:
    kept = Kept(lambda: poise.Pool(Desk, size=2, min_ready=2))
    async with showing(make_app(kept, page="/poise")) as (_, tab):
        assert await tab.until(f"{STATUS} === '2 of 2 workers ready'")
        assert await tab.evaluate(f"{ROWS}.length") == 2

        held = kept.pool.submit(Desk.hold, gate.path)
        await gate.reached(1)
        (worker,) = [each for each in kept.pool.stats().workers if each.running]
        row = f"[...{ROWS}].find(r => r.dataset.key === '{worker.id}')"
        assert await tab.until(f"{row}.cells[2].textContent === 'Desk.hold'")
        assert await tab.evaluate(f"{row}.cells[7].textContent") == str(worker.pid)
        assert "MiB" in await tab.evaluate(f"{row}.cells[6].textContent")
        age = await tab.evaluate(f"{row}.cells[3].textContent")
        await tab.until(f"{row}.cells[3].textContent !== {age!r}")  # it moves

        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(poise.WorkerLost):
            await held
        assert await tab.until("!document.querySelector('#deaths').parentElement.hidden")
        death = await tab.evaluate("[...document.querySelector('#deaths tbody tr').cells].map(c => c.textContent)")
        assert death[1:5] == [str(worker.id), str(worker.pid), "crash", "Desk.hold"]
        assert await tab.until(f"{row} === undefined && {ROWS}.length === 2")
        assert await tab.until(f"{STATUS} === '2 of 2 workers ready'")
        assert await tab.evaluate(figure("Deaths")) == "1"
        assert tab.complaints == []
        assert {address.partition("?")[0].rpartition("/")[2] for address in tab.requests} == {"poise"}


async def test_what_users_name_is_shown_and_not_run() -> None:
    def evil(desk: Desk) -> None: ...

    evil.__qualname__ = evil.__name__ = "</script><img src=x onerror=document.title='owned'>"
    kept = Kept(lambda: LocalPool(Desk, size=1))
    async with showing(make_app(kept, page="/poise")) as (_, tab):
        for _ in range(3):
            await kept.pool.run(evil)
        assert await tab.until("document.querySelector('#legend li')")
        assert await tab.evaluate("document.querySelector('#legend').textContent") == evil.__name__
        assert await tab.evaluate("document.querySelectorAll('img, iframe').length") == 0
        assert await tab.evaluate("document.title") == "poise: Desk"
        assert tab.complaints == []


async def test_its_policy_lets_nothing_else_run_or_load() -> None:
    async with showing(make_app(lambda: LocalPool(Desk), page="/poise")) as (_, tab):
        await tab.evaluate(
            "(() => { const script = document.createElement('script'); script.textContent = 'window.owned = 1';"
            "const image = new Image(); image.src = '/elsewhere.png'; document.body.append(script, image) })()"
        )
        await tab.until("document.readyState === 'complete'")
        assert await tab.evaluate("window.owned") is None
        assert len([each for each in tab.complaints if "Content Security Policy" in each]) == 2


async def test_every_pool_has_a_button_and_a_prefix_does_no_harm() -> None:
    inner = make_app(lambda: LocalPool(Desk, size=2), page="/poise")
    life: Any = inner.router.lifespan_context
    second = asgi.lifespan(lambda: LocalPool(Desk, size=1))

    @asynccontextmanager
    async def both(_: Any) -> AsyncIterator[None]:
        async with life(inner), second(inner):
            yield

    app = Starlette(routes=[Mount("/inner", inner)], lifespan=both)
    async with showing(app, "/inner/poise?token=1") as (_, tab):
        assert await tab.evaluate(f"{ROWS}.length") == 2
        buttons = "[...document.querySelectorAll('#pools button')]"
        assert await tab.evaluate(f"{buttons}.map(b => b.textContent)") == ["Desk", "Desk (2)"]
        await tab.evaluate(f"{buttons}[1].click()")
        assert await tab.until(f"{ROWS}.length === 1")
        assert await tab.evaluate("document.title") == "poise: Desk (2)"
        assert all("/inner/poise?token=1" in each for each in tab.requests), "the query may say who asks"
        assert tab.complaints == []


async def test_it_says_when_the_pool_is_closed_and_when_the_server_is_gone_and_comes_back() -> None:
    kept = Kept(lambda: LocalPool(Desk, size=1))
    app = make_app(lambda: LocalPool(Desk, size=1), page="/poise")
    async with browser() as chromium:
        async with serving(make_app(kept, page="/poise")) as client:
            url = str(client.base_url)
            tab = await chromium.open(f"{url}/poise")
            await tab.until(f"{STATUS} === '1 of 1 workers ready'")
            await kept.pool.aclose()
            await tab.until(f"{STATUS} === 'pool closed'")
            assert await tab.evaluate(f"{ROWS}.length") >= 0
        assert await tab.until(f"['connection lost', 'server stopped'].includes({STATUS})")
        async with serving(app, port=int(url.rpartition(":")[2])):
            assert await tab.until(f"{STATUS} === '1 of 1 workers ready'")
            assert await tab.evaluate("document.querySelector('#notice').hidden")
        assert await tab.until(f"{STATUS} === 'server stopped'")
        assert "when it is back" in await tab.evaluate(NOTICE)


async def test_it_goes_on_when_access_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LIFE", 0.1)
    denied: list[int] = []

    def access() -> None:
        if denied:
            raise HTTPException(denied[0])

    app = make_app(lambda: LocalPool(Desk, size=1), page="/poise", page_access=access)
    async with showing(app) as (_, tab):
        denied.append(403)
        assert await tab.until(f"{STATUS} === 'connection lost'")
        assert (await tab.evaluate(NOTICE)).startswith("Connection lost at ")
        denied.clear()
        assert await tab.until(f"{STATUS} === '1 of 1 workers ready'")


# ---------------------------------------------------------------------------------------------------------------------
# Everybody


@asynccontextmanager
async def busy(**options: Any) -> AsyncIterator[Tab]:
    """A page of which each part has something to show."""
    kept = Kept(lambda: LocalPool(Desk, size=3))
    async with showing(make_app(kept, page="/poise"), **options) as (_, tab):
        assert isinstance(kept.pool, LocalPool)
        for x in range(5):
            await kept.pool.run(Desk.square, x, 0.01)
        kept.pool.crash(0, "a reason that is quite long, so that it would be wider than the screen of a telephone is")
        await tab.until("document.querySelector('#deaths tbody tr') && document.querySelector('#legend li')")
        yield tab


async def test_the_keyboard_reaches_everything_and_is_seen() -> None:
    async with busy() as tab:
        name = "({id, className, tagName, textContent}) => id || className || `${tagName} ${textContent}`"
        focus = f"({name})(document.activeElement)"
        reached: list[str] = []
        for _ in range(13):
            await tab.press("Tab")
            reached.append((await tab.evaluate(focus)).strip())
            outline = "getComputedStyle(document.activeElement).outlineWidth"
            assert reached[-1].startswith("BODY") or await tab.evaluate(outline) == "3px", reached[-1]
        figures = [each for each in reached if each.startswith("FIGURE")]
        assert reached[0] == "pause"
        assert len(figures) == 4
        assert [each for each in reached if each.startswith("BUTTON")] == [f"BUTTON {w}" for w in WINDOWS]
        assert [each for each in reached if each in ("timeline", "scroll")] == ["timeline", "scroll", "scroll"]


WINDOWS = ("10 s", "1 min", "5 min", "15 min")


async def test_keys_read_the_charts_and_the_timeline() -> None:
    async with busy() as tab:
        await tab.evaluate("document.querySelector('figure').focus()")
        await tab.press("ArrowLeft")
        label = "document.querySelector('figure').getAttribute('aria-label')"
        assert "Waits, 5 s ago: p50" in await tab.until(label)
        await tab.press("Escape")
        assert "Waits, now: p50" in await tab.until(label)

        await tab.evaluate("document.querySelector('#timeline').focus()")
        read = "document.querySelector('#reading').textContent"
        for key in ("ArrowLeft", "ArrowUp", "ArrowDown", "ArrowRight"):
            await tab.press(key)
            assert (await tab.evaluate(read)).startswith("Worker ")
        await tab.press("Escape")
        assert (await tab.evaluate(read)).startswith("Red crosses")


async def test_numbers_are_shown_as_people_read_them() -> None:
    async with showing(make_app(lambda: LocalPool(Desk), page="/poise")) as (_, tab):
        shown: dict[str, dict[float, str]] = {
            "duration": {
                0: "0 ms",
                1.23e-5: "12.3 µs",
                9.996e-4: "1 ms",
                0.0996: "100 ms",
                0.9996: "1.0 s",
                59.96: "1 min",
            },
            "rate": {0: "0", 0.25: "0.3", 9.96: "10", 99.6: "100", 12345: "12,345"},
            "ago": {0.4: "0 s", 59.6: "1 min", 3599.6: "1 h 0 min", 90000: "1 d"},
            "bytes": {2**28: "256 MiB", 3 * 2**29: "1.5 GiB"},
        }
        for function, numbers in shown.items():
            for number, text in numbers.items():
                assert await tab.evaluate(f"{function}({number})") == text
            assert "NaN" not in await tab.evaluate(f"{function}(undefined)")


async def test_it_can_be_held_still() -> None:
    kept = Kept(lambda: LocalPool(Desk, size=1))
    async with showing(make_app(kept, page="/poise"), prefers_reduced_motion="reduce") as (_, tab):
        done = "document.querySelector('#workers tbody tr').cells[5].textContent"
        assert await tab.evaluate(done) == "0"
        await tab.evaluate("document.querySelector('#pause').click()")
        assert await tab.evaluate("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"
        await kept.pool.run(Desk.square, 1)
        await tab.evaluate("new Promise(done => source.addEventListener('message', () => done(1), {once: true}))")
        assert await tab.evaluate(done) == "0"
        await tab.evaluate("document.querySelector('#pause').click()")
        assert await tab.until(f"{done} === '1'")
        still = "[...document.querySelectorAll('*')].every(e => getComputedStyle(e).animationName === 'none')"
        assert await tab.evaluate(still)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_stands_out_from_what_is_behind_it(scheme: str) -> None:
    """https://www.w3.org/TR/WCAG21/#contrast-minimum: 4.5 to 1."""
    async with busy(prefers_color_scheme=scheme) as tab:
        for word in ("", "good", "warn", "bad"):  # whatever state it is in
            await tab.evaluate(f"document.querySelector('#status').className = {word!r}")
            found: list[Any] = await tab.evaluate(CONTRASTS)
            assert len(found) > 60
            assert [each for each in found if each[0] < 4.5] == []


CONTRASTS = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = (colour) => [0.2126, 0.7152, 0.0722].reduce((sum, part, i) => sum + part * linear(colour[i] / 255), 0);
  const over = ([r, g, b, a = 1], under) => [r, g, b].map((c, i) => c * a + under[i] * (1 - a));
  const behind = (node) => {
    if (node === null) return [255, 255, 255];
    const colour = parse(getComputedStyle(node).backgroundColor);
    return colour[3] === 0 ? behind(node.parentElement) : over(colour, behind(node.parentElement));
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    const isText = walker.currentNode.textContent.trim() && !["SCRIPT", "NOSCRIPT"].includes(node.tagName);
    if (!isText || !node.checkVisibility()) continue;
    const ground = behind(node);
    const [a, b] = [light(over(parse(getComputedStyle(node).color), ground)), light(ground)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), walker.currentNode.textContent]);
  }
  return found;
})()"""


@pytest.mark.parametrize("width", [320, 360, 768])
async def test_nothing_is_wider_than_the_screen(width: int) -> None:
    async with busy(width=width, height=740) as tab:
        assert await tab.evaluate("document.documentElement.scrollWidth") == width
        parts = "[...document.querySelectorAll('body *:not(.scroll *)')]"
        wide = f"{parts}.filter(e => e.getBoundingClientRect().right > {width} + 0.5).map(e => e.outerHTML)"
        assert await tab.evaluate(wide) == []
