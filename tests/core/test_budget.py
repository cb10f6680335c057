"""A budget for what runs again."""

from __future__ import annotations

import random

import pytest

from poise._answers import RETRYABLE
from poise._core.budget import LEAST, WINDOW, RetryBudget
from poise._core.states import CallState
from poise.errors import WorkerLost
from tests.core.scene import Scene


def test_a_few_repetitions_are_always_allowed() -> None:
    budget = RetryBudget(0.0)
    assert [budget.take(0.5) for _ in range(LEAST + 2)] == [True] * LEAST + [False] * 2


def test_a_share_of_the_recent_calls_may_be_repeated() -> None:
    budget = RetryBudget(0.2)
    for _ in range(50):
        budget.note_call(3.0)
    assert [budget.take(4.0) for _ in range(LEAST + 12)].count(True) == LEAST + 10


@pytest.mark.parametrize("gap", [WINDOW, WINDOW + 0.5, 25, 1e9])
def test_what_is_not_recent_is_forgotten(gap: float) -> None:
    budget = RetryBudget(1.0)
    for _ in range(50):
        budget.note_call(0.0)
    for _ in range(LEAST + 50):
        assert budget.take(WINDOW - 0.5)
    assert not budget.take(WINDOW - 0.5)
    assert budget.take(WINDOW - 0.5 + gap)


def test_the_budget_keeps_to_what_happened_in_its_window() -> None:
    dice = random.Random(7)
    budget, share, now = RetryBudget(0.3), 0.3, 100.0
    calls: list[float] = []
    retries: list[float] = []
    for _ in range(5000):
        now += dice.choice((0.0, 0.01, 0.3, 1.0, 4.0))
        recent = [[t for t in times if int(t) > int(now) - WINDOW] for times in (calls, retries)]
        if dice.random() < 0.4:
            budget.note_call(now)
            calls.append(now)
        else:
            is_allowed = len(recent[1]) < LEAST + share * len(recent[0])
            assert budget.take(now) == is_allowed
            retries += [now] * is_allowed


def test_a_call_beyond_the_budget_ends_with_what_befell_it() -> None:
    scene = Scene(size=1, retry_budget=0.0)
    for number in range(LEAST + 3):
        call = scene.submit(retries=1, retry_delay=0.0)
        scene.answer(call, ending=RETRYABLE, outcome=number)
        if number < LEAST:
            assert call.state is CallState.RUNNING
            scene.answer(call)
            assert scene.results[call] == "result"
        else:
            assert scene.results[call] == number
    counters = scene.pool.counters
    assert (counters.retried, counters.over_budget) == (LEAST, 3)


def test_deaths_take_from_the_budget_too_but_only_from_calls_that_had_begun() -> None:
    scene = Scene(size=1, sends_ahead=True, retry_budget=0.0)
    for _ in range(LEAST):
        call = scene.submit(retries=1, retry_delay=0.0)
        scene.answer(call, ending=RETRYABLE)
        scene.answer(call)
    begun, waiting = scene.submit(retries=1, retry_delay=0.0), scene.submit()
    scene.lose(0)
    assert type(scene.errors[begun]) is WorkerLost
    assert waiting.state is CallState.WAITING
    assert scene.pool.counters.over_budget == 1


def test_a_pool_with_load_repeats_more() -> None:
    scene = Scene(size=1, retry_budget=0.5)
    for _ in range(40):
        scene.answer(scene.submit())
    for _ in range(LEAST + 90):
        call = scene.submit(retries=1, retry_delay=0.0)
        scene.answer(call, ending=RETRYABLE)
        if call.state is CallState.RUNNING:
            scene.answer(call)
    # The calls themselves are load: 140 of them at the end.
    assert scene.pool.counters.retried == LEAST + 70
