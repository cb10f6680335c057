"""The examples for those who come from `ProcessPoolExecutor` and from `ray.util.ActorPool`."""

from __future__ import annotations

import pytest

from examples import actor_pool_migration, executor_sync

pytestmark = pytest.mark.usefixtures("shared_ray")


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
