"""Ray itself: joining it, starting it, sharing it out, and leaving nothing behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import poise
from tests.conftest import ROOM

OpenPool = Callable[..., poise.Pool[Any]]


class Worker:
    def pid(self) -> int:
        return os.getpid()

    def variable(self, name: str) -> str | None:
        return os.environ.get(name)


async def test_with_room_for_two_of_four_the_pool_works_with_two_and_warns(
    open_pool: OpenPool, caplog: pytest.LogCaptureFixture
) -> None:  # G8
    assert ROOM == 2
    with caplog.at_level(logging.WARNING, "poise"):
        async with open_pool(Worker, size=4, ray_options={"resources": {"room": 1}, "num_cpus": 0}) as pool:
            async with asyncio.timeout(60):
                while pool.stats().ready < 2 or not [each for each in caplog.records if each.name == "poise"]:
                    await asyncio.sleep(0.01)
            assert len({await pool.run(Worker.pid) for _ in range(20)}) == 2
            assert (pool.stats().ready, pool.stats().starting) == (2, 2)
    (record,) = [record for record in caplog.records if record.name == "poise"]
    assert "room" in record.getMessage()
    assert "2 workers" in record.getMessage()


async def test_min_ready_that_has_no_room_fails_with_the_reason_and_leaves_nothing(open_pool: OpenPool) -> None:  # G12
    options = {"resources": {"room": 1}, "num_cpus": 0}
    pool = open_pool(Worker, size=4, min_ready=4, start_timeout=5.0, ray_options=options)
    began = time.monotonic()
    with pytest.raises(poise.PoolBroken, match="room") as caught:
        await pool.open()
    assert time.monotonic() - began < 30
    assert "min_ready=4" in str(caught.value)
    assert pool.stats().workers == ()
    async with open_pool(Worker, size=2, min_ready=2, ray_options=options) as again:  # the room is free again
        assert len(set(await again.broadcast(Worker.pid))) == 2


async def test_room_that_comes_free_is_used(open_pool: OpenPool) -> None:  # G8
    options = {"resources": {"room": 2}, "num_cpus": 0}
    first, second = (open_pool(Worker, size=1, min_ready=ready, ray_options=options) for ready in (1, 0))
    async with first, second:
        waiting = second.submit(Worker.pid)
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await first.aclose()
        assert await waiting


async def test_options_of_rays_reach_the_actors(open_pool: OpenPool) -> None:
    options = {"runtime_env": {"env_vars": {"POISE_TEST": "here"}}, "num_cpus": 0.5}
    async with open_pool(Worker, size=1, ray_options=options) as pool:
        assert await pool.run(Worker.variable, "POISE_TEST") == "here"


@pytest.mark.parametrize(
    "options", [{"max_restarts": 3}, {"name": "x"}, {"gpus": 1}, {"num_cpus": -1}, {"resources": "many"}], ids=repr
)
async def test_options_that_cannot_be_are_refused_at_once(open_pool: OpenPool, options: dict[str, Any]) -> None:
    with pytest.raises(poise.ConfigError, match=next(iter(options))):
        open_pool(Worker, ray_options=options)


async def test_the_size_is_what_ray_has_room_for(open_pool: OpenPool) -> None:
    async with open_pool(Worker, ray_options={"num_cpus": 2}) as pool:
        assert pool.stats().size == 2  # of 4 CPUs


async def test_an_initialised_ray_is_joined_and_left_running(open_pool: OpenPool) -> None:  # G12
    import ray

    for _ in range(2):
        async with open_pool(Worker, size=1) as pool:
            await pool.run(Worker.pid)
        assert ray.is_initialized()


async def test_many_pools_one_after_the_other_leave_no_descriptors(open_pool: OpenPool) -> None:  # G12
    process = psutil.Process()
    counts = []
    for _ in range(6):
        async with open_pool(Worker, size=2, min_ready=2) as pool:
            await pool.broadcast(Worker.pid)
        counts.append(process.num_fds())
    async with asyncio.timeout(60):  # Ray has its own ups and downs, and closes its own late on a busy machine
        while process.num_fds() >= counts[1] + 4:
            await asyncio.sleep(0.05)


# ---------------------------------------------------------------------------------------------------------------------
# Programs of their own


def run(program: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *args],
        capture_output=True,
        text=True,
        timeout=100,
        env=_environment() | environment,
        cwd=Path(__file__).parents[2],
        check=False,
    )


def _environment() -> dict[str, str]:
    """Without what points to a Ray, and with the leave to enter the one of this process."""
    keep = ("RAY_AUTH_MODE", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO")
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_") or name in keep}


ALONE = """
import asyncio, os, psutil, poise

