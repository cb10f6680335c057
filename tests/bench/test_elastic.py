"""That an elastic pool is worth its while: simulated, so that the figures are always the same."""

from __future__ import annotations

import pytest

from bench import elastic
from bench.loads import Load
from poise.policies import Elastic


@pytest.mark.parametrize("least", [0, 1])
@pytest.mark.parametrize("start_time", elastic.STARTS)
def test_on_the_recorded_trace_it_costs_less_than_the_best_fixed_size_for_the_same_waits(
    start_time: float, least: int
) -> None:
    found = elastic.compare(elastic.recorded(0.02, start_time), Elastic(least, elastic.MOST), start_time)
    assert found.cost <= 1.1, found  # 0.34 to 0.95 measured
    assert found.elastic.starts < 8819 / 20, "a start is for many calls"


def test_under_a_steady_load_it_finds_its_size_and_stays_there() -> None:
    steady = Load("steady", [1.0 + number * 0.35 for number in range(2000)], [1.0] * 2000)
    found = elastic.compare(steady, Elastic(1, 64), 1.0)
    assert found.elastic.starts <= found.size + 1 == 4
    assert found.cost <= 1.1
