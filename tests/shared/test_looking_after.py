"""A shared pool that outlives its clients, and the commands for those."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import ray
from click.testing import CliRunner

import poise
from poise._shared import directory
from poise.cli.commands import poise as command
from tests.contract.desk import Desk
from tests.shared.conftest import names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.gate import Gate


@pytest.fixture(autouse=True)
def _connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands find the Ray of the tests, which stays when they have ended."""
    from contextlib import contextmanager

    @contextmanager
    def on_ray(address: str | None) -> Iterator[None]:
        assert address in (None, "there")
        yield

    monkeypatch.setattr("poise.cli.shared.on_ray", on_ray)


async def run(*words: str) -> str:
    """What a command prints."""
    result: Any = await asyncio.to_thread(CliRunner().invoke, command, words)
    assert result.exit_code == 0, result.output
    return str(result.output)


async def test_a_detached_pool_stays_until_it_is_stopped(name: str) -> None:
    async with poise.Pool.shared(name, Desk, size=1, detached=True) as pool:
        who = await pool.run(Desk.who)
    listed = await run("ls")
    assert f"{name} (detached)  Desk   open   0        1/1" in listed
    async with poise.Pool.join(name) as pool:
        assert await pool.run(Desk.who) == who
    await run("stop", name, "--address", "there")
    assert not names()
    assert await run("ls") == "no pool is shared here\n"


async def test_a_pool_that_is_drained_ends_with_its_last_call_for_all_that_use_it(name: str, gate: Gate) -> None:
    async with poise.Pool.shared(name, Desk, size=1) as pool, poise.Pool.join(name) as other:
        held = pool.submit(Desk.hold, gate.path, 1)
        waiting = other.submit(Desk.echo, 2)
        await gate.reached()
        draining = asyncio.ensure_future(run("drain", name))
        while "draining" not in await run("ls"):
            pass
        with pytest.raises(poise.PoolClosed):
            await other.run(Desk.echo, 3)
        gate.open()
        assert (await held, await waiting) == (1, 2)
        await draining
        with pytest.raises(poise.PoolClosed):
            await pool.run(Desk.echo, 4)
        assert pool.state == other.state == "draining"
    assert not names()


async def test_a_pool_that_is_stopped_is_not_opened_again_by_those_that_use_it(name: str, gate: Gate) -> None:
    async with poise.Pool.shared(name, Desk, size=1) as pool:
        held = pool.submit(Desk.hold, gate.path)
        await gate.reached()
        waiting = pool.submit(Desk.echo, 2)
        await run("stop", name)
        with pytest.raises(poise.WorkerLost):
            await held
        with pytest.raises(poise.PoolClosed):
            await waiting
        with pytest.raises(poise.PoolClosed):
            await pool.resize(2)
        assert not names()


async def test_what_there_is_not_cannot_be_stopped() -> None:
    result: Any = await asyncio.to_thread(CliRunner().invoke, command, ["stop", "nothing"])
    assert result.exit_code == 1
    assert "no shared pool 'nothing'" in result.output


def test_where_no_ray_is_shared_the_commands_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(poise.PoiseError, match="no Ray is shared"), directory.on_ray(None):
        pass
    assert ray.is_initialized()
