from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench import replay
from bench.evidence import Run, held_up, idle_times, read, write

if TYPE_CHECKING:
    from pathlib import Path


def run(call: int, submitted: float, began: float, ended: float, worker: int) -> Run:
    return Run(call, ended - began, submitted, began, ended, worker)


LONG_ON_1 = run(0, 0.0, 0.0, 1.0, worker=1)
BUSY_2 = run(1, 0.0, 0.0, 0.3, worker=2)


def test_a_worker_is_idle_between_its_calls_and_until_the_last_one_of_all_has_ended() -> None:
    idle = idle_times([LONG_ON_1, BUSY_2, run(2, 0.5, 0.5, 0.6, worker=2)])
    assert [(each.worker, each.since, each.until) for each in idle] == [(2, 0.3, 0.5), (2, 0.6, 1.0)]


def test_a_call_that_waits_behind_a_long_one_beside_an_idle_worker_is_found() -> None:
    stuck = run(2, 0.1, 1.0, 1.1, worker=1)
    (found,) = held_up([LONG_ON_1, BUSY_2, stuck], longer_than=0.01, long_call=0.5)
    assert found.run is stuck
    assert found.idle_worker == 2
    assert found.seconds == pytest.approx(0.7)  # from 0.3, when worker 2 fell idle, to 1.0, when the call began
    assert found.beside_long


def test_a_call_that_is_recalled_in_time_is_not_held_up() -> None:
    recalled = run(2, 0.1, 0.305, 0.4, worker=2)
    assert held_up([LONG_ON_1, BUSY_2, recalled], longer_than=0.01, long_call=0.5) == []


def test_waiting_while_every_worker_is_busy_is_fine() -> None:
    patient = run(2, 0.0, 0.3, 0.4, worker=2)
    assert held_up([LONG_ON_1, BUSY_2, patient], longer_than=0.01, long_call=0.5) == []


def test_waiting_beside_an_idle_worker_without_a_long_call_is_told_apart() -> None:
    slow = run(1, 0.1, 0.2, 0.3, worker=1)
    runs = [run(0, 0.0, 0.0, 0.1, worker=1), run(2, 0.0, 0.0, 0.12, worker=2), slow]
    (found,) = held_up(runs, longer_than=0.05, long_call=0.5)
    assert not found.beside_long


def test_of_several_stretches_the_longest_counts() -> None:
    runs = [
        LONG_ON_1,
        BUSY_2,
        run(2, 0.4, 0.4, 0.5, worker=2),  # worker 2 is idle from 0.3 to 0.4, and from 0.5 to 1.0
        run(3, 0.3, 1.0, 1.0, worker=1),
    ]
    (found,) = [each for each in held_up(runs, longer_than=0.01, long_call=0.5) if each.run.call == 3]
    assert found.seconds == pytest.approx(0.5)


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    runs = [LONG_ON_1, BUSY_2]
    write(tmp_path / "trace.csv", runs)
    assert read(tmp_path / "trace.csv") == runs


def test_an_ideal_run_waits_as_long_as_the_ideal_queue() -> None:
    runs = [run(0, 0.0, 0.0, 1.0, worker=1), run(1, 0.0, 0.0, 1.0, worker=2), run(2, 0.5, 1.0, 2.0, worker=1)]
    summary = replay.compare(runs, allowance=0.01)
    assert summary["mean"] == summary["ideal_mean"] == pytest.approx(0.5 / 3)
    assert summary["held_up"] == 0
