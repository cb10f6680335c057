"""Making an actor, and giving it up meanwhile."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from poise._lanes import actor, creation
from poise._lanes.creation import Creation, kill_actor
from poise._lanes.launcher import HostLauncher
from tests.lanes.ear import Ear


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    actors: list[Any] = []
    monkeypatch.setattr(creation, "kill_actor", actors.append)
    return actors


async def test_what_was_made_is_the_launchs(killed: list[Any]) -> None:
    making = Creation(lambda: ("host", "serving"))
    assert await making.outcome() == ("host", "serving")
    assert killed == []


async def test_what_was_made_before_it_is_given_up_is_handed_out_to_be_killed(killed: list[Any]) -> None:  # G12
    making = Creation(lambda: ("host", "serving"))
    await making.outcome()
    assert await making.give_up() == ("host", "serving")
    assert killed == []


async def test_what_is_made_after_it_was_given_up_is_killed_where_it_is_made(
    killed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:  # G12
    monkeypatch.setattr(creation, "GIVEN_UP", 0.01)
    go, gone = threading.Event(), threading.Event()

    def kill(actor: Any) -> None:
        killed.append(actor)
        gone.set()

    monkeypatch.setattr(creation, "kill_actor", kill)

    def make() -> tuple[Any, Any]:
        go.wait()
        return "host", "serving"

    making = Creation(make)
    assert await making.give_up() is None
    go.set()
    await asyncio.to_thread(gone.wait)
    assert killed == ["host"]


async def test_a_making_that_fails_when_it_is_given_up_is_nobodys_error(killed: list[Any]) -> None:
    def make() -> tuple[Any, Any]:
        raise RuntimeError("Ray has been shut down")

    assert await Creation(make).give_up() is None
    assert killed == []


@pytest.mark.usefixtures("shared_ray")
async def test_an_actor_that_is_given_up_is_not_killed_before_it_has_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import state

    were_there: list[bool] = []

    def kill(host: Any) -> None:
        were_there.append(state.actors(host._actor_id.hex())["Pid"] != 0)  # noqa: SLF001 - Ray has no public one
        kill_actor(host)

    monkeypatch.setattr(actor, "kill_actor", kill)
    launcher = HostLauncher(object, ray_options={"num_cpus": 0})
    await launcher.open(Ear())
    launch = asyncio.create_task(launcher.launch(1))
    await asyncio.sleep(0)  # it has begun
    launch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launch
    await launcher.aclose()
    assert were_there == [True]  # while Ray starts a process for it, Ray would lose its room


@pytest.mark.usefixtures("shared_ray")
async def test_an_actor_that_waits_for_room_is_killed_where_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor, "PLACED_WITHIN", 0.5)
    launcher = HostLauncher(object, ray_options={"resources": {"room": 1000}})
    await launcher.open(Ear())
    launch = asyncio.create_task(launcher.launch(1))
    await asyncio.sleep(0)
    launch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launch
    await launcher.aclose()
