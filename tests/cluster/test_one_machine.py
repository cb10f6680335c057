"""Several nodes, all of them on this machine: which worker is taken, how it is reached, and what a lost node costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of each scene of `one_machine.py`: a traceback, or nothing. They share a cluster, to be quick."""
    own: Path = tmp_path_factory.mktemp("cluster")
    (own / "cryptography.py").write_text("raise ImportError('it is not installed')\n")
    with tempfile.TemporaryDirectory(prefix="pz", ignore_cleanup_errors=True) as folder:  # sockets have short paths
        variables = {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | variables
        command = [sys.executable, "-m", "tests.cluster.one_machine", str(own)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        psutil.wait_procs(users := users_of(folder), timeout=20)
        assert not [process for process in users if process.is_running()]  # G12
    scenes: dict[str, str] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return scenes


def users_of(folder: str) -> list[psutil.Process]:
    """Processes that were told of this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if folder in line:
            found.append(process)
    return found


def test_workers_on_the_callers_node_come_first_and_stats_tell_the_nodes(told: dict[str, str]) -> None:
    assert not told["near_first"]


def test_only_the_caller_needs_cryptography(told: dict[str, str]) -> None:
    assert not told["tls_at_the_caller_alone"]


def test_without_cryptography_other_nodes_are_reached_by_ray_and_the_log_says_once_what_to_do(
    told: dict[str, str],
) -> None:
    assert not told["without_tls"]


def test_a_pool_that_loses_a_node_heals_on_the_others(told: dict[str, str]) -> None:  # G2, G8
    assert not told["node_lost"]
