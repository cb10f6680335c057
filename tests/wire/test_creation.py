"""Making an actor while Ray is slow."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from poise._wire import creation
from poise._wire.creation import Creation


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
