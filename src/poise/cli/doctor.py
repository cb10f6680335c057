"""`poise doctor`: does poise work on this machine, and what is to be done if not?"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import shutil
import socket
import struct
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import poise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RAY_AT_LEAST: Final = (2, 50)
SOCKET_PATH_MOST: Final = 107 if sys.platform == "linux" else 103
"""Bytes of a Unix socket's path: `sun_path` less its final zero, of Linux (unix(7)) and of macOS (<sys/un.h>)."""
DESCRIPTORS_WANTED: Final = 4096
SHM_WANTED: Final = 1 << 30
"""Bytes of shared memory below which Ray's object store is cramped; containers are given 64 MB."""


@dataclass(frozen=True)
class Finding:
    """What one check has found."""

    name: str
    verdict: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""


def examine(*, with_ray: bool) -> Iterator[Finding]:
    """Check one thing after the other, the costly ones last."""
    checks: list[Callable[[], Finding]] = [
        _python,
        _ray_version,
        _address,
        _authentication,
        _temporary_directory,
        _credentials,
        _cryptography,
        _shared_memory,
        _processors,
        _descriptors,
        _watched,
    ]
    has_failed = False
    for check in checks:
        try:
            finding = check()
        except Exception as error:  # noqa: BLE001 - a check that cannot be made is a finding too
            finding = Finding(check.__name__.strip("_"), "warn", f"cannot be checked: {type(error).__name__}: {error}")
        has_failed |= finding.verdict == "fail"
        yield finding
    if with_ray and not has_failed:
        yield _pool()


def _python() -> Finding:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}, poise {version('poise')}"
    if sys.platform == "win32":
        return Finding("python", "fail", text, "poise needs Linux or macOS; WSL will do")
    return Finding("python", "ok", text)


def _ray_version() -> Finding:
    try:
        found = version("ray")
    except PackageNotFoundError:
        return Finding("ray", "fail", "not installed", "pip install ray")
    if tuple(int(part) for part in found.split(".")[:2]) < RAY_AT_LEAST:
        return Finding("ray", "fail", f"{found} is too old", f"pip install 'ray>={'.'.join(map(str, RAY_AT_LEAST))}'")
    return Finding("ray", "ok", found)


def _address() -> Finding:
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return Finding("RAY_ADDRESS", "ok", "not set: a pool starts a Ray of its own, or uses one that is initialised")
    if "://" in address:
        remedy = "run on a machine of the cluster, with RAY_ADDRESS=auto"
        return Finding("RAY_ADDRESS", "fail", f"{address} names a Ray Client server, which poise cannot use", remedy)
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except OSError as error:
            remedy = "start Ray there (`ray start --head`), mend RAY_ADDRESS, or unset it"
            return Finding("RAY_ADDRESS", "fail", f"nobody is reached at {address}: {error}", remedy)
        finding = _token(address)
        if finding is not None:
            return finding
    return Finding("RAY_ADDRESS", "ok", f"{address}: pools join it")


def _token(address: str) -> Finding | None:
    """Whether the Ray there takes this program in."""
    try:
        from poise._ray.session import TOKEN_REMEDY, is_token_refused
    except ImportError:  # no Ray is installed, as another line says
        return None
    if not is_token_refused(address):
        return None
    return Finding(
        "RAY_ADDRESS", "fail", f"the Ray at {address} refuses this program for want of its token", TOKEN_REMEDY
    )


def _authentication() -> Finding:
    mode = os.environ.get("RAY_AUTH_MODE")
    if not mode:
        return Finding("RAY_AUTH_MODE", "ok", "not set: Ray decides")
    if mode == "disabled":
        remedy = "use it only where nobody else reaches Ray's ports; unset it to have Ray make a token"
        return Finding("RAY_AUTH_MODE", "warn", "disabled: whoever reaches Ray's ports can run code as you", remedy)
    token = Path.home() / ".ray" / "auth_token"
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or token.exists()
    if mode == "token" and os.environ.get("RAY_ADDRESS") and not given:
        remedy = f"set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or put the cluster's token into {token}"
        return Finding("RAY_AUTH_MODE", "fail", "token, and there is no token to join the cluster with", remedy)
    return Finding("RAY_AUTH_MODE", "ok", mode)


