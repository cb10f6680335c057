"""What the tests of the faces share: programs of their own, and what they must not leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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
        environment = {**os.environ, **options.pop("env", {})}
        environment["PYTHONPATH"] = os.pathsep.join([str(PACKAGE.parent), str(ROOT), environment.get("PYTHONPATH", "")])
        environment.pop("RAY_ADDRESS", None)
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
