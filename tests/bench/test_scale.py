"""The simulation of owners against theory, and the page against what was simulated."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path

import pytest

from bench import ideal, scale
from bench.loads import Load
from bench.scale import page, study
from bench.scale.costs import BY_BYTES, FREE, MEASURED, Costs
from bench.scale.routers import JoinIdleQueue, Prequal, PrequalByHeld, Router, TwoChoices
from bench.scale.world import World

DOCS = Path(__file__).parents[2] / "docs"


def loaded(load: float, workers: int, count: int, seed: int = 5) -> Load:
    """Exponential services of one second in the mean, and arrivals by themselves."""
    chance = random.Random(seed)
    arrivals = list(itertools.accumulate(chance.expovariate(load * workers) for _ in range(count)))
    return Load("theory", arrivals, [chance.expovariate(1.0) for _ in range(count)])


@pytest.mark.parametrize("workers", [1, 10])
def test_an_owner_that_costs_nothing_is_the_ideal_queue(workers: int) -> None:
    load = loaded(0.8, workers, 4000)
    waits = World(load, Router, workers=workers, costs=FREE, ahead=0).run().waits
    assert waits == pytest.approx(ideal.waits(load.arrivals, load.services, workers), abs=1e-9)


def test_one_worker_is_the_queue_of_pollaczek_and_khinchine() -> None:
    # M/M/1: the mean wait is rho / (1 - rho) service times.
    outcome = World(loaded(0.5, 1, 12_000), Router, workers=1, costs=FREE, ahead=0).run()
    assert outcome.mean == pytest.approx(1.0, rel=0.1)


def test_several_workers_wait_as_erlang_says() -> None:
    # M/M/c: C(c, a) / (c - a), where C is the chance of having to wait.
    workers, busy = 5, 5 * 0.7
    some = sum(busy**k / math.factorial(k) for k in range(workers))
    full = busy**workers / math.factorial(workers) * workers / (workers - busy)
    outcome = World(loaded(0.7, workers, 12_000), Router, workers=workers, costs=FREE, ahead=0).run()
    assert outcome.mean == pytest.approx(full / (some + full) / (workers - busy), rel=0.1)


def test_two_choices_wait_as_mitzenmacher_says() -> None:
    # Time in the system of many queues of one worker: the sum of load ** (2 ** i - 2), i from 1 on.
    load, owners = 0.8, 100
    calls = loaded(load, owners, 9000)
    outcome = World(calls, TwoChoices, workers=owners, owners=owners, costs=FREE, ahead=0).run()
    assert 1 + outcome.mean == pytest.approx(sum(load ** (2**i - 2) for i in range(1, 9)), rel=0.05)


def test_chance_alone_makes_as_many_queues_of_one_worker() -> None:
    outcome = World(loaded(0.5, 20, 12_000), Router, workers=20, owners=20, costs=FREE, ahead=0).run()
    assert outcome.mean == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize(
    ("router", "steals"),
    [(Router, True), (TwoChoices, False), (JoinIdleQueue, False), (Prequal, False), (PrequalByHeld, False)],
)
def test_every_way_serves_every_call_and_is_no_better_than_the_ideal(router: type[Router], steals: bool) -> None:
    load = study.poisson(900.0, 0.04, 1500)
    outcome = World(load, router, workers=40, owners=4, costs=MEASURED, steals=steals).run()
    best = ideal.waits(load.arrivals, load.services, 40)
    assert len(outcome.waits) == 1500
    assert all(wait >= 0 for wait in outcome.waits)
    assert sum(outcome.waits) >= sum(best)


def test_what_owners_tell_makes_them_better_than_chance() -> None:
    load = study.poisson(1800, 0.02, 3000)
    worlds = {
        way: World(load, router, workers=40, owners=20, costs=FREE, ahead=0, steals=steals).run().mean
        for way, router, steals in (
            ("chance", Router, False),
            ("idle", JoinIdleQueue, False),
            ("steal", Router, True),
        )
    }
    assert worlds["steal"] < worlds["idle"] < worlds["chance"]


def test_an_owner_takes_no_more_calls_than_its_processor_can() -> None:
    load = study.poisson(100_000, 0.001, 4000)
    outcome = World(load, Router, workers=400, costs=MEASURED).run()
    assert 0.9 / BY_BYTES[1] < outcome.rate < 1 / BY_BYTES[1]
    assert outcome.busy > 0.95


def test_a_lone_call_costs_two_turns_and_two_hops() -> None:
    costs = Costs(turn=3.0, take=1.0, hear=1.0, worker=0.5, probe=0.1, hop=0.25)
    load = Load("one", [0.0], [10.0])
    outcome = World(load, Router, workers=2, costs=costs).run()
    assert outcome.waits == [0.25 + 3.0 + 1.0 + 0.25]
    assert outcome.seconds == 4.5 + 10.0 + 0.25 + 3.0 + 1.0


def test_the_clients_play_the_recorded_requests_at_the_load_that_is_wanted() -> None:
    load = study.traces(10.0, 0.9, 6400)
    assert load.arrivals == sorted(load.arrivals)
    assert len(load.services) == 6400
    assert sum(load.services) / load.arrivals[-1] == pytest.approx(0.9 * study.WORKERS)


def test_the_page_shows_what_was_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    results = DOCS / "bench" / "scale.json"
    assert page.rewrite(DOCS / "scaling.md", json.loads(results.read_text())) == (DOCS / "scaling.md").read_text()
    assert scale.main(["--from-json", str(results)]) == 0
    assert "One owner's limit" in capsys.readouterr().out


def test_a_tiny_study_has_every_part() -> None:
    size = study.Size(calls=192, burst=1200, owners=(4,), every=8)
    run = json.loads(json.dumps(study.run(size, lambda _: None, measures=False)))
    assert [table.title for table in page.tables(run)] == [
        "One owner's limit",
        "One owner, 1,000 workers",
        "Recorded requests",
    ]
    assert run["burst"]["seconds"] > run["burst"]["ideal"]
