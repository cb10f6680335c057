"""Joining and starting Ray; each case in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
import ray

PRELUDE = """
import asyncio, logging, os, sys, threading
import psutil, ray
from poise._ray.session import RaySession
from poise.errors import PoiseError
"""


def run(code: str, **env: str) -> str:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(code)],
        env={**plain, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", **env},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_it_starts_a_ray_quietly_and_the_last_pool_shuts_it_down() -> None:  # G12
    said = run("""
        async def main():
            first, second = RaySession(), RaySession()
            await asyncio.gather(first.open(), second.open())
            assert ray.is_initialized()
            await first.aclose()
            await first.aclose()
            assert ray.is_initialized()
            await second.aclose()
            assert not ray.is_initialized()
            assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
            assert "RAY_AUTH_MODE" not in os.environ
            assert not psutil.Process().children(recursive=True)
        asyncio.run(main())
    """)
    assert said == ""


def test_the_loop_is_not_blocked_while_ray_starts_and_cancelling_leaves_nothing() -> None:  # G12
    run("""
        async def main():
            session = RaySession()
            opening = asyncio.create_task(session.open())
            beats = 0
            for _ in range(20):
                await asyncio.sleep(0.01)
                beats += 1
            assert not opening.done()
            opening.cancel()
            try:
                await opening
            except asyncio.CancelledError:
                pass
            assert not ray.is_initialized()
            await asyncio.sleep(0.1)
            assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
        asyncio.run(main())
    """)


def test_a_ray_that_is_initialised_is_used_and_left_alone() -> None:
    run("""
        ray.init(num_cpus=1, include_dashboard=False, logging_level=logging.ERROR)
        async def main():
            session = RaySession()
            await session.open()
            await session.aclose()
            assert ray.is_initialized()
        asyncio.run(main())
        ray.shutdown()
    """)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:10001"])
def test_an_address_where_no_ray_is_fails_at_once_and_says_what_to_do(address: str) -> None:
    said = run(
        """
        async def main():
            try:
                await RaySession().open()
            except PoiseError as error:
                print(error)
        asyncio.run(asyncio.wait_for(main(), 5))
        """,
        RAY_ADDRESS=address,
    )
    assert f"RAY_ADDRESS={address}" in said


WITH_A_TOKEN = """
    import subprocess
    async def main():
        session = RaySession({"num_cpus": 3, "log_to_driver": False})
        await session.open()
        assert ray.cluster_resources()["CPU"] == 3
        address = ray.get_runtime_context().gcs_address
        plain = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
        joining = [sys.executable, "-c", os.environ["JOINING"]]
        for more in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x" * 64}, {"RAY_AUTH_MODE": "token"}):
            joined = await asyncio.to_thread(
                subprocess.run, joining, env=plain | {"RAY_ADDRESS": address} | more, capture_output=True, text=True
            )
            print(joined.stdout)
        await session.aclose()
    asyncio.run(main())
"""

JOINING = (
    PRELUDE
    + """
from poise.cli.doctor import examine

async def main():
    print(*[found.verdict for found in examine(with_ray=False) if found.name == "RAY_ADDRESS"], end=": ")
    session = RaySession()
    try:
        await session.open()
    except PoiseError as error:
        print("RAY_AUTH_MODE=token" in str(error), "RAY_AUTH_TOKEN_PATH" in str(error))
    else:
        print("joined")
        await session.aclose()
asyncio.run(main())
"""
)


@pytest.mark.skipif(not hasattr(ray.exceptions, "AuthenticationError"), reason="this Ray has no tokens")
def test_options_reach_ray_and_whoever_lacks_its_token_is_told_the_variables() -> None:
    assert run(WITH_A_TOKEN, JOINING=JOINING, RAY_AUTH_MODE="token").split("\n\n") == [
        "fail: True True",
        "fail: True True",
        "ok: joined",
        "",
    ]


def test_options_without_effect_are_named_and_another_address_is_refused() -> None:
    said = run("""
        ray.init(num_cpus=1, include_dashboard=False, logging_level=logging.ERROR)
        async def main():
            await RaySession({"num_cpus": 3}).open()
            try:
                await RaySession({"address": "127.0.0.1:1"}).open()
            except PoiseError as error:
                print(type(error).__name__)
        asyncio.run(main())
        ray.shutdown()
    """)
    assert "Not heeded: num_cpus" in said
    assert "ConfigError" in said
