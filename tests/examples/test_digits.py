"""The digits example: its classifier, its traffic, its judgement, its service. `make demo` runs the whole of it."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import httpx
import pytest
from rich.console import Console

import poise
from examples.digits import screen
from examples.digits.classifier import Answer, Classifier, unseen
from examples.digits.client import Outcome, Tally, Visitor, judge
from examples.digits.progress import Progress
from examples.digits.service import create_app
from examples.digits.traffic import Plan, plan, recorded
from poise import Stats, WorkerStats

EIGHT = Answer(8, [0.5] * 10)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier()


# ---------------------------------------------------------------- the classifier


def test_the_classifier_reads_nine_of_ten_unseen_digits(classifier: Classifier) -> None:
    images, digits = unseen(100)
    right = [classifier.classify(image).digit == digit for image, digit in zip(images, digits, strict=True)]
    assert sum(right) / len(right) > 0.9


def test_two_classifiers_give_the_same_scores_and_two_images_different_ones(classifier: Classifier) -> None:
    images, _ = unseen(20)
    answers = [classifier.classify(image) for image in images]
    other = Classifier()
    assert [other.classify(image) for image in images] == answers
    assert len({tuple(round(score, 3) for score in answer.scores) for answer in answers}) == len(images)


# ---------------------------------------------------------------- the traffic


def test_the_recorded_arrivals_are_sorted_and_begin_at_zero() -> None:
    arrivals = recorded()
    assert arrivals == sorted(arrivals)
    assert arrivals[0] == 0
    assert len(arrivals) > 3000


def test_a_plan_keeps_the_shape_of_the_traffic_and_has_the_rate_that_was_asked_for() -> None:
    arrivals = recorded()
    traffic = plan(arrivals, rate=50, seconds=20)
    assert len(traffic.arrivals) == 1000
    assert traffic.rate == pytest.approx(50)
    assert traffic.arrivals[-1] == pytest.approx(20)
    assert [arrival * traffic.speed for arrival in traffic.arrivals] == pytest.approx(arrivals[:1000])
    assert sum(traffic.histogram(7)) == 1000


def test_a_plan_ends_early_when_too_few_arrivals_were_recorded() -> None:
    traffic = plan([0.0, 1.0, 2.0, 4.0], rate=2, seconds=60)
    assert traffic == Plan((0.0, 0.5, 1.0, 2.0), seconds=2.0, speed=2.0)


# ---------------------------------------------------------------- the judgement


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        (httpx.Response(200, json={"digit": 8, "scores": [0.5] * 10}), Outcome.ANSWERED),
        (httpx.Response(200, json={"digit": 8, "scores": [0.5] * 9 + [0.6]}), Outcome.WRONG),
        (httpx.Response(200, json={"digit": 3, "scores": [0.5] * 10}), Outcome.WRONG),
        (httpx.Response(200, json={"digit": 8, "scores": [0.5] * 9}), Outcome.WRONG),
        (httpx.Response(200, text="hello"), Outcome.WRONG),
        (httpx.Response(503, headers={"Retry-After": "1"}), Outcome.REFUSED),
        (httpx.Response(504), Outcome.REFUSED),
        (httpx.Response(503), Outcome.LOST),
        (httpx.Response(502), Outcome.LOST),
        (httpx.Response(500), Outcome.LOST),
    ],
)
def test_a_response_is_judged_by_its_status_and_every_score(response: httpx.Response, outcome: Outcome) -> None:
    assert judge(response, EIGHT) is outcome


def stats(*workers: WorkerStats, deaths: int = 0) -> Stats:
    fields: dict[str, Any] = dict.fromkeys((field.name for field in dataclasses.fields(Stats)), 0)
    ready = sum(worker.state == "ready" for worker in workers)
    return Stats(**fields | {"size": 2, "ready": ready, "deaths": deaths, "workers": workers})


def worker(number: int, state: str = "ready") -> WorkerStats:
    fields: dict[str, Any] = dict.fromkeys((field.name for field in dataclasses.fields(WorkerStats)), 0)
    return WorkerStats(**fields | {"id": number, "state": state, "running": 1, "slots": 1, "pid": 4000 + number})


def played(
    *outcomes: Outcome, sent: int | None = None, heals: bool = True, reload_failure: str | None = None
) -> Progress:
    """A replay of which so many ended like this: a worker is killed after 5 s and replaced after 7, all are after 8."""
    tally = Tally(sent=len(outcomes) if sent is None else sent)
    tally.outcomes.update(outcomes)
    tally.latencies.extend([0.02] * len(outcomes))
    progress = Progress(Plan((0.0, 9.0), seconds=10.0, speed=10.0), tally, stats())
    progress.observe(stats(worker(0), worker(1)), 5.0)
    progress.killed(worker(0), 4000)
    progress.observe(stats(worker(0), worker(1)), 5.1)  # the pool has not noticed yet
    assert not progress.is_whole
    progress.observe(stats(worker(1), worker(2, "starting"), deaths=1), 6.0)
    if heals:
        progress.observe(stats(worker(1), worker(2), deaths=1), 7.0)
    progress.reloading()
    progress.reloaded(reload_failure, 8.0)
    return progress


def test_the_status_is_zero_when_all_were_answered_or_refused_and_the_pool_healed() -> None:
    progress = played(Outcome.ANSWERED, Outcome.REFUSED)
    assert progress.status == 0
    assert progress.kill is not None
    assert progress.kill.took == 2.0
    assert progress.reload is not None
    assert progress.reload.took == 1.0


@pytest.mark.parametrize(
    "progress",
    [
        played(Outcome.ANSWERED, Outcome.WRONG),
        played(Outcome.ANSWERED, Outcome.LOST),
        played(Outcome.ANSWERED, sent=2),
        played(Outcome.ANSWERED, heals=False),
        played(Outcome.ANSWERED, reload_failure="500 no"),
        Progress(Plan((0.0, 9.0), seconds=10.0, speed=10.0), Tally(), stats()),
    ],
    ids=["wrong", "lost", "never answered", "not whole", "not new", "nobody killed"],
)
def test_the_status_is_one_otherwise(progress: Progress) -> None:
    assert progress.status == 1
    assert "FAILED" in shown(screen.summary(progress))


def test_the_screen_shows_dead_and_living_workers_within_80_columns() -> None:
    text = shown(screen.frame(played(Outcome.ANSWERED)))
    assert "gone" in text
    assert "kill -9 4000: worker 0 dies in the middle of a call" in text
    assert "whole again after 2.0 s" in text
    assert "all workers are new ones after 1.0 s" in text
    assert max(map(len, text.splitlines())) <= 80


def shown(picture: Any) -> str:
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        console.print(picture)
    return capture.get()


# ---------------------------------------------------------------- the service


async def test_the_service_answers_each_of_many_requests_with_its_own_answer(
    shared_ray: None, classifier: Classifier
) -> None:
    images, _ = unseen(30)
    expected = [classifier.classify(image) for image in images]
    app = create_app(workers=1, timeout=30.0)
    async with app.router.lifespan_context(app):
        async with Visitor("http://digits", images, expected, httpx.ASGITransport(app)) as visitor:
            await visitor.replay(Plan((0.0,) * 40, seconds=1.0, speed=1.0))
            seen = await visitor.stats()
            assert await visitor.reload() is None
            new = await visitor.stats()
        async with httpx.AsyncClient(base_url="http://digits", transport=httpx.ASGITransport(app)) as http:
            health, bad = await http.get("/readyz"), await http.post("/classify", json={"pixels": [[0]]})
            page, metrics = await http.get("/poise"), await http.get("/metrics")
    assert visitor.tally.outcomes == {Outcome.ANSWERED: 40}
    assert seen is not None
    assert (seen.size, seen.completed, seen.generation) == (1, 40, 0)
    assert seen.batched > seen.batches > 0, "some were looked at together"
    assert new is not None
    assert (new.generation, [worker.generation for worker in new.workers if worker.state == "ready"]) == (1, [1])
    assert (health.status_code, health.json()) == (200, {"state": "open", "ready": 1, "size": 1})
    assert bad.status_code == 422
    assert "<title>poise</title>" in page.text
    assert 'poise_workers{pool="Classifier",state="ready"} 1.0' in metrics.text
    assert 'poise_calls_total{function="Classifier.classify",outcome="returned",pool="Classifier"} 40.0' in metrics.text


class Refusing:
    """Stands for a view of a pool whose calls all fail."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def submit(self, *args: object) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (poise.Overloaded(500, 500, 2.3), 503, {"retry-after": "3"}),
        (poise.DeadlineExceeded(5.0, started=False), 504, {}),
        (poise.WorkerLost(1, "gone"), 502, {}),
        (poise.PoisonCall(1, "gone", 3, "classify"), 502, {}),
        (poise.PoolClosed("closed"), 503, {}),
    ],
)
async def test_each_failure_has_its_status(error: Exception, status: int, headers: dict[str, str]) -> None:
    app = create_app()
    app.state.view = Refusing(error)
    images, _ = unseen(1)
    async with httpx.AsyncClient(base_url="http://digits", transport=httpx.ASGITransport(app)) as http:
        response = await http.post("/classify", json={"pixels": images[0]})
    assert response.status_code == status
    assert response.json() == {"error": type(error).__name__, "detail": str(error)}
    assert headers.items() <= dict(response.headers).items()
