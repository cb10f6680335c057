"""How a service that uses poise is tested without Ray: `pytest examples/test_my_service.py`."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

import poise
from examples.fastapi_service import Model, app
from poise.testing import Faults, LocalPool, ManualClock


@pytest.fixture
def client(poise_local: Faults) -> Iterator[TestClient]:  # noqa: ARG001 (its pool has its workers in this process)
    """Run the service."""
    with TestClient(app) as client:
        yield client


def test_the_service_squares(client: TestClient) -> None:
    assert client.get("/square", params={"x": 7}).json() == 49


def test_the_service_streams(client: TestClient) -> None:
    assert client.get("/count", params={"end": 3}).text == "0\n1\n2\n"


def test_a_client_that_is_in_a_hurry_gets_504(client: TestClient, poise_local: Faults) -> None:
    poise_local.hang(function=Model.square)
    response = client.get("/square", params={"x": 7}, headers={"X-Request-Timeout": "0.05"})
    assert (response.status_code, response.json()["error"]) == (504, "DeadlineExceeded")


async def test_a_call_whose_worker_dies_is_run_again(poise_pool: type[LocalPool[Model]]) -> None:
    async with poise_pool(Model, size=2) as pool:
        pool.faults.die(on_call=1)
        assert await pool.options(retries=1).run(Model.square, 3) == 9


async def test_a_stuck_worker_is_replaced(poise_pool: type[LocalPool[Model]], poise_clock: ManualClock) -> None:
    async with poise_pool(Model, size=1, kill_after=5, clock=poise_clock) as pool:
        pool.faults.hang()
        call = pool.options(timeout=30).submit(Model.square, 3)
        await pool.until(lambda stats: stats.running == 1)
        await poise_clock.advance(30)
        with pytest.raises(poise.DeadlineExceeded):
            await call
        await poise_clock.advance(5)
        await pool.until(lambda stats: stats.deaths == 1)
        await poise_clock.advance(1)
        assert await pool.run(Model.square, 4) == 16
