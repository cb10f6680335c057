"""Each example runs as its docstring says. What is not run here has a test of its own, and is named with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SHOWN = {
    "gpu_fractions": ["has no GPU", "[2.0, 4.0, 6.0]"],
    "living_pool": [
        "workers under load: 3",
        "processes that our session has met: 1",
        "replaced, because Model.check has failed 2 times in a row",
        "replaced, because it asks for it",
        "replaced, because it has answered ",
        "versions that answer now: [2]",
        "generation 1, calls lost: 0",
    ],
    "map_with_progress": ["pi is about 3.1", "near enough after"],
    "ray_cluster": ["primes", "workers by the"],
}
"""Programs, and what each prints."""

TESTED_ELSEWHERE = {
    "actor_pool_migration": "tests/examples/test_migrations.py",
    "executor_sync": "tests/examples/test_migrations.py",
    "fastapi_service": "examples/test_my_service.py",
    "test_my_service": "tests/faces/test_testing.py",
}


@pytest.mark.parametrize("name", SHOWN)
def test_the_example_runs_in_the_ray_that_is_there(name: str, shared_ray: None) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    ran = subprocess.run(
        [sys.executable, "-m", f"examples.{name}"],
        cwd=ROOT,
        env=os.environ | {"RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    for text in SHOWN[name]:
        assert text in ran.stdout


def test_every_example_is_tested() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == {*SHOWN, *TESTED_ELSEWHERE}
    for name, test in TESTED_ELSEWHERE.items():
        assert name in (ROOT / test).read_text()
