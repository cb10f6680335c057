"""The contract: the same cases over every lane."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

import psutil
import pytest
import pytest_asyncio

import poise
from poise._engine.runtime import Runtime, living_in
from poise._lanes.launcher import HostLauncher
from poise._lanes.sockets import Sockets
from poise.testing import LocalPool
from tests.contract.desk import Desk, is_idle

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from poise._lanes.lane import Launcher
    from poise.options import PoolOptions

T = TypeVar("T")

RAYS_OWN = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")

LANES = os.environ.get("LANES", "local freight express tls").split()
"""Also "shared", for most of the cases: not those of what a shared pool has not."""


class TlsRuntime(Runtime):
    """Workers that are on this node and reached as if they were on another."""

    def launcher(self, factory: Any, settings: PoolOptions) -> Launcher:
        """Reach them by TLS."""
        return HostLauncher(
            factory,
            sockets=Sockets(is_required=True, link_timeout=settings.link_timeout, always_tls=True),
            concurrency=settings.concurrency,
            close_timeout=settings.close_timeout,
            writable=settings.writable,
            most_bytes=None if settings.recycle is None else settings.recycle.most_bytes,
            forwards_logs=settings.logs == "forward",
            ray_options=settings.ray_options,
        )


def tls_pool(factory: Any = None, /, **options: Any) -> poise.Pool[Any]:
    """Describe a pool of such workers."""
    with living_in(TlsRuntime()):
        return poise.Pool(factory, **options)


class OpenPool(Protocol):
    """Makes a pool on the lane under test."""

    @overload
    def __call__(self, factory: None = None, /, **options: Any) -> poise.Pool[None]: ...
    @overload
    def __call__(self, factory: Callable[[], T], /, **options: Any) -> poise.Pool[T]: ...


class SharePool(Protocol):
    """Lends a pool on the lane under test that is open already: `async with share_pool(Desk, size=1) as pool`.

    All tests of a module that ask for the same one have the same workers, so they count from what they find. What is
    lent comes back idle, and with the workers that it had, unless the test says that it `kills` some.
    """

    @overload
    def __call__(
        self, factory: None = None, /, *, kills: bool = False, **options: Any
    ) -> AbstractAsyncContextManager[poise.Pool[None]]: ...
    @overload
    def __call__(
        self, factory: Callable[[], T], /, *, kills: bool = False, **options: Any
    ) -> AbstractAsyncContextManager[poise.Pool[T]]: ...


Crash = Callable[[poise.Pool[Any], int], None]
"""Makes the worker of that number die."""


@pytest.fixture(scope="module", params=LANES)
def lane(request: pytest.FixtureRequest) -> str:
    """The lane under test."""
    name: str = request.param
    if name != "local":
        request.getfixturevalue("shared_ray")
    return name


@pytest.fixture(scope="module")
def open_pool(lane: str) -> OpenPool:
    """Make a pool on the lane under test; open it with `async with`."""

    def make(factory: Any = None, /, **options: Any) -> poise.Pool[Any]:
        options.setdefault("size", 2)
        if lane == "local":
            return LocalPool(factory, **options)
        if lane == "tls":
            return tls_pool(factory, **options)
        if lane == "shared":
            return poise.Pool.shared(f"contract {uuid.uuid4().hex}", factory, **options)
        pool_class: Any = poise.Pool
        pool: poise.Pool[Any] = pool_class(factory, lane=lane, **options)
        return pool

    return make


@pytest.fixture(scope="module")
def crash(lane: str) -> Crash:
    """Make a worker die without warning."""

    def crash_it(pool: poise.Pool[Any], worker_id: int) -> None:
        if isinstance(pool, LocalPool):
            pool.launcher.lanes[worker_id].crash()
        else:
            (pid,) = [worker.pid for worker in pool.stats().workers if worker.id == worker_id]
            assert pid is not None
            with contextlib.suppress(ProcessLookupError):  # it has just died by itself
                os.kill(pid, signal.SIGKILL)

    return crash_it


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def share_pool(open_pool: OpenPool) -> AsyncIterator[SharePool]:
    """Open each pool once a module; a test that fails spoils its own."""
    pools: dict[Any, poise.Pool[Any]] = {}

    @contextlib.asynccontextmanager
    async def lend(factory: Any = None, /, *, kills: bool = False, **options: Any) -> AsyncIterator[poise.Pool[Any]]:
        key = (factory, *sorted(options.items()))
        pool = pools.pop(key, None)
        if pool is None:
            pool = await open_pool(factory, **options).open()
        try:
            await pool.until_ready()
            before = {worker.id for worker in pool.stats().workers}
            yield pool
            await is_idle(pool)
            assert kills or {worker.id for worker in pool.stats().workers} == before, "a worker died"
        except BaseException:
            await pool.aclose()
            raise
        pools[key] = pool

    yield lend
    for pool in pools.values():
        await pool.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desks(share_pool: SharePool) -> AsyncIterator[poise.Pool[Desk]]:
    """Two workers for the cases of one module: none of these hurts a worker, which is a part of what is tested."""
    async with share_pool(Desk, size=2) as pool:
        yield pool


# ---------------------------------------------------------------------------------------------------------------------
# G12: nothing is left


@pytest.fixture(scope="module")
def own_temp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for temporary files in which no other program has any: pools make their sockets there."""
    tmp_path_factory.getbasetemp()  # pytest's own stay elsewhere
    # Not below `tmp_path`: the path of a Unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="t-") as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", directory)
        yield Path(directory)


@pytest.fixture(scope="module", autouse=True)
def nothing_left(lane: str, own_temp: Path) -> Iterator[None]:
    """Compare processes, threads and files before and after each module."""
    before = _belongings(own_temp)
    yield
    deadline = time.monotonic() + 10
    while (left := _belongings(own_temp) - before) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)
    assert not left


@pytest_asyncio.fixture(autouse=True)
async def no_tasks_left(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Look for tasks after each test; those of a module's own loop are its shared pool's business."""
    yield
    left = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    assert not left


def _belongings(temp: Path) -> set[str]:
    actors = set()
    for process in psutil.Process().children(recursive=True):
        try:
            name = " ".join(process.cmdline()[:1])
        except psutil.Error:
            continue
        if name.startswith("ray::") and not name.startswith(RAYS_OWN):
            actors.add(f"process {process.pid} {name}")
    threads = {f"thread {t.ident} {t.name}" for t in threading.enumerate() if t.name.startswith("poise")}
    return actors | threads | {str(path) for path in temp.iterdir()}
