"""Nodes on which workers were lost, and where the next ones start."""

from __future__ import annotations

from typing import Any

import pytest
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from poise._lanes import unreachable
from poise._lanes.unreachable import DOUBTED_FOR, SILENT_FOR, Unreachables


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(unreachable, "time", clock)
    return clock


def avoided(nodes: Unreachables, options: dict[str, Any] | None = None) -> str | None:
    steered = nodes.steer(options or {})
    if not steered:
        return None
    assert steered["fallback_strategy"] == [{"label_selector": {}}], "where the others have no room, any will do"
    (choice,) = steered["label_selector"].values()
    return str(choice)


def test_nothing_is_steered_while_all_nodes_are_there(clock: Clock) -> None:
    assert avoided(Unreachables()) is None


@pytest.mark.parametrize(("is_silent", "seconds"), [(True, SILENT_FOR), (False, DOUBTED_FOR)])
def test_a_node_is_avoided_for_a_while(clock: Clock, *, is_silent: bool, seconds: float) -> None:
    nodes = Unreachables()
    nodes.note("a", is_silent=is_silent)
    assert avoided(nodes) == "!in(a)"
    clock.now += seconds - 1
    nodes.note("b", is_silent=False)
    assert avoided(nodes) == "!in(a,b)"
    clock.now += 2
    assert avoided(nodes) == "!in(b)"


def test_the_end_of_a_worker_says_nothing_against_the_silence_of_another(clock: Clock) -> None:
    nodes = Unreachables()
    nodes.note("a", is_silent=True)
    nodes.note("a", is_silent=False)
    clock.now += DOUBTED_FOR + 1
    assert avoided(nodes) == "!in(a)"


@pytest.mark.parametrize(
    "options",
    [
        {"label_selector": {"zone": "a"}},
        {"fallback_strategy": [{"label_selector": {"zone": "a"}}]},
        {"scheduling_strategy": NodeAffinitySchedulingStrategy("a" * 56, soft=False)},
    ],
)
def test_users_who_say_which_nodes_to_use_have_those(clock: Clock, options: dict[str, Any]) -> None:
    nodes = Unreachables()
    nodes.note("a", is_silent=True)
    assert avoided(nodes, options) is None
    assert avoided(nodes, {"num_cpus": 1, "scheduling_strategy": "SPREAD"}) == "!in(a)"
