"""Opening and closing end in time, whatever Ray does."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

import poise
from poise._engine import engine
from poise._engine.runtime import Runtime, living_in
from poise._lanes.lane import Launcher, Origin
from poise._ray.blocking import in_thread, in_thread_within

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poise._lanes.lane import Lane, Listener
    from poise.options import PoolOptions


class StuckLauncher:
    """Waits for a Ray that does not answer at one point; the threads that wait end with the test."""

    replaces = True

    def __init__(self, at: str) -> None:
        self._at = at
        self.answer = threading.Event()

    async def _ask(self, what: str) -> None:
        if what == self._at:
            await in_thread(self.answer.wait)

    async def open(self, listener: Listener) -> None:
        await self._ask("open")

    async def default_size(self) -> int:
        await self._ask("default_size")
        return 1

    async def launch(self, worker_id: int) -> Lane:
        try:
            await self._ask("launch")
        except asyncio.CancelledError:
            await self._ask("launch")  # as if Ray did not answer to giving up either
            raise
        raise AssertionError

    async def shortage(self) -> str | None:
        return None

    async def has_room(self) -> bool:
        return True

    async def again(self, factory: Any) -> Launcher:
        return self

    async def aclose(self, within: float) -> None:
        return


class GivenRuntime(Runtime):
    """One whose workers are started by this."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def launcher(self, factory: Any, settings: PoolOptions) -> Launcher:
        return self._launcher


def pool_of(launcher: Launcher, **options: Any) -> poise.Pool[None]:
    with living_in(GivenRuntime(launcher)):
        return poise.Pool(**options)


@pytest.fixture(params=["open", "default_size", "launch"])
def launcher(request: pytest.FixtureRequest) -> Iterator[StuckLauncher]:
    launcher = StuckLauncher(request.param)
    yield launcher
    launcher.answer.set()


async def test_opening_and_closing_end_though_ray_does_not_answer(
    launcher: StuckLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:  # G1
    monkeypatch.setattr(engine, "CLOSING", engine.LETTING_GO + 0.1)
    pool = pool_of(launcher, start_timeout=0.1, close_timeout=0)
    with pytest.raises(poise.PoolBroken, match=r"start_timeout=0\.1 s"):
        await pool.open()
    assert pool.state == "closed"


class NeverEnding(StuckLauncher):
    """Its worker is ready at once; then Ray answers neither to killing it nor to being let go of."""

    def __init__(self) -> None:
        super().__init__("open")
        self.had: list[float] = []
        """Seconds that it was given for letting go of Ray."""

    async def open(self, listener: Listener) -> None:
        return

    async def launch(self, worker_id: int) -> Any:
        return _NeverEndingLane(self.answer)

    async def aclose(self, within: float) -> None:
        self.had.append(within)
        await in_thread_within(within, "for Ray to end", self.answer.wait)


class _NeverEndingLane:
    origin = Origin()
    most_ahead = 0

    def __init__(self, answer: threading.Event) -> None:
        self._answer = answer

    async def kill(self) -> None:
        await in_thread(self._answer.wait)

    async def close(self, timeout: float) -> None:
        await self.kill()


async def test_closing_has_one_limit_for_its_workers_and_for_ray(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # G1, G12
    monkeypatch.setattr(engine, "CLOSING", 0.3)
    monkeypatch.setattr(engine, "LETTING_GO", 0.1)
    launcher = NeverEnding()
    async with pool_of(launcher, size=1, close_timeout=0.1) as pool:
        pass
    assert pool.state == "closed"
    (had,) = launcher.had
    assert had <= 0.1  # the workers had all the rest
    assert "1 workers have not ended within" in caplog.text
    assert "for Ray to end in vain" in caplog.text
    launcher.answer.set()


async def test_what_is_waited_for_in_vain_is_left_to_its_thread(caplog: pytest.LogCaptureFixture) -> None:
    go = threading.Event()
    with caplog.at_level(logging.WARNING, "poise"):
        await in_thread_within(0.01, "for Ray to end", go.wait)
    go.set()
    assert "waited 0.01 s for Ray to end in vain" in caplog.text


class OneByOne:
    """The first worker is ready at once, the second never; giving that up takes as long as the test wants."""

    replaces = True

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.waits = asyncio.Event()
        self.go = asyncio.Event()

    async def open(self, listener: Listener) -> None:
        return

    async def default_size(self) -> int:
        return 2

    async def launch(self, worker_id: int) -> Any:
        if not self.waits.is_set():
            self.waits.set()
            return _ReadyLane(self.ended)
        try:
            await asyncio.Event().wait()
        finally:
            await self.go.wait()
            self.ended.append("waiting")

    async def shortage(self) -> str | None:
        return None

    async def has_room(self) -> bool:
        return True

    async def again(self, factory: Any) -> Launcher:
        return self

    async def aclose(self, within: float) -> None:
        return


class _ReadyLane:
    origin = Origin()
    most_ahead = 0

    def __init__(self, ended: list[str]) -> None:
        self._ended = ended

    async def kill(self) -> None:
        self._ended.append("ready")

    async def close(self, timeout: float) -> None:
        await self.kill()


async def test_a_closing_pool_ends_those_that_wait_for_room_before_any_comes_free() -> None:  # G12
    launcher: Any = OneByOne()
    pool = pool_of(launcher, size=2)
    async with pool:
        closing = asyncio.create_task(pool.aclose())
        for _ in range(20):
            await asyncio.sleep(0)
        assert launcher.ended == []
        launcher.go.set()
        await closing
    assert launcher.ended == ["waiting", "ready"]
