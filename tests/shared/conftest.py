"""Pools that processes share, on real Ray, one for all tests of this folder."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
import time
import uuid
from asyncio.subprocess import PIPE, Process
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import ray

from poise._shared.directory import known_pools
from tests.ray.conftest import actors_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="module", autouse=True)
def nothing_left(shared_ray: None) -> Iterator[None]:  # G12
    """No owner, no worker and no name is left when a module's tests are over."""
    before = actors_of(psutil.Process())
    yield
    deadline = time.monotonic() + 20
    while (left := (actors_of(psutil.Process()) - before) | names()) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)
    assert not left


@pytest.fixture
def name() -> str:
    """Of a shared pool that there is not yet."""
    return f"test {uuid.uuid4().hex}"


def names() -> set[str]:
    """The shared pools of this Ray."""
    return {each.name for each in known_pools()}


def owner_of(name: str) -> int:
    """The process of a shared pool's owner."""
    (pool,) = (each for each in known_pools() if each.name == name)
    assert pool.pid is not None
    return pool.pid


def kill(pid: int) -> None:
    """End a process at once."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Program:
    """Another process that uses the pool."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def said(self) -> Any:
        """What it says next."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        assert line, await self.process.wait()
        return json.loads(line)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()


@contextlib.asynccontextmanager
async def program(name: str, size: int, what: str, *arguments: object) -> AsyncIterator[Program]:
    """Have another process use the pool; it has ended, or is killed, when the block is left."""
    address = ray.get_runtime_context().gcs_address
    words = [address, name, str(size), what, *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.shared.programs", *words, stdout=PIPE)
    try:
        yield Program(process)
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until(truth: Any, within: float = 20.0) -> None:
    """Wait until something that is no event is true."""
    async with asyncio.timeout(within):
        while not truth():
            await asyncio.sleep(0.01)
