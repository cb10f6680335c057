"""Real Ray, real processes: one Ray for all tests of this folder, joined by every pool."""

from __future__ import annotations

import gc
import os
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import poise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def _ray(shared_ray: None) -> None:
    """Every test here needs it."""


@pytest.fixture(params=["freight", "express"])
def open_pool(request: pytest.FixtureRequest) -> Callable[..., poise.Pool[Any]]:
    """Make a pool on each of the lanes to real processes."""
    return partial(poise.Pool, lane=request.param)


@pytest.fixture(scope="module", autouse=True)
def nothing_left(shared_ray: None) -> Iterator[None]:  # G12
    """Compare actor processes and our own threads and sockets before and after each module."""
    before = actors_of(psutil.Process()) | _threads() | _files()
    yield
    deadline = time.monotonic() + 20
    while (left := (actors_of(psutil.Process()) | _threads() | _files()) - before) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)
    assert not left


def actors_of(owner: psutil.Process) -> set[str]:
    """Actor processes of the Ray that this process has started."""
    found = set()
    for process in owner.children(recursive=True):
        try:
            title = " ".join(process.cmdline()[:1])
        except psutil.Error:
            continue
        if title.startswith("ray::") and not title.endswith(("IDLE", "Agent")):
            found.add(f"{process.pid} {title}")
    return found


def _threads() -> set[str]:
    return {f"{thread.ident} {thread.name}" for thread in threading.enumerate() if thread.name.startswith("poise")}


def _files() -> set[str]:
    """Unix sockets and files of this process, by name."""
    names = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            name = os.readlink(descriptor)
        except OSError:
            continue
        if "poise" in name or "pidfd" in name:
            names.add(f"{descriptor.name} {name}")
    return names
