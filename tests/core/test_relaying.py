"""A worker that has workers of its own: what its death means for what it was given."""

from __future__ import annotations

import random

import pytest

from poise._core.relaying import RelayScheduler
from poise._core.states import ABANDONED, DONE, WAITING
from poise.errors import Overloaded, WorkerLost
from tests.core.scene import Scene, state


def scene(*, backlog: int | None = None) -> tuple[Scene, RelayScheduler]:
    """One such worker, which is ready."""
    pool = RelayScheduler(backlog=backlog, chance=lambda: 0.0)
    return Scene(pool=pool), pool


def lose(story: Scene, pool: RelayScheduler, attempts: dict[int, int]) -> None:
    """The worker dies, when so much is known of its calls."""
    (worker_id,) = pool.fleet.workers
    pool.take_note(worker_id, attempts)
    story.act(pool.worker_lost(worker_id, "it has died", story.now))


def heal(story: Scene, pool: RelayScheduler) -> int:
    """The next one starts."""
    story.wait(1)
    (worker_id,) = pool.fleet.workers
    story.ready(worker_id)
    return worker_id


def test_it_is_given_every_call_at_once() -> None:
    story, _ = scene(backlog=0)
    calls = [story.submit() for _ in range(1000)]
    assert story.sent[0] == calls


def test_while_there_is_none_calls_wait_within_bounds() -> None:  # G7
    story, pool = scene(backlog=1)
    lose(story, pool, {})
    waiting = story.submit()
    with pytest.raises(Overloaded):
        story.submit()
    assert story.sent[heal(story, pool)] == [waiting]


def test_what_had_not_begun_goes_to_the_next_one_and_the_rest_is_in_doubt() -> None:  # G2
    story, pool = scene()
    begun, unbegun, unknown = (story.submit() for _ in range(3))
    lose(story, pool, {begun.id: 1, unbegun.id: 0})
    assert isinstance(story.errors[begun], WorkerLost)
    assert isinstance(story.errors[unknown], WorkerLost)
    assert state(unbegun) is WAITING
    assert story.sent[heal(story, pool)] == [unbegun]


def test_attempts_there_count_as_attempts() -> None:  # G2
    story, pool = scene()
    once, often = (story.submit(retries=2) for _ in range(2))
    lose(story, pool, {once.id: 1, often.id: 3})
    assert isinstance(story.errors[often], WorkerLost)
    assert story.sent[heal(story, pool)] == [once]
    assert once.retries == 1


def test_its_death_is_no_calls_doing() -> None:  # G9
    story, pool = scene()
    call, other = story.submit(retries=9), story.submit(retries=9)
    for _ in range(5):
        lose(story, pool, {call.id: 1, other.id: 1})
        assert sorted(each.id for each in story.sent[heal(story, pool)]) == [call.id, other.id]
    assert call.deaths == 0


def test_a_call_that_is_given_up_ends_with_its_worker() -> None:
    story, pool = scene()
    call = story.submit()
    story.cancel(call)
    assert state(call) is ABANDONED
    lose(story, pool, {call.id: 1})
    assert state(call) is DONE


def test_the_loss_of_a_worker_that_is_gone_is_no_news() -> None:
    story, pool = scene()
    lose(story, pool, {})
    pool.take_note(0, {})
    story.act(pool.worker_lost(0, "again", story.now))
    assert len(story.losses) == 1


@pytest.mark.parametrize("seed", range(50))
def test_whatever_happens_each_call_has_one_outcome_and_none_runs_twice_unasked(  # noqa: C901 (a life is)
    seed: int,
) -> None:  # G1, G2
    dice = random.Random(seed)
    story, pool = scene(backlog=dice.choice([None, 5]))
    begun: dict[int, int] = {}
    calls = []
    for _ in range(300):
        held = [*next(iter(pool.fleet.workers.values())).running.values()]
        match dice.randrange(6):
            case 0 | 1:
                try:
                    call = story.submit(retries=dice.choice([0, 0, 2]), timeout=dice.choice([None, 0.5]))
                except Overloaded:
                    continue
                calls.append((call, call.retries))
            case 2 if held:
                each = dice.choice(held)
                begun[each.id] = begun.get(each.id, 0) + 1
                story.answer(each)
            case 3 if held:
                story.cancel(dice.choice(held))
            case 4 if pool.fleet.ready:
                attempts = {each.id: dice.choice([0, 0, 1]) for each in held}
                for each in held:
                    begun[each.id] = begun.get(each.id, 0) + attempts[each.id]
                lose(story, pool, attempts)
            case _:
                story.wait(dice.choice([0.01, 0.2]))
                for worker_id in pool.fleet.workers:
                    if pool.fleet.is_starting(worker_id):
                        story.ready(worker_id)
                        break
    story.act(pool.stop(story.now))
    for call, retries in calls:
        assert state(call) is DONE
        assert begun.get(call.id, 0) <= 1 + retries
