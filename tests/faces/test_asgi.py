"""`poise.asgi` under a real uvicorn, with real HTTP clients."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import poise
from poise import asgi
from poise.testing import Faults, LocalPool, ManualClock, local_pools
from tests.faces.conftest import ROOT, Start
from tests.faces.web_service import ERRORS, Desk, make_app, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.gate import Gate


def local(**options: Any) -> Callable[[], LocalPool[Desk]]:
    return lambda: LocalPool(Desk, **options)


class Kept:
    """Makes one pool and keeps it, so that a test can look at it."""

    def __init__(self, **options: Any) -> None:
        self.pool: LocalPool[Desk] = LocalPool(Desk, **options)

    def __call__(self) -> LocalPool[Desk]:
        return self.pool


# ---------------------------------------------------------------------------------------------------------------------
# Errors, load


@pytest.mark.usefixtures("shared_ray")
async def test_under_overload_every_request_is_answered_rightly_or_refused_with_503(gate: Gate) -> None:  # G7
    app = make_app(lambda: poise.Pool(Desk, size=2, min_ready=2, backlog=20))
    async with serving(app) as client:
        requests = [
            asyncio.ensure_future(client.get("/square", params={"x": x, "gate": gate.path})) for x in range(200)
        ]
        for refused in islice(asyncio.as_completed(requests), 178):
            assert (await refused).status_code == 503
        gate.open()
        answers = await asyncio.gather(*requests)
    for x, answer in enumerate(answers):
        if answer.status_code == 200:
            assert answer.json() == x * x
        else:
            assert answer.status_code == 503
            assert answer.json()["error"] == "Overloaded"
            assert "the limit is 20" in answer.json()["detail"]
            assert int(answer.headers["Retry-After"]) >= 1
    assert Counter(answer.status_code for answer in answers) == {
        200: 22,  # what the workers and the backlog hold at once
        503: 178,
    }


@pytest.mark.parametrize(
    ("kind", "status", "retry_after"),
    [
        ("overloaded", 503, "3"),
        ("soon", 503, "1"),
        ("late", 504, None),
        ("broken", 503, None),
        ("closed", 503, None),
    ],
)
async def test_an_error_becomes_a_response(kind: str, status: int, retry_after: str | None) -> None:
    async with serving(make_app(local())) as client:
        answer = await client.get(f"/fail/{kind}")
    error = ERRORS[kind]()
    assert answer.status_code == status
    assert answer.json() == {"error": type(error).__name__, "detail": str(error)}
    assert answer.headers.get("Retry-After") == retry_after


async def test_other_errors_stay_what_they_are() -> None:
    async with serving(make_app(local())) as client:
        assert (await client.get("/fail/lost")).status_code == 500


async def test_an_application_may_answer_an_error_in_its_own_way() -> None:
    app = make_app(local())

    async def teapot(request: Request, error: Exception) -> Response:
        return PlainTextResponse("later", 418)

    app.add_exception_handler(poise.Overloaded, teapot)
    async with serving(app) as client:
        assert (await client.get("/fail/overloaded")).status_code == 418


# ---------------------------------------------------------------------------------------------------------------------
# Clients that go


async def test_a_call_whose_client_has_gone_is_cancelled(gate: Gate) -> None:
    kept = Kept(size=1)
    async with serving(make_app(kept)) as client:
        request = asyncio.ensure_future(client.post("/hold", params={"gate": gate.path}, content=b"body"))
        await gate.reached(1)
        request.cancel()
        assert await gate.reached(2) == ["held", "cancelled"]
        stats = await kept.pool.until(lambda stats: stats.free_slots == 1)
        assert stats.cancelled == 1


async def test_a_call_that_waits_is_dropped_when_its_client_goes(gate: Gate) -> None:
    kept = Kept(size=1)
    async with serving(make_app(kept)) as client:
        first = asyncio.ensure_future(client.post("/hold", params={"gate": gate.path}))
        await gate.reached(1)
        second = asyncio.ensure_future(client.get("/square?x=3"))
        await kept.pool.until(lambda stats: stats.waiting == 1)
        second.cancel()
        await kept.pool.until(lambda stats: stats.waiting == 0 and stats.cancelled == 1)
        gate.open()
        assert (await first).status_code == 200


async def test_a_stream_whose_client_goes_stops_its_producer(gate: Gate) -> None:
    kept = Kept(size=1)
    async with serving(make_app(kept)) as client:
        async with client.stream("GET", "/count", params={"gate": gate.path}) as response:
            async for line in response.aiter_lines():
                if line == "100":
                    break
        await kept.pool.until(lambda stats: stats.free_slots == 1)
        assert gate.marks[-1] == "closed"


async def test_a_client_that_stays_gets_the_whole_of_a_large_upload_counted() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(50_000)

    async with serving(make_app(local())) as client:
        assert (await client.post("/upload", content=chunks())).json() == 64 * 50_000


async def test_what_runs_after_the_response_is_not_cancelled_when_the_client_goes(gate: Gate) -> None:
    async with serving(make_app(local())) as client:
        assert (await client.get("/background", params={"gate": gate.path})).json() == "sent"
        await client.aclose()
        await gate.reached(1)
        await asyncio.sleep(0.05)
        gate.open()
        assert await gate.reached(2) == ["begun", "ended"]


async def test_an_endpoint_may_be_left_to_run_when_its_client_goes(gate: Gate) -> None:
    kept = Kept(size=1)
    async with serving(make_app(kept, cancel_on_disconnect=False)) as client:
        request = asyncio.ensure_future(client.post("/hold", params={"gate": gate.path}))
        await gate.reached(1)
        request.cancel()
        await client.get("/healthz")
        gate.open()
        stats = await kept.pool.until(lambda stats: stats.completed == 1)
        assert stats.cancelled == 0


# ---------------------------------------------------------------------------------------------------------------------
# Deadlines


async def test_a_client_says_how_long_it_waits(gate: Gate) -> None:  # G6
    kept = Kept(size=1, kill_after=None)
    async with serving(make_app(kept, deadline_header="X-Request-Timeout")) as client:
        headers = {"x-request-timeout": "0.2"}
        answer = await client.get("/twice", params={"gate": gate.path}, headers=headers)
        gate.open()
    assert answer.status_code == 504
    assert answer.json()["error"] == "DeadlineExceeded"


async def test_a_client_that_has_no_time_gets_504_and_nothing_runs() -> None:
    kept = Kept(size=1)
    async with serving(make_app(kept, deadline_header="X-Request-Timeout")) as client:
        assert (await client.get("/square?x=1", headers={"X-Request-Timeout": "0"})).status_code == 504
        assert kept.pool.stats().completed == 0
        assert (await client.get("/square?x=2", headers={"X-Request-Timeout": "30"})).json() == 4
        assert (await client.get("/square?x=3")).json() == 9


async def test_an_endpoint_cannot_give_itself_more_time_than_the_client_has(gate: Gate) -> None:  # G6
    kept = Kept(size=1, kill_after=None)
    async with serving(make_app(kept, deadline_header="X-Request-Timeout")) as client:
        params = {"x": "3", "gate": gate.path}
        answer = await client.get("/later", params=params, headers={"X-Request-Timeout": "0.2"})
        gate.open()
        assert (answer.status_code, answer.json()["error"]) == (504, "DeadlineExceeded")
        assert (await client.get("/later", params=params)).json() == 9  # a client that gives no time gives all


async def test_the_time_that_a_client_gives_is_told_by_the_clock_of_the_pool() -> None:
    clock = ManualClock(1e9)
    with local_pools(clock=clock):
        app = make_app(lambda: poise.Pool(Desk, size=1), deadline_header="X-Request-Timeout")
        async with serving(app) as client:
            answer = await client.get("/square?x=2", headers={"X-Request-Timeout": "30"})
    assert (answer.status_code, answer.json()) == (200, 4)


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", "", "1_000", "1e3", "+5", ".5", "5.", "0x10", "9" * 400])
async def test_a_timeout_that_is_no_number_of_seconds_is_refused(text: str) -> None:
    async with serving(make_app(local(), deadline_header="X-Request-Timeout")) as client:
        answer = await client.get("/square?x=1", headers={"X-Request-Timeout": text})
    assert answer.status_code == 400
    assert "X-Request-Timeout" in answer.json()["detail"]


async def test_the_header_means_nothing_unless_it_was_asked_for() -> None:
    async with serving(make_app(local())) as client:
        assert (await client.get("/square?x=3", headers={"X-Request-Timeout": "0"})).json() == 9


# ---------------------------------------------------------------------------------------------------------------------
# Health, life


async def test_health_tells_a_process_that_lives_from_a_pool_that_works() -> None:
    kept = Kept(size=1, min_ready=0)
    kept.pool.faults.refuse_start(3)
    async with serving(make_app(kept, prefix="/internal")) as client:
        await kept.pool.until(lambda _: kept.pool.state == "broken")
        assert (await client.get("/internal/healthz")).status_code == 200
        broken = await client.get("/internal/readyz")
        assert (broken.status_code, broken.json()) == (503, {"state": "broken", "ready": 0, "size": 1})
        assert (await client.get("/square?x=1")).json()["error"] == "PoolBroken"
        await kept.pool.until(lambda stats: stats.ready == 1)
        ready = await client.get("/internal/readyz")
        assert (ready.status_code, ready.json()) == (200, {"state": "open", "ready": 1, "size": 1})


async def test_a_pool_that_sleeps_is_ready_because_a_call_wakes_it() -> None:
    kept = Kept(size=poise.Elastic(0, 1, idle=0.02))
    async with serving(make_app(kept)) as client:
        asleep = await client.get("/readyz")
        assert (asleep.status_code, asleep.json()) == (200, {"state": "open", "ready": 0, "size": 0})
        assert (await client.get("/square?x=3")).json() == 9
        await kept.pool.until(lambda stats: stats.size == 0)


async def test_a_pool_that_drains_is_not_ready(gate: Gate) -> None:
    kept = Kept(size=1)
    async with serving(make_app(kept)) as client:
        held = asyncio.ensure_future(client.post("/hold", params={"gate": gate.path}))
        await gate.reached(1)
        draining = asyncio.ensure_future(kept.pool.drain())
        await asyncio.sleep(0)
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["state"]) == (503, "draining")
        refused = await client.get("/square?x=1")
        assert (refused.status_code, refused.json()["error"]) == (503, "PoolClosed")
        gate.open()
        assert (await held).status_code == 200
        await draining


async def test_the_pool_lives_around_the_lifespan_of_the_application_and_keeps_its_state() -> None:
    events: list[str] = []
    kept = Kept(size=1)
    app = make_app(kept, events)
    states = [kept.pool.state]
    async with serving(app) as client:
        assert (await client.get("/greeting")).json() == "hello"
        states.append(kept.pool.state)
    states.append(kept.pool.state)
    assert states == ["new", "open", "closed"]
    assert events == ["the application starts", "the application ends"]


async def test_an_application_with_a_factory_can_be_started_again() -> None:
    app = make_app(local(size=1))
    for _ in range(2):
        async with serving(app) as client:
            assert (await client.get("/square?x=3")).json() == 9


async def test_starlette_alone_is_enough(poise_local: Faults) -> None:
    async def square(request: Request) -> Response:
        view = await asgi.pool(request)
        return PlainTextResponse(str(await view.run(Desk.square, 4)))

    second = poise.Pool(Desk, size=1)
    app = Starlette(routes=[Route("/{rest:path}", square)], lifespan=asgi.lifespan(second))
    asgi.install(app, poise.Pool(Desk, size=1))
    async with serving(app) as client:
        assert (await client.get("/square")).text == "16"
        assert (await client.get("/healthz")).json() == {"status": "alive"}
        within = second.state
    assert (within, second.state) == ("open", "closed")


async def test_an_application_takes_one_pool_only() -> None:
    app = Starlette()
    asgi.install(app, local())
    with pytest.raises(poise.ConfigError, match=r"asgi\.lifespan"):
        asgi.install(app, local())


async def test_a_request_without_install_says_what_is_missing() -> None:
    with pytest.raises(poise.ConfigError, match=r"call asgi\.install"):
        await asgi.pool(Request({"type": "http", "headers": []}))


async def test_sigterm_under_load_finishes_what_was_accepted(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(200)
        os.set_inheritable(taken.fileno(), True)
        server = start(
            *("-m", "uvicorn", "--factory", "tests.faces.web_service:program", "--log-level", "warning"),
            *("--fd", str(taken.fileno())),
            pass_fds=[taken.fileno()],
            cwd=ROOT,
        )
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    async with httpx.AsyncClient(base_url=url, timeout=90, limits=httpx.Limits(max_connections=None)) as client:
        assert (await client.get("/readyz")).status_code == 200
        # 5 seconds of work: longer than Ray would let the process live after a SIGTERM.
        requests = [asyncio.ensure_future(client.get(f"/square?x={x}&seconds=0.25")) for x in range(40)]
        while (await client.get("/submitted")).json() < 40:
            pass
        server.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*requests)
    assert [answer.json() for answer in answers] == [x * x for x in range(40)]  # G1
    _, errors = await asyncio.to_thread(server.communicate)
    assert server.returncode in (0, -signal.SIGTERM), errors
    assert "Traceback" not in errors
