"""Random lives of a pool, held against G1 to G7 from the outside. See `world.py`."""

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from poise._core.observed import CALL_EVENTS, Telling, observe
from poise.events import CallEnded, CallReleased
from tests.core.world import STEPS, Dice, World, make_world, run, take_step

EXAMPLES = int(os.environ.get("POISE_EXAMPLES", "20"))
"""Lives in the normal run; set it to 20000 for a long one."""


class PoolMachine(RuleBasedStateMachine):
    """Hypothesis chooses what happens, and shrinks what fails to a short story."""

    world: World

    @initialize(data=st.data())
    def open(self, data: st.DataObject) -> None:
        self.world = make_world(dice(data))

    @rule(data=st.data(), step=st.sampled_from(STEPS))
    def step(self, data: st.DataObject, step: str) -> None:
        take_step(self.world, step, dice(data))

    @rule(data=st.data(), steps=st.lists(st.sampled_from(STEPS), min_size=5, max_size=15))
    def several_steps(self, data: st.DataObject, steps: list[str]) -> None:
        for step in steps:
            take_step(self.world, step, dice(data))

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.end_of_world(drains=len(self.world.fates) % 3 > 0, refuses=len(self.world.fates) % 2 > 0)


def dice(data: st.DataObject) -> Dice:
    def pick(choices: Any) -> Any:
        return data.draw(st.sampled_from(choices))

    return Dice(pick)


PoolMachine.TestCase.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestPoolMachine = pytest.mark.timeout(1200)(PoolMachine.TestCase)  # it takes as long as its lives


def test_many_lives_of_a_pool() -> None:  # G1 to G7
    for seed in range(10 * EXAMPLES):
        run(seed)


def ends(seed: int, kinds: frozenset[type[Any]]) -> list[Any]:
    """The figures of all calls that end in one life, while these events are made beside."""
    figures: list[Any] = []
    events: list[Any] = []

    def observe_it(world: World) -> None:
        world.witness = None
        telling = Telling("pool", lambda: world.now, events.append, events.remove)
        telling.listen(kinds, lambda *these: figures.append(these))
        observe(world.pool.shares, telling)

    run(seed, observe_it=observe_it)
    told = [event for event in events if isinstance(event, CallEnded)]
    assert {type(event) for event in events} <= kinds
    if CallEnded in kinds:
        assert [(end.function, end.outcome, end.attempt, end.waiting, end.running) for end in told] == figures
    return figures


def test_the_figures_of_a_call_do_not_depend_on_what_else_is_told() -> None:
    ended = 0
    for seed in range(10 * EXAMPLES):
        figures = ends(seed, CALL_EVENTS)
        assert ends(seed, frozenset({CallEnded, CallReleased})) == figures
        assert ends(seed, frozenset()) == figures
        ended += len(figures)
    assert ended > 10 * EXAMPLES


def test_the_world_sees_everything_that_can_happen() -> None:
    seen = sum((run(seed) for seed in range(10_000, 11_200)), run(0))
    assert {"Send", "Recall", "Cancel", "Resolve", "Reject", "Lease", "Start", "Kill"} <= seen.keys()
    assert "sent elsewhere" in seen
    assert {"Withdraw", "withdrawn"} <= seen.keys()
    assert {"Replacing", "Oversized"} <= seen.keys()
    assert seen["reloaded"]
    assert seen["went back"]
    assert "SendBatch" in seen
    assert {"at home", "away", "homing"} <= seen.keys()
    assert {"Check", "Struck", "hangs"} <= seen.keys()
    assert {"Grown", "Shrunk"} <= seen.keys()
    assert seen["to another node"]
    assert {"DeadlineExceeded", "WorkerLost", "PoolBroken", "PoolClosed", "submit: Overloaded"} <= seen.keys()
