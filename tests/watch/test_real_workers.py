"""Of real workers their processes are seen too, and what they are doing, unless nobody there can answer."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

import poise
from poise._watch.sockets import Line, Refused
from tests.gate import Gate, wait_at

if TYPE_CHECKING:
    from collections.abc import Callable


async def aside(function: Callable[..., Any], *args: Any, **named: Any) -> Any:
    return await asyncio.to_thread(function, *args, **named)


@pytest.mark.usefixtures("shared_ray")
async def test_a_real_worker_is_seen_and_tells_what_it_does(
    place: str, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poise._engine.looking.TELLS_IN", 2.0)
    async with poise.Pool(size=1, watch=True) as pool:
        (name,) = os.listdir(place)
        line = await aside(Line, os.path.join(place, name), 30.0)
        try:
            call = pool.submit(wait_at, gate.path)
            await gate.reached()
            await aside(time.sleep, 0.05)
            (worker,) = (await aside(line.ask, do="look"))["workers"]
            assert (worker["state"], worker["lane"], worker["is_here"]) == ("ready", "express", True)
            assert worker["resident"] > 10 << 20
            assert worker["cpu"] > 0
            assert [each["function"] for each in worker["calls"]] == ["wait_at"]
            text = await aside(line.ask, do="stack", worker=0)
            assert text.startswith("thread ")
            assert "in wait_at" in text.split("\n\n")[0]  # the thread that runs calls comes first
            os.kill(worker["pid"], signal.SIGSTOP)
            try:
                with pytest.raises(Refused, match="has not answered within 2 s: its process is stopped, or C code"):
                    await aside(line.ask, do="stack", worker=0)
            finally:
                os.kill(worker["pid"], signal.SIGCONT)
        finally:
            gate.open()
            line.close()
        await call
        os.kill(worker["pid"], signal.SIGKILL)
        async with asyncio.timeout(20):
            while not pool.stats().deaths:
                await asyncio.sleep(0.01)


@pytest.mark.usefixtures("shared_ray")
async def test_actors_that_existed_before_cannot_be_asked(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    class Actor:
        def echo(self, value: int) -> int:
            return value

    monkeypatch.setenv("POISE_WATCH", "1")
    remote: Any = ray
    handle = remote.remote(num_cpus=0)(Actor).remote()
    async with poise.Pool.of([handle]) as pool:
        assert await pool.run("echo", 1) == 1
        (name,) = os.listdir(place)
        with await aside(Line, os.path.join(place, name), 30.0) as line:
            (worker,) = (await aside(line.ask, do="look"))["workers"]
            assert (worker["is_here"], worker["resident"]) == (False, None)
            with pytest.raises(Refused, match="existed before"):
                await aside(line.ask, do="stack", worker=0)
            with pytest.raises(Refused, match="keeps those"):
                await aside(line.ask, do="replace", worker=0)
    remote.kill(handle)
