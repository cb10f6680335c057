"""The live page of `poise.asgi`, as far as it can be seen without a browser."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
import socket
from base64 import b64encode
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Security
from starlette.applications import Starlette
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Mount

import poise
from poise import asgi
from poise._web import page as live
from poise.testing import LocalPool, local_pools
from tests.faces.conftest import ROOT, Start
from tests.faces.web_service import Desk, make_app, serving

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from starlette.requests import Request

STREAM = {"Accept": "text/event-stream"}


def local(**options: Any) -> Callable[[], LocalPool[Desk]]:
    return lambda: LocalPool(Desk, **options)


@asynccontextmanager
async def told(
    client: httpx.AsyncClient, path: str = "/poise", **headers: str
) -> AsyncGenerator[AsyncGenerator[dict[str, str]]]:
    """The events of the stream, each by its fields."""
    async with client.stream("GET", path, headers={**STREAM, **headers}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")

        async def events() -> AsyncGenerator[dict[str, str]]:
            fields: dict[str, str] = {}
            async for line in answer.aiter_lines():
                if line:
                    name, _, value = line.partition(":")
                    fields[name] = value.strip()
                else:
                    yield fields
                    fields = {}

        yield events()


async def news(events: AsyncGenerator[dict[str, str]]) -> dict[str, Any]:
    """What the next message says."""
    while "data" not in (event := await anext(events)):
        pass
    told: dict[str, Any] = json.loads(event["data"])
    return told | {"id": event["id"]}


# ---------------------------------------------------------------------------------------------------------------------
# The document


async def test_the_page_is_one_document_that_may_load_nothing() -> None:
    async with serving(make_app(local(), page="/poise")) as client:
        answer = await client.get("/poise")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    # Names of XML are no addresses.
    assert set(re.findall(r"https?://[^'\" ]+", answer.text)) == {"http://www.w3.org/2000/svg"}


async def test_there_is_none_unless_it_is_asked_for() -> None:
    async with serving(make_app(local())) as client:
        assert (await client.get("/poise")).status_code == 404


async def test_it_is_no_part_of_the_programs_own_documentation_and_only_read() -> None:
    async with serving(make_app(local(), page="/poise")) as client:
        assert "/poise" not in (await client.get("/openapi.json")).json()["paths"]
        assert (await client.post("/poise")).status_code == 405


@pytest.mark.parametrize(
    ("options", "named"), [({"page": "poise"}, "page"), ({"page": ""}, "page"), ({"page_access": print}, "page_access")]
)
def test_options_that_make_no_page_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(poise.ConfigError, match=f"^{named}"):
        asgi.install(Starlette(), local(), **options)


# ---------------------------------------------------------------------------------------------------------------------
# The stream


async def test_a_viewer_is_told_all_and_then_what_changes() -> None:
    async with serving(make_app(local(size=2), page="/poise")) as client:
        await client.get("/square?x=2")
        async with told(client) as events:
            first = await news(events)
            await client.get("/square?x=3")
            second = await news(events)
    assert (first["whole"], second["whole"]) == (True, False)
    before, after = first["pools"]["Desk"], second["pools"]["Desk"]
    assert (before["state"], before["ready"], before["totals"]["completed"]) == ("open", 2, 1)
    assert [bar["function"] for bar in before["bars"]] == ["Desk.square"]
    assert after["totals"]["completed"] == 2
    assert sum(sum(second["ended"].values()) for second in after["seconds"]) <= 2


async def test_a_viewer_that_comes_back_is_told_what_it_has_missed() -> None:
    async with serving(make_app(local(), page="/poise")) as client:
        async with told(client) as events:
            last = (await news(events))["id"]
            await news(events)
        async with told(client, **{"Last-Event-ID": last}) as events:
            assert not (await news(events))["whole"]
        for unknown in ("0-0", "nonsense", f"{last.partition('-')[0]}-7", f"{last}9", last + 9000 * "9"):
            async with told(client, **{"Last-Event-ID": unknown}) as events:
                assert (await news(events))["whole"]


async def test_all_viewers_are_told_the_same_which_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    changes = live.Page._changes  # noqa: SLF001

    def counted(self: live.Page, name: str, tick: int, marks: dict[str, int]) -> object:
        made.append((tick, not marks))
        return changes(self, name, tick, marks)

    monkeypatch.setattr(live.Page, "_changes", counted)
    async with serving(make_app(local(), page="/poise")) as client:

        async def view() -> list[str]:
            async with told(client) as events:
                return [(await news(events))["id"] for _ in range(3)]

        await asyncio.gather(*(view() for _ in range(10)))
    assert len(made) == len(set(made)), "once for those who know nothing and once for the others"


async def test_a_slow_viewer_is_told_less_often_and_misses_nothing() -> None:
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    page = live.Page()
    async with LocalPool(Desk, size=1) as pool:
        page.watch(poise.view.engine_of(pool))
        viewer = page.tell("", gone)
        await anext(viewer)  # how soon to come back
        first = parsed(await anext(viewer))
        for x in range(3):
            await pool.run(Desk.square, x, 0.9)
        second = parsed(await anext(viewer))
        ended = sum(each["ended"].get("returned", 0) for each in second["pools"]["Desk"]["seconds"])
        assert (first["whole"], second["whole"], ended) == (True, False, 3)
        gone.set_result(None)
        assert [message async for message in viewer] == []


def parsed(message: bytes) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(message.decode().partition("data: ")[2])
    return told


async def test_a_stream_ends_when_its_viewer_goes() -> None:
    for watches in (True, False):
        async with serving(make_app(local(), page="/poise", cancel_on_disconnect=watches)) as client:
            before = len(asyncio.all_tasks())
            async with told(client) as events:
                await news(events)
                assert len(asyncio.all_tasks()) > before
            async with asyncio.timeout(live.LIFE / 3):
                while len(asyncio.all_tasks()) > before:
                    await asyncio.sleep(0.01)


async def test_a_stream_ends_by_itself_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LIFE", 0.1)
    async with serving(make_app(local(), page="/poise")) as client, told(client) as events:
        assert [list(event) async for event in events] == [["retry"], ["id", "data"]]


async def test_a_stream_ends_with_the_pools() -> None:
    pools: list[LocalPool[Desk]] = []

    def make_pool() -> LocalPool[Desk]:
        pools.append(LocalPool(Desk, size=1))
        return pools[-1]

    async with serving(make_app(make_pool, page="/poise")) as client:
        async with told(client) as events:
            assert (await news(events))["pools"]["Desk"]["state"] == "open"
            await pools[0].aclose()
            assert (await news(events))["pools"]["Desk"]["state"] == "closed"
            assert [event async for event in events] == [{"retry": "5000"}]
        async with told(client) as events:  # who comes later is told too
            assert (await news(events))["pools"]["Desk"]["state"] == "closed"


@pytest.mark.usefixtures("shared_ray")
async def test_a_server_that_is_told_to_end_does_not_wait_for_viewers(join: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    arguments = ["--factory", "tests.faces.web_service:program", f"--port={port}", "--log-level=warning"]
    server = join("-m", "uvicorn", *arguments, cwd=ROOT)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        async with asyncio.timeout(60):
            while True:
                try:
                    await client.get("/readyz")
                    break
                except httpx.ConnectError:
                    await asyncio.sleep(0.05)
        async with told(client) as events:
            await news(events)
            server.send_signal(signal.SIGTERM)
            last = [event async for event in events][-1]
    _, errors = await asyncio.to_thread(server.communicate, timeout=60)
    assert last.get("event") == "ending", "not because its time was over"
    assert errors == ""


# ---------------------------------------------------------------------------------------------------------------------
# Several pools, prefixes


async def test_the_page_shows_every_pool_of_the_application_by_a_name_of_its_own() -> None:
    with local_pools():
        app = FastAPI(lifespan=asgi.lifespan(lambda: poise.Pool(Desk, size=1)))
        asgi.install(app, lambda: poise.Pool(Desk, size=2), page="/poise")
        for _ in range(2):  # an application may be started again
            async with serving(app) as client, told(client) as events:
                pools = (await news(events))["pools"]
                assert {name: (pool["state"], pool["ready"]) for name, pool in pools.items()} == {
                    "Desk": ("open", 2),
                    "Desk (2)": ("open", 1),
                }


async def test_it_may_be_mounted_below_a_prefix() -> None:
    inner = make_app(local(), page="/poise")
    life: Any = inner.router.lifespan_context
    app = Starlette(routes=[Mount("/inner", inner)], lifespan=lambda _: life(inner))
    async with serving(app) as client, told(client, "/inner/poise") as events:
        assert (await client.get("/inner/poise")).status_code == 200
        assert (await news(events))["pools"]["Desk"]["state"] == "open"


# ---------------------------------------------------------------------------------------------------------------------
# Access


def needs_token(x_token: Annotated[str, Header()] = "") -> None:
    if x_token != "secret":
        raise HTTPException(403, "not you")


@pytest.mark.parametrize("access", [needs_token, Depends(needs_token), Security(needs_token)])
async def test_in_fastapi_a_dependency_says_who_may_see_it(access: Any) -> None:
    app = make_app(local(), page="/poise", page_access=access)
    async with serving(app) as client:
        for headers in ({}, STREAM):
            assert (await client.get("/poise", headers=headers)).json() == {"detail": "not you"}
        assert (await client.get("/poise", headers={"X-Token": "secret"})).status_code == 200
        async with told(client, **{"X-Token": "secret"}) as events:
            assert (await news(events))["whole"]
        app.dependency_overrides[needs_token] = lambda: None
        assert (await client.get("/poise")).status_code == 200


def may_see(request: Request) -> None:
    if request.headers.get("x-token") != "secret":
        raise StarletteHTTPException(403)


async def may_see_async(request: Request) -> None:
    may_see(request)


@pytest.mark.parametrize("access", [may_see, may_see_async])
async def test_in_starlette_a_function_says_who_may_see_it(access: Any) -> None:
    app = Starlette()
    asgi.install(app, local(), page="/poise", page_access=access)
    async with serving(app) as client:
        for headers in ({}, STREAM):
            assert (await client.get("/poise", headers=headers)).status_code == 403
        assert (await client.get("/poise", headers={"X-Token": "secret"})).status_code == 200