async def main():
    async with poise.Pool(size=1) as pool:
        assert await pool.run(os.getpid) != os.getpid()
    import ray
    assert not ray.is_initialized()
    assert not psutil.Process().children(recursive=True), psutil.Process().children(recursive=True)

asyncio.run(main())
"""


def test_without_ray_a_pool_starts_one_quietly_and_shuts_it_down() -> None:  # G12
    done = run(ALONE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


JOINED = """
import asyncio, os, sys, poise

async def main():
    async with poise.Pool(size=1) as pool:
        import ray
        assert ray.get_runtime_context().gcs_address == os.environ["RAY_ADDRESS"]
        assert await pool.run(pow, 2, 5) == 32
    assert not ray.is_initialized()

asyncio.run(main())
"""


def test_ray_address_names_the_ray_to_join() -> None:
    done = run(JOINED, RAY_ADDRESS=_address())
    assert done.returncode == 0, done.stderr
    import ray

    assert ray.is_initialized()
    resources: Any = ray.cluster_resources
    assert resources()["room"] == ROOM  # it is still there


CRASHED = """
import asyncio, os, sys, time, poise

async def main():
    async with poise.Pool(size=2, min_ready=2, lane=sys.argv[1]) as pool:
        print(*{*await pool.broadcast(os.getpid)}, flush=True)
        pool.submit(time.sleep, 300)
        await asyncio.sleep(300)

asyncio.run(main())
"""


@pytest.mark.parametrize("lane", ["freight", "express"])
def test_an_owner_that_crashes_leaves_no_actor(lane: str, tmp_path: Path) -> None:  # G12
    owner = subprocess.Popen(
        [sys.executable, "-c", CRASHED, lane],
        stdout=subprocess.PIPE,
        text=True,
        env=_environment() | {"RAY_ADDRESS": _address()},
    )
    with owner:
        assert owner.stdout is not None
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(pids) == 2
        assert all(psutil.pid_exists(pid) for pid in pids)
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < deadline, "an actor has outlived its owner"
        time.sleep(0.05)


def _address() -> str:
    import ray

    address: str = ray.get_runtime_context().gcs_address
    return address


DEATH = """
import asyncio, logging, os, sys, poise, ray

logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")

class Worker:
    def die(self): os._exit(3)

@ray.remote(max_retries=0)
def die(): os._exit(4)

async def main():
    if sys.argv[1] == "user":
        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level=logging.ERROR)
    async with poise.Pool(Worker, size=1) as pool:
        try:
            await pool.run(Worker.die)
        except poise.WorkerLost as error:
            print("lost", error.reason, flush=True)
        try:
            await asyncio.wrap_future(die.remote().future())  # its paragraph comes after that of the worker
        except ray.exceptions.WorkerCrashedError:
            await asyncio.to_thread(told.wait, 60)

# The one that is not the pool's is always told: wait for it, so that whatever is told before has been.
import threading, ray._private.worker as worker
told, printing, mine = threading.Event(), worker.print_worker_logs, []

def watch(data, *args, **kwargs):
    printing(data, *args, **kwargs)
    mine.extend(line for line in data["lines"] if "A worker died or was killed" in line)
    if len(mine) == (2 if sys.argv[1] == "user" else 1):
        told.set()

worker.print_worker_logs = watch
asyncio.run(main())
print("paragraphs", len(mine), flush=True)
"""


@pytest.mark.parametrize("who", ["pool", "user"])
def test_a_death_is_told_in_a_line_and_not_by_ray_too_unless_the_ray_is_the_users(who: str) -> None:
    done = run(DEATH, who, RAY_DEDUP_LOGS="0")  # else it waits to see whether more say the same
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("poise WARNING")]
    assert "was lost while Worker.die ran on it: " in line
    assert f"paragraphs {2 if who == 'user' else 1}" in done.stdout
