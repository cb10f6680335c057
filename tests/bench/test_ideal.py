from __future__ import annotations

import pytest

from bench import ideal


def test_one_worker_serves_in_order_and_each_call_waits_for_those_before_it() -> None:
    assert ideal.waits([0, 1, 2, 10], [3, 1, 1, 1], workers=1) == [0, 2, 2, 0]


def test_with_two_workers_a_long_call_does_not_hold_up_the_short_ones_behind_it() -> None:
    assert ideal.waits([0, 0, 1, 2], [10, 1, 1, 1], workers=2) == [0, 0, 0, 0]


def test_calls_that_come_together_share_the_workers() -> None:
    assert ideal.waits([0] * 6, [1] * 6, workers=2) == [0, 0, 1, 1, 2, 2]


def test_a_call_takes_the_worker_that_is_free_first() -> None:
    assert ideal.waits([0, 0, 0], [5, 2, 1], workers=2) == [0, 0, 2]


def test_the_mean_wait_with_random_arrivals_is_what_theory_says() -> None:
    # M/D/1 at half load: the mean wait is rho / (2 (1 - rho)) = 0.5 service times (Pollaczek and Khinchine).
    import random

    chance = random.Random(3)
    arrivals, now = [], 0.0
    for _ in range(50_000):
        arrivals.append(now)
        now += chance.expovariate(0.5)
    waits = ideal.waits(arrivals, [1.0] * len(arrivals), workers=1)
    assert sum(waits) / len(waits) == pytest.approx(0.5, rel=0.06)


def test_arrivals_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="in order"):
        ideal.waits([1, 0], [1, 1], workers=1)
