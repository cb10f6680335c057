"""The commands of the page about several server processes."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "several-server-processes.md"


def shown(pattern: str) -> str:
    """The first thing of this pattern on the page."""
    found = re.search(pattern, PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def ask(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/predict?x=21", timeout=10) as response:
        answer: dict[str, float] = json.load(response)
        return answer


def keepers(directory: Path) -> list[psutil.Process]:
    """Processes in which a Ray of this test was started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("XDG_RUNTIME_DIR") == str(directory) and "poise._ray.keeper" in " ".join(
                process.cmdline()
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.timeout(240)
def test_uvicorn_with_two_workers_has_one_ray_that_ends_with_it(tmp_path: Path) -> None:  # G12
    (tmp_path / "service.py").write_text(shown(r"^```python\n(.*?)^```"))
    setting, program, *arguments = shown(r"^(POISE_RAY=\S+ [^\n]*)$").split()
    name, _, value = setting.partition("=")
    assert program == "uvicorn"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "XDG_", "POISE_"))}
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", *arguments, "--port", str(port)],
        env={**kept, name: value, "XDG_RUNTIME_DIR": str(tmp_path), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    with server:
        servers: set[float] = set()
        while len(servers) < 2:
            assert server.poll() is None
            try:
                answer = ask(port)
            except OSError:  # not yet, or the one of them that is being started
                time.sleep(0.1)
                continue
            assert answer["result"] == 42
            servers.add(answer["server"])
        assert len(keepers(tmp_path)) == 1
        server.terminate()
        errors = server.communicate()[1]
    assert errors.count("Started server process") == 2, errors  # none was taken for hung and replaced
    while keepers(tmp_path):
        time.sleep(0.05)
