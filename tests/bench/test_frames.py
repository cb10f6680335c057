"""That the simulated owner is what theory says where theory says something, and else what its costs say."""

from __future__ import annotations

import math

import pytest

from bench import ideal
from bench.loads import Load
from bench.scale.frames import FREE, WHOLE, Costs, Waits, at_random, simulate

DEAR = Costs(call=20e-6, queued=10e-6, frame=10e-6, hop=30e-6, wake=60e-6, next=5e-6)


def erlang_wait(workers: int, offered: float) -> float:
    """The mean wait in service times, with random arrivals and exponential services: Erlang's C formula (1917)."""
    last = offered**workers / math.factorial(workers) * workers / (workers - offered)
    chance = last / (sum(offered**number / math.factorial(number) for number in range(workers)) + last)
    return chance / (workers - offered)


@pytest.mark.parametrize(("workers", "busy"), [(1, 0.5), (1, 0.7), (4, 0.8), (8, 0.8)])
def test_without_costs_the_mean_wait_is_erlangs(workers: int, busy: float) -> None:
    load = at_random(20_000, busy * workers, 1.0)
    found = Waits.of(simulate(load, workers, 1, FREE).waits)
    assert found.mean == pytest.approx(erlang_wait(workers, busy * workers), rel=0.2)


@pytest.mark.parametrize("clients", [1, 5])
def test_without_costs_calls_that_nothing_is_known_of_begin_as_in_one_ideal_queue(clients: int) -> None:
    load = at_random(2_000, 7.0, 1.0)
    found = simulate(load, 8, clients, FREE)
    best = ideal.waits(load.arrivals, load.services, 8)
    # Fair shares between clients change who waits, and not how much is waited.
    assert sum(found.waits) == pytest.approx(sum(best), rel=1e-6 if clients == 1 else 0.1)
    assert found.workers_busy == pytest.approx(sum(load.services) / 8 / (found.ends[-1] - load.arrivals[0]))


def test_a_lone_call_waits_for_both_hops_the_owner_and_its_worker() -> None:
    load = Load("rare", [number * 1.0 for number in range(50)], [0.1] * 50)
    found = simulate(load, 2, 1, DEAR)
    each = 2 * DEAR.hop + 2 * DEAR.frame + DEAR.call / 2 + DEAR.wake
    assert found.waits == pytest.approx([each] * 50)
    back = each + 0.1 + 2 * DEAR.hop + 2 * DEAR.frame + DEAR.call / 2
    assert found.ends == pytest.approx([arrival + back for arrival in load.arrivals])


def test_an_owner_does_no_more_than_its_processor_lets_it() -> None:
    count = 5_000
    load = Load("at once", [0.0] * count, [0.001] * count)
    found = simulate(load, 1_000, 4, DEAR)
    assert len(found.ends) == count
    assert found.owner_busy > 0.9
    assert found.ends[-1] >= count * DEAR.call + found.frames * DEAR.frame


def test_the_same_load_gives_the_same_figures() -> None:
    load = at_random(1_000, 3_000.0, 0.001)
    assert simulate(load, 4, 8, DEAR) == simulate(load, 4, 8, DEAR)


def test_every_call_is_answered_also_if_it_was_sent_ahead_and_recalled() -> None:
    load = at_random(3_000, 150.0, 0.01)
    services = [0.5 if number % 300 == 0 else service / 10 for number, service in enumerate(load.services)]
    found = simulate(Load("mixed", load.arrivals, services), 2, 3, DEAR)
    assert len(found.ends) == len(found.waits) == 3_000


def test_a_whole_owner_holds_ten_thousand_calls_a_second_and_not_twice_as_many() -> None:
    held, not_held = (simulate(at_random(6_000, rate, 0.01), 1_000, 64, WHOLE) for rate in (10_000, 20_000))
    assert Waits.of(held.waits).p99 < 0.03
    assert Waits.of(not_held.waits).p99 > 0.1
