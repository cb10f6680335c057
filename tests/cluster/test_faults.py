"""Faults of a cluster of two nodes that a link joins. `make test-cluster` runs these, and prints the table of docs."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.cluster.nodes import namespaces, obstacle

if TYPE_CHECKING:
    from collections.abc import Iterator

IS_ASKED_FOR: Final = bool(os.environ.get("POISE_TEST_CLUSTER"))

pytestmark = [
    pytest.mark.skipif(not IS_ASKED_FOR, reason="takes minutes: make test-cluster"),
    pytest.mark.timeout(300),
]

LOST: Final = "`WorkerLost`, started=True"
WITHIN: Final = 15.0
"""Seconds in which a silent peer is noticed: `link_timeout` is 5, and the machine is busy."""


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[dict[str, Any]]:
    """What was seen, for the page."""
    if IS_ASKED_FOR and (why := obstacle()):
        pytest.skip(why)
    rows: dict[str, Any] = {}
    yield rows
    print("\n\n" + as_table(rows), file=sys.__stdout__, flush=True)


def meet(fault: str, table: dict[str, Any]) -> dict[str, Any]:
    with namespaces() as nodes, nodes.ray():
        printed = nodes.run(nodes.head, (sys.executable, "-m", "tests.cluster.faults", nodes.prefix, fault))
    row: dict[str, Any] = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    table[fault] = row
    return row["poise"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("fault", ["link_cut", "machine_gone"])
def test_a_node_that_is_silent_is_given_up_and_the_pool_heals_on_the_other(fault: str, table: dict[str, Any]) -> None:
    seen = meet(fault, table)  # G1, G2, G8
    assert seen["seen"] == LOST
    assert seen["detected"] < WITHIN
    assert seen["healed"] is not None
    assert seen["retried"] == "the result"


@pytest.mark.parametrize("fault", ["link_healed", "link_flapping"])
def test_a_link_that_comes_back_soon_costs_nobody_anything(fault: str, table: dict[str, Any]) -> None:
    seen = meet(fault, table)
    assert (seen["seen"], seen["retried"]) == ("the result", "the result")


@pytest.mark.parametrize("fault", ["raylet_killed", "node_drained"])
def test_workers_that_end_with_their_node_are_replaced_on_the_other(fault: str, table: dict[str, Any]) -> None:
    seen = meet(fault, table)  # G8
    assert seen["seen"] == LOST
    assert seen["healed"] is not None
    assert seen["retried"] == "the result"


def test_a_busy_peer_is_not_taken_for_a_dead_one(table: dict[str, Any]) -> None:
    seen = meet("busy_peer", table)
    assert (seen["seen"], seen["retried"]) == ("the result", "the result")


def test_calls_go_on_while_the_control_service_is_dead(table: dict[str, Any]) -> None:
    seen = meet("gcs_dead", table)
    assert (seen["seen"], seen["retried"]) == ("the result", "the result")


def as_table(rows: dict[str, Any]) -> str:
    """The table of docs/how-to/cluster.md."""
    heads = ("fault", "with poise, callers see", "noticed", "healed", "with plain Ray", "noticed", "healed")
    cells = [(fault.replace("_", " "), *as_cells(row["poise"]), *as_cells(row["plain"])) for fault, row in rows.items()]
    return "\n".join(f"| {' | '.join(each)} |" for each in (heads, ["---"] * len(heads), *cells))


def as_cells(sight: dict[str, Any]) -> list[str]:
    again = f"; with `retries` {sight['retried']}" if sight["retried"] not in ("", sight["seen"]) else ""
    times = [f"{sight[name]:g} s" if sight[name] is not None else "-" for name in ("detected", "healed")]
    return [sight["seen"] + again, *times]
