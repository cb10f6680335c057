"""What all tests share."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import warnings
from typing import TYPE_CHECKING

import pytest

from tests.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns of a change of its own to come

ROOM = 2.0
"""Of the custom resource "room" in the shared Ray: what tests of shortage compete for."""


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Let the programs that tests start be interrupted.

    A shell starts what it runs in the background with SIGINT ignored, and every child inherits that.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[None]:
    """One Ray for the whole run, joined by every pool that is opened meanwhile."""
    import ray

    was_there = ray.is_initialized()
    if not was_there:
        with _left_to_the_collector():
            ray.init(
                address="local",  # not one that RAY_ADDRESS names or `ray start` has left here
                num_cpus=4,
                resources={"room": ROOM},
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    yield
    if not was_there:
        with _left_to_the_collector():
            ray.shutdown()


@contextlib.contextmanager
def _left_to_the_collector() -> Iterator[None]:
    """Let Ray leave files and processes of its own to the collector, as 2.50 does; elsewhere that is a fault."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


@pytest.fixture
def make_gate(tmp_path: Path) -> Callable[[str], Gate]:
    """Make a gate of that name."""
    return lambda name: Gate(tmp_path / name)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate, which is opened at the end of the test at the latest so that no thread of a worker stays behind."""
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the whole run be done on uvloop."""
    parser.addoption("--uvloop", action="store_true", help="run every asyncio test on uvloop")


def pytest_asyncio_loop_factories(config: pytest.Config) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Choose the event loop of the asyncio tests."""
    if not config.getoption("--uvloop"):
        return {"asyncio": asyncio.new_event_loop}
    import uvloop

    return {"uvloop": uvloop.new_event_loop}
