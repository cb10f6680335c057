"""What the tests of the faces share: programs of their own, and what they must not leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import poise

ROOT = Path(__file__).parents[2]
PACKAGE = Path(poise.__file__).parent
"""What is tested: the source, or what a wheel was made of."""

Start = Callable[..., "subprocess.Popen[str]"]
"""Starts a program with this Python: `start("-m", "poise.cli", "doctor")`."""


@pytest.fixture
def start() -> Iterator[Start]:
    """Start programs in sessions of their own; those that still run at the end of the test are killed."""
    programs: list[subprocess.Popen[str]] = []

    def start_it(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        environment = {**os.environ, "RAY_ADDRESS": "", **options.pop("env", {})}
        environment["PYTHONPATH"] = os.pathsep.join([str(PACKAGE.parent), str(ROOT), environment.get("PYTHONPATH", "")])
        if not environment["RAY_ADDRESS"]:
            del environment["RAY_ADDRESS"]
        program = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=options.pop("stderr", subprocess.PIPE),
            text=True,
            start_new_session=True,
            env=environment,
            **options,
        )
        programs.append(program)
        return program

    yield start_it
    for program in programs:
        if program.poll() is None:
            program.kill()
        program.communicate()


@pytest.fixture
def join(start: Start, shared_ray: None) -> Start:
    """The same for programs that join the Ray of the tests: starting one of their own would be most of their time."""
    address: Any = ray.get_runtime_context().gcs_address

    def start_it(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        return start(*arguments, **{**options, "env": {"RAY_ADDRESS": address, **options.get("env", {})}})

    return start_it
