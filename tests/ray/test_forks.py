"""Forked children of a program whose Ray is connected, and of one whose Ray is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HEAD = """
import asyncio, os, sys, warnings
import poise
from poise.testing import LocalPool
warnings.simplefilter("ignore", DeprecationWarning)  # a fork while threads run

def in_child(look):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            print(look())
        except BaseException as error:
            print(type(error).__name__, "forked" in str(error), "spawn" in str(error))
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.waitpid(pid, 0)
"""

CONNECTED = """
import ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")

@ray.remote(num_cpus=0)
class Echo:
    def echo(self, value):
        return value

actor = Echo.remote()
plain = poise.ActorPool([actor])

async def one(pool):
    async with pool:
        return await pool.run(pow, 2, 5)

async def main():
    async with poise.Pool(size=1, ray_options={"num_cpus": 0}) as pool, LocalPool(size=1) as local:
        in_child(lambda: pool.submit(pow, 2, 5))
        in_child(lambda: local.submit(pow, 2, 5))
        assert await pool.run(pow, 2, 5) == 32

asyncio.run(main())
in_child(lambda: asyncio.run(one(poise.Pool(size=1))))
in_child(lambda: asyncio.run(one(poise.Pool.of([actor]))))
in_child(lambda: poise.Executor(1).submit(pow, 2, 5).result())
in_child(lambda: poise.ActorPool([actor]))
in_child(lambda: plain.submit(lambda actor, value: actor.echo.remote(value), 1))
in_child(lambda: asyncio.run(one(LocalPool(size=1))))
assert plain.submit(lambda actor, value: actor.echo.remote(value), 1).result(60) == 1
"""

LATE = """
import ray, sys, os
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
pid = os.fork()
if pid == 0:
    import asyncio, poise
    try:
        asyncio.run(poise.Pool(size=1).open())
    except poise.WrongLoop as error:
        print("forked" in str(error), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""

UNCONNECTED = """
async def one():
    async with poise.Pool(size=1) as pool:
        return await pool.run(pow, 2, 5)

in_child(lambda: asyncio.run(one()))
"""


def run(program: str) -> list[str]:
    keep = ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO",)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") or name in keep}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_child_of_a_program_whose_ray_is_connected_is_refused_everything_but_a_local_pool() -> None:
    assert run(HEAD + CONNECTED) == [
        "WrongLoop True True",  # the parent's pool
        "WrongLoop True True",  # and its local one
        "WrongLoop True True",  # Pool
        "WrongLoop True True",  # Pool.of
        "ExecutorBroken True True",
        "WrongLoop True True",  # ActorPool
        "WrongLoop True True",  # the parent's ActorPool
        "32",
    ]


def test_a_child_that_imports_poise_after_the_fork_is_refused_too() -> None:
    assert run(LATE) == ["True"]


def test_a_child_of_a_program_that_has_not_used_ray_opens_pools() -> None:
    assert run(HEAD + UNCONNECTED) == ["32"]
