from __future__ import annotations

import pytest

from bench import loads


def utilisation(load: loads.Load, workers: int) -> float:
    return sum(load.services) / workers / (load.arrivals[-1] - load.arrivals[0])


def test_a_request_of_the_trace_takes_a_base_and_so_much_for_each_token() -> None:
    load = loads.recorded(3, workers=2)
    assert load.services == pytest.approx([loads.BASE + loads.PER_TOKEN * tokens for tokens in (7, 8, 8)])


def test_the_whole_excerpt_has_the_heavy_tail_of_the_trace() -> None:
    load = loads.recorded(2000, workers=2)
    mean = sum(load.services) / len(load.services)
    assert 0.008 < mean < 0.012
    assert max(load.services) > 20 * mean


def test_more_requests_than_the_excerpt_has_are_refused() -> None:
    with pytest.raises(ValueError, match="the excerpt has 2000 requests"):
        loads.recorded(2001, workers=2)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_every_load_asks_for_the_same_part_of_the_workers_time(workers: int) -> None:
    for load in (loads.recorded(500, workers), loads.uniform(0.001, 500, workers), loads.mixed(500, workers)):
        assert utilisation(load, workers) == pytest.approx(loads.UTILISATION)
        assert load.arrivals == sorted(load.arrivals)


def test_speeding_up_keeps_the_rhythm() -> None:
    assert loads.sped_up([10.0, 11.0, 14.0], [0.75, 0.75, 0.75], 1) == pytest.approx([0, 0.75, 3.0])


def test_one_call_in_a_hundred_of_the_mix_is_long() -> None:
    load = loads.mixed(1000, workers=2)
    assert load.services.count(loads.LONG) == 10
    assert load.services.count(loads.TINY) == 990
