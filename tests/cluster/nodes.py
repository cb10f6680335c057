"""Two Ray nodes in two network namespaces of this machine, joined by a pair of virtual Ethernet devices."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HEAD: Final = "10.231.0.1"
OTHER: Final = "10.231.0.2"
PORT: Final = 6399
CPUS: Final = 3
"""Of each node."""


def obstacle() -> str | None:
    """Why there can be no such nodes here; None if there can. It is found out by making some."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if shutil.which("ip") is None:
        return "there is no ip(8): apt-get install iproute2"
    try:
        with namespaces():
            return None
    except subprocess.CalledProcessError as error:
        hint = "" if os.geteuid() == 0 else "; it takes root"
        return f"no network namespaces: {' '.join(error.cmd)}: {error.stderr.strip()}{hint}"


@contextlib.contextmanager
def namespaces() -> Iterator[TwoNodes]:
    """The namespaces and the link, without Ray; afterwards no process of theirs is left."""
    nodes = TwoNodes(f"poise{os.getpid()}")
    with contextlib.ExitStack() as left:
        for name in (nodes.head, nodes.other):
            _ip("netns", "add", name)
            left.callback(_remove, name)
        _ip("link", "add", "veth", "netns", nodes.head, "type", "veth", "peer", "name", "veth", "netns", nodes.other)
        for name, address in ((nodes.head, HEAD), (nodes.other, OTHER)):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "veth")
            for device in ("lo", "veth"):
                _ip("-n", name, "link", "set", device, "up")
        yield nodes


@dataclass(frozen=True)
class TwoNodes:
    """What can be done to the two of them, from wherever."""

    prefix: str

    @property
    def head(self) -> str:
        """The namespace with Ray's head node and the program."""
        return f"{self.prefix}a"

    @property
    def other(self) -> str:
        """The namespace of the other one."""
        return f"{self.prefix}b"

    @contextlib.contextmanager
    def ray(self) -> Iterator[None]:
        """Ray on both."""
        with tempfile.TemporaryDirectory(prefix="pz", ignore_cleanup_errors=True) as folder:  # sockets have short paths
            common = ("--num-cpus", str(CPUS), "--object-store-memory", str(100 << 20), "--disable-usage-stats")
            start = (str(Path(sys.executable).with_name("ray")), "start", *common)
            head = ("--head", "--port", str(PORT), "--include-dashboard=false", "--temp-dir", folder)
            self.run(self.head, (*start, *head, "--node-ip-address", HEAD))
            self.run(self.other, (*start, "--address", f"{HEAD}:{PORT}", "--node-ip-address", OTHER))
            try:
                yield
            finally:
                self.end()

    def run(self, where: str, command: Sequence[str]) -> str:
        """Run a command in one of the namespaces, and return what it prints.

        Raises:
            AssertionError: it failed.
        """
        command = ("ip", "netns", "exec", where, *command)
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
        return done.stdout

    def cut(self) -> None:
        """Cut the link: nothing arrives, and nobody is told."""
        _ip("-n", self.other, "link", "set", "veth", "down")

    def mend(self) -> None:
        """Join it again."""
        _ip("-n", self.other, "link", "set", "veth", "up")

    def kill(self, where: str, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to the process of this name in that namespace: "raylet", "gcs_server"."""
        (process,) = [each for each in _processes(where) if each.name() == name]
        process.send_signal(number)

    def drain(self, node: str, seconds: int) -> None:
        """Tell Ray that this node will be taken away in so many seconds."""
        reason = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "it is taken away")
        ray = (str(Path(sys.executable).with_name("ray")), "drain-node", "--address", f"{HEAD}:{PORT}")
        self.run(self.head, (*ray, "--node-id", node, *reason, "--deadline-remaining-seconds", str(seconds)))

    def end(self, *where: str) -> None:
        """End every process of these namespaces, or of both."""
        for name in where or (self.head, self.other):
            _end_all(name)


def environment() -> dict[str, str]:
    """For Ray and the programs that use it: no token is asked for in a cluster that nobody else can reach."""
    own = {"RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": f"{HEAD}:{PORT}", "RAY_USAGE_STATS_ENABLED": "0"}
    return {**os.environ, **own, "PYTHONPATH": os.getcwd()}


def _processes(namespace: str) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for number in _ip("netns", "pids", namespace).split():
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(int(number)))
    return found


def _end_all(namespace: str) -> None:
    while processes := _processes(namespace):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=5)


def _remove(namespace: str) -> None:
    _end_all(namespace)
    _ip("netns", "delete", namespace)


def _ip(*arguments: str) -> str:
    return subprocess.run(("ip", *arguments), capture_output=True, text=True, check=True).stdout
