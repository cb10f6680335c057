"""The Ray that a user's programs share; each program is a process of its own, in a directory of the test's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROGRAM = """
import asyncio, os, sys
import poise

async def main():
    async with poise.Pool(size=1, ray_init={"address": "here", "num_cpus": 1}) as pool:
        import ray
        print(ray.get_runtime_context().gcs_address, await pool.run(pow, 2, 5), flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


def start(directory: Path, program: str = PROGRAM) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "XDG_", "POISE_"))}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        env={**kept, "XDG_RUNTIME_DIR": str(directory), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(program: subprocess.Popen[str]) -> list[str]:
    assert program.stdout is not None
    line = program.stdout.readline()
    if not line:
        raise AssertionError(program.communicate()[1])
    return line.split()


def is_reachable(address: str) -> bool:
    port = int(address.rpartition(":")[2])
    return any(
        each.laddr and each.laddr.port == port and each.status == psutil.CONN_LISTEN
        for each in psutil.net_connections("tcp")
    )


def until(predicate: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not predicate():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_programs_that_start_at_once_find_one_ray_that_ends_with_the_last_of_them(tmp_path: Path) -> None:  # G12
    with start(tmp_path) as first, start(tmp_path) as second:
        address, result = said(first)
        assert said(second) == [address, result] == [address, "32"]
        first.kill()  # it owned nothing
        first.wait()
        with start(tmp_path) as third:
            assert said(third)[0] == address
            second.communicate("\n")
            assert second.returncode == 0
            assert is_reachable(address)
            assert third.communicate("\n") == ("", "")
    until(lambda: not is_reachable(address))
    until(lambda: [each.name for each in (tmp_path / "poise").iterdir() if each.is_socket()] == [])


HELD = """
import asyncio, os, poise

address = poise.ray_here()
assert poise.ray_here() == address

async def main():
    for _ in range(2):
        async with poise.Pool(size=1) as pool:
            import ray
            assert ray.get_runtime_context().gcs_address == address
            assert await pool.run(pow, 2, 5) == 32

asyncio.run(main())
print(address)
"""


def test_a_program_that_holds_it_has_all_its_pools_there(tmp_path: Path) -> None:
    with start(tmp_path, HELD) as program:
        address, errors = program.communicate()
        assert errors == ""
    until(lambda: not is_reachable(address.strip()))


REFUSED = """
import poise
try:
    poise.ray_here()
except poise.PoiseError as error:
    print(error)
"""


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_directory_that_others_can_enter_is_not_trusted(tmp_path: Path, mode: int) -> None:  # G11
    directory = tmp_path / "poise"
    directory.mkdir()
    directory.chmod(mode)
    with start(tmp_path, REFUSED) as program:
        assert "must be a directory of mode 700" in program.communicate()[0]


def test_a_directory_that_is_a_link_is_not_trusted(tmp_path: Path) -> None:  # G11
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "poise").symlink_to(tmp_path / "elsewhere")
    with start(tmp_path, REFUSED) as program:
        assert "must be a directory of mode 700" in program.communicate()[0]
