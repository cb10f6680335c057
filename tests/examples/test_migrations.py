"""The examples for those who come from `ProcessPoolExecutor` and from `ray.util.ActorPool`, and programs of the former.

The programs were written for `ProcessPoolExecutor`. But for the line that imports it nothing in them is changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from examples import actor_pool_migration, executor_sync

pytestmark = pytest.mark.usefixtures("shared_ray")

PROGRAMS = Path(__file__).parent / "programs"
BEFORE = "from concurrent.futures import ProcessPoolExecutor\n"
AFTER = "from poise import Executor as ProcessPoolExecutor\n"
WITHIN = 100.0
"""Seconds that a program may take."""


def test_the_executor_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    executor_sync.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line and "raylet" not in line]  # Ray prints too
    assert lines == [
        "cubes: [0, 1, 8, 27, 64, 125, 216, 343]",
        "lost: WorkerLost",
        "and on: 27",
        "most common: [('the', 3)]",
    ]


def test_the_actor_pool_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    actor_pool_migration.main()
    assert capsys.readouterr().out.splitlines() == [
        "map: [0, 1, 4, 9, 16, 25]",
        *(f"collected: {number * number}" for number in range(4)),
        "in a thread: 81",
        "awaited: [0, 1, 4, 9]",
    ]


def run(script: Path, **environment: str) -> tuple[str, int, str]:
    """What a program prints, its exit code, and what it says on standard error."""
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=script.parent,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    return done.stdout, done.returncode, done.stderr


@pytest.mark.parametrize("name", [*sorted(path.stem for path in PROGRAMS.glob("*.py")), "shop/main"])
def test_a_program_of_the_standard_library_runs_once_its_import_is_changed(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "program"
    shutil.copytree(PROGRAMS, folder)
    script = folder / f"{name}.py"
    output, code, _ = run(script)
    assert output
    text = script.read_text()
    assert text.count(BEFORE) == 1
    script.write_text(text.replace(BEFORE, AFTER))
    address = ray.get_runtime_context().gcs_address  # one Ray for all of them: each would start its own
    own_output, own_code, errors = run(script, RAY_ADDRESS=address)
    assert (own_output, own_code) == (output, code), errors
