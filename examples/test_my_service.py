"""How a service that uses poise is tested without Ray: `pytest examples/test_my_service.py`."""

# ruff: noqa: D103 (a test's name is the sentence)

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

import poise
from examples.fastapi_service import Model, app
from poise.testing import Faults, LocalPool, ManualClock


@pytest_asyncio.fixture
async def client(poise_local: Faults) -> AsyncIterator[httpx.AsyncClient]:  # noqa: ARG001 (makes the service's pool local)
    """Run the service."""
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client,
    ):
        yield client


async def test_the_service_squares(client: httpx.AsyncClient) -> None:
    assert (await client.get("/square", params={"x": 7})).json() == 49


async def test_the_service_streams(client: httpx.AsyncClient) -> None:
    assert (await client.get("/count", params={"end": 3})).text == "0\n1\n2\n"


async def test_a_client_in_a_hurry_gets_504(client: httpx.AsyncClient, poise_local: Faults) -> None:
    poise_local.hang(function=Model.square)
    response = await client.get("/square", params={"x": 7}, headers={"X-Request-Timeout": "0.05"})
    assert (response.status_code, response.json()["error"]) == (504, "DeadlineExceeded")


async def test_a_call_whose_worker_dies_is_run_again(poise_pool: type[LocalPool[Model]]) -> None:
    async with poise_pool(Model, size=2) as pool:
        pool.faults.die(on_call=1)
        assert await pool.options(retries=1).run(Model.square, 3) == 9


async def test_a_stuck_worker_is_replaced(poise_pool: type[LocalPool[Model]], poise_clock: ManualClock) -> None:
    async with poise_pool(Model, size=1, kill_after=5, clock=poise_clock) as pool:
        pool.faults.hang()
        call = pool.options(timeout=30).submit(Model.square, 3)
        await pool.faults.happened()
        await poise_clock.advance(30)
        with pytest.raises(poise.DeadlineExceeded):
            await call
        await poise_clock.advance(5)
        await pool.until(lambda stats: stats.deaths == 1)
        await poise_clock.advance(1)
        assert await pool.run(Model.square, 4) == 16
