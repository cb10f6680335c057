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
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "several-server-processes.md"


def shown(pattern: str) -> str:
    """The first thing of this pattern on the page."""
    found = re.search(pattern, PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


class Service:
    """The page's service, served by one of the page's commands, with whatever Ray is shared in this directory."""

    def __init__(self, directory: Path, command: str, *arguments: str) -> None:
        (directory / "service.py").write_text(shown(r"^```python\n(.*?)^```"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        program, *rest = command.split()
        address = ["--port", str(self._port)] if program == "uvicorn" else ["--bind", f"127.0.0.1:{self._port}"]
        self.answered = 0
        self._errors = directory / "errors"
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", program, *rest, *address, *arguments],
                env=environment(directory),
                cwd=directory,
                stderr=errors,
            )

    @property
    def errors(self) -> str:
        """What it has said so far."""
        return self._errors.read_text()

    def servers(self, count: int, but: frozenset[float] = frozenset()) -> frozenset[float]:
        """Ask until so many server processes have answered, beside those."""
        found: set[float] = set()
        while len(found) < count:
            assert self.process.poll() is None, self.errors
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/predict?x=21", timeout=10) as response:
                    answer: dict[str, float] = json.load(response)
            except OSError:  # not yet, or the one of them that is being started
                time.sleep(0.1)
                continue
            assert answer["result"] == 42
            self.answered += 1
            found |= {answer["server"]} - but
        return frozenset(found)

    def metrics(self) -> dict[str, float]:
        """What a scrape finds: whichever process answers, all of them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as response:
            text: str = response.read().decode()
        return {
            name: float(value)
            for line in text.splitlines()
            for name, _, value in [line.rpartition(" ")]
            if line[0] != "#"
        }

    def end(self) -> None:
        """End it politely."""
        self.process.terminate()
        self.process.wait()


def environment(directory: Path) -> dict[str, str]:
    """The page's environment, where this directory is for the sockets of whoever shares a Ray."""
    name, _, value = shown(r"^(POISE_RAY=\S+) uvicorn").partition("=")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "XDG_", "POISE_"))}
    folder = shown(r"^(PROMETHEUS_\w+)=\S+ POISE_RAY")
    (directory / "metrics").mkdir(exist_ok=True)
    ours = {
        "XDG_RUNTIME_DIR": str(directory),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        folder: str(directory / "metrics"),
    }
    return {**kept, name: value, **ours}


@contextmanager
def serving(directory: Path, command: str, *arguments: str) -> Iterator[Service]:
    """Serve until the block is left."""
    service = Service(directory, command, *arguments)
    try:
        yield service
    finally:
        service.end()


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
@pytest.mark.parametrize("command", ["uvicorn", "gunicorn"])
def test_two_server_processes_have_one_ray_that_ends_with_them(tmp_path: Path, command: str) -> None:  # G12
    line = shown(rf"^POISE_RAY=\S+ ({command} [^\n]*)$")
    patience = () if command == "uvicorn" else ("--timeout", "240")  # this machine may be slower than a server's
    with serving(tmp_path, line, *patience) as service:
        service.servers(2)
        assert len(keepers(tmp_path)) == 1
        call = 'poise_calls_total{function="Model.predict",outcome="returned",pool="Model"}'
        while (found := service.metrics())[call] < service.answered:  # the other one writes once a second
            time.sleep(0.1)
        assert (
            found[call]
            == found['poise_call_run_seconds_count{function="Model.predict",pool="Model"}']
            == service.answered
        )
        assert found['poise_workers{pool="Model",state="ready"}'] == found['poise_workers_wanted{pool="Model"}'] == 2
        assert found['poise_worker_resident_memory_bytes{pool="Model",worker="(all)"}'] > 20_000_000
    assert service.errors.count("Started server process") == 2, service.errors  # none was taken for hung and replaced
    while keepers(tmp_path):
        time.sleep(0.05)


@pytest.mark.timeout(240)
def test_a_ray_that_another_program_holds_outlives_reloads(tmp_path: Path) -> None:
    holding = shown(r"^## A Ray that outlives.*?^```python\n(.*?)^```").replace("())", "(), flush=True)")
    with subprocess.Popen(
        [sys.executable, "-c", holding], env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip()  # the address
        (keeper,) = keepers(tmp_path)
        with serving(tmp_path, "uvicorn service:app --reload") as service:
            before = service.servers(1)
            source = tmp_path / "service.py"
            source.write_text(source.read_text() + "# changed\n")
            service.servers(1, but=before)
        assert keepers(tmp_path) == [keeper]
        holder.terminate()
    while keepers(tmp_path):
        time.sleep(0.05)
