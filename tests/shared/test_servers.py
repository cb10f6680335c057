"""The commands of the page about shared pools."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "sharing.md"
SERVICE = re.compile(r"^```python\n(import os\n.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^(uvicorn [^\n]*)$", re.MULTILINE)


def found(pattern: re.Pattern[str]) -> str:
    match = pattern.search(PAGE.read_text())
    assert match is not None
    return match[1]


def answers(url: str) -> dict[str, Any] | None:
    """What the service says; None if it does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except OSError:
        return None


def servers(url: str, count: int, but: int | None = None) -> set[int]:
    """Ask until so many server processes have answered, beside this one."""
    known: set[int] = set()
    while len(known) < count:
        answer = answers(f"{url}/predict?x=21")
        if answer is None:
            time.sleep(0.1)
        else:
            assert answer["result"] == 42
            known |= {int(answer["server"])} - {but}
    return known


def actors(directory: Path) -> list[str]:
    """The actors of this test's own Ray, by what they are called."""
    titles = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("XDG_RUNTIME_DIR") == str(directory):
                titles += [title for title in process.cmdline()[:1] if title.startswith("ray::")]
        except psutil.Error:
            continue
    return [title for title in titles if not title.startswith(("ray::IDLE", "ray::Dashboard", "ray::RuntimeEnv"))]


@pytest.mark.timeout(240)
def test_server_processes_share_one_pool_which_one_of_them_may_leave_by_force(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(found(SERVICE))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "XDG_", "POISE_"))}
    environment = {**kept, "XDG_RUNTIME_DIR": str(tmp_path), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    command = found(COMMAND).replace("--workers 4", "--workers 2")
    words = [sys.executable, "-m", *command.split(), "--port", str(port), "--log-level", "warning"]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(words, env=environment, cwd=tmp_path) as service:
        try:
            first, second = servers(url, 2)
            ready = answers(f"{url}/readyz")
            assert ready is not None
            assert ready["size"] == 2
            pools = [title for title in actors(tmp_path) if "Model" in title]
            assert len(pools) <= 2, pools
            os.kill(first, signal.SIGKILL)
            assert servers(url, 2, but=first) >= {second}  # uvicorn starts another, which joins
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait()
    while actors(tmp_path):
        time.sleep(0.05)