def _temporary_directory() -> Finding:
    name, elsewhere = "sockets", "set TMPDIR to a short, local directory that you can write to"
    try:
        directory = tempfile.mkdtemp(prefix="poise-")
    except OSError as error:
        return Finding(name, "fail", f"cannot make a directory in {tempfile.gettempdir()}: {error}", elsewhere)
    try:
        path = os.path.join(directory, "worker")
        mode = os.stat(directory).st_mode & 0o777
        if mode != 0o700:  # some network and FUSE file systems
            return Finding(name, "fail", f"{tempfile.gettempdir()} lets others in ({mode:o}, not 700)", elsewhere)
        if len(os.fsencode(path)) > SOCKET_PATH_MOST:
            text = f"paths such as {path} are longer than the {SOCKET_PATH_MOST} bytes of a Unix socket's"
            return Finding(name, "warn", f"{text}: calls go by freight, which is slower", elsewhere)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(1)
    except OSError as error:
        return Finding(name, "warn", f"no Unix socket can be made in {tempfile.gettempdir()}: {error}", elsewhere)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return Finding(name, "ok", f"Unix sockets in {tempfile.gettempdir()}, in directories that only you can enter")


def _credentials() -> Finding:
    if not hasattr(socket, "SO_PEERCRED"):
        return Finding(
            "credentials", "ok", "the system does not tell who connects: the directory alone keeps others out"
        )
    here, there = socket.socketpair(socket.AF_UNIX)
    with here, there:
        uid = struct.unpack("3i", here.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))[1]
    if uid != os.geteuid():
        text = f"the kernel says that user {uid} connects where user {os.geteuid()} does: calls go by freight"
        return Finding("credentials", "warn", text, "look at the user namespaces of this container")
    return Finding("credentials", "ok", "the kernel tells who connects")


def _cryptography() -> Finding:
    if importlib.util.find_spec("cryptography") is None:
        remedy = "pip install cryptography, on every node, if the pool is to span several"
        return Finding("TLS", "warn", "cryptography is not installed: between nodes calls go by freight", remedy)
    return Finding("TLS", "ok", f"cryptography {version('cryptography')}, for workers on other nodes")


def _shared_memory() -> Finding:
    if not os.path.isdir("/dev/shm"):
        return Finding("shared memory", "ok", "no /dev/shm here: Ray keeps big objects in the temporary directory")
    size = shutil.disk_usage("/dev/shm").total
    text = f"/dev/shm has {size / 2**30:.1f} GiB"
    if size < SHM_WANTED:
        remedy = "give a container more: docker run --shm-size=2g (Kubernetes: an emptyDir of medium Memory)"
        return Finding("shared memory", "warn", f"{text}: values of many megabytes will be slow", remedy)
    return Finding("shared memory", "ok", text)


def _processors() -> Finding:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count == 1:
        return Finding("CPUs", "warn", "1: workers take turns", "expect no speed-up of computations")
    return Finding("CPUs", "ok", str(count))


def _descriptors() -> Finding:
    import resource  # not on Windows, where this program still says what is wrong

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < DESCRIPTORS_WANTED:
        remedy = f"ulimit -n {min(hard, 65536) if hard > 0 else 65536}"
        return Finding("open files", "warn", f"at most {soft}: Ray and large pools want {DESCRIPTORS_WANTED}", remedy)
    return Finding("open files", "ok", f"at most {soft:,}")


def _watched() -> Finding:
    from poise._watch.sockets import find

    pools = [f"{each.name} (pid {each.program}, {each.state})" for each in find()]
    if not pools:
        return Finding("poise top", "ok", "no pool of yours is watched: watch=True, or POISE_WATCH=1, shows one there")
    return Finding("poise top", "ok", f"shows {len(pools)}: {', '.join(pools)}")


def _pool() -> Finding:
    try:
        return asyncio.run(_try_a_pool())
    except Exception as error:  # noqa: BLE001 - whatever stops the pool is the finding
        text = f"{type(error).__name__}: {error}"
        return Finding("pool", "fail", text, "see Ray's logs in /tmp/ray/session_latest/logs")


async def _try_a_pool() -> Finding:
    began = time.perf_counter()
    async with poise.Pool(size=1) as pool:
        ready = time.perf_counter() - began
        times: list[float] = []
        for number in range(100):
            sent = time.perf_counter()
            assert await pool.run(abs, -number) == number
            times.append(time.perf_counter() - sent)
        lane = pool.stats().workers[0].lane
    text = f"ready after {ready:.1f} s, a call takes {sorted(times)[50] * 1000:.2f} ms, by {lane}"
    if lane == "express":
        return Finding("pool", "ok", text)
    return Finding("pool", "warn", text, "freight is slower than express: the warning above says why it is used")
