from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from bench import calls, kinds, payloads, report
from bench.samples import Spread, quantile, quantiles, ratios
from bench.targets import MET, NOT_MET, UNKNOWN, at_least, at_most
from bench.usage import own_usage

if TYPE_CHECKING:
    from pathlib import Path


def test_a_quantile_lies_between_its_neighbours() -> None:
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile([0, 10], 0.25) == 2.5
    assert quantile([7], 0.99) == 7
    assert quantiles([1, 2, 3])["0.5"] == 2
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)


def test_the_spread_is_the_middle_half() -> None:
    assert Spread.of([1, 2, 3, 4, 5]) == Spread(median=3, low=2, high=4, count=5)


def test_ratios_are_taken_within_a_round() -> None:
    assert ratios({0: 10, 1: 30, 2: 5}, {0: 5, 1: 10}) == [2, 3]


def test_a_target_is_judged_by_the_median() -> None:
    assert at_least("P1", "faster", 20, [19, 21, 40]).verdict == MET
    assert at_least("P1", "faster", 20, [19, 19, 40]).verdict == NOT_MET
    assert at_most("P2", "slower", 0.1, [0.1]).verdict == MET
    assert at_most("P2", "slower", 0.1, []).verdict == UNKNOWN
    assert at_least("P1", "faster", 20, [19, 21, 40]).measured == "21x (20 to 30.5)"


def record(label: str, rate: float, p50: float) -> dict[str, Any]:
    rates = {0: rate} if rate else {}
    used = {"caller": {0: [1.0, 5e-5]}, "workers": {0: [1.0, 3e-5]}}
    return {"label": label, "rate": rates, "p50": {0: p50}, "p99": {0: 2 * p50}, "quantiles": {}, **used}


@pytest.fixture
def run() -> dict[str, Any]:
    contenders = {
        "express": record("poise, express", 60_000, 1e-4),
        "queue": record("blocking queue of actors", 1_000, 1e-3),
        "ray": record("await actor.method.remote()", 3_000, 1e-3),
        "serve": {"label": "Ray Serve handle", "rate": {}, "p50": {}, "p99": {}, "quantiles": {}},
        "processes": record("ProcessPoolExecutor", 120_000, 5e-5),
        "xoscar": record("xoscar", 10_000, 2e-4),
        "ping-pong-asyncio": record("limit", 0, 5e-5),
    }
    result = {"contenders": contenders}
    made = {
        "command": "make bench",
        "started": "2026-11-22T20:00:00+00:00",
        "quick": False,
        "machine": {
            "cores": 2,
            "processor": "a chip",
            "memory": "4 kB",
            "system": "Linux",
            "python": "3.11.7",
            "packages": {"ray": "2.60.0"},
        },
        "results": {"calls": result},
        "findings": [finding.as_dict() for finding in calls.findings(result)],
        "troubles": {"Ray Serve handle": "missing: No module named 'starlette'"},
    }
    copied: dict[str, Any] = json.loads(json.dumps(made))
    return copied


def test_each_target_says_what_was_measured_and_whether_it_was_met(run: dict[str, Any]) -> None:
    verdicts = {finding.claim: (finding.measured, finding.verdict) for finding in report.findings_of(run)}
    assert verdicts["throughput against the blocking queue of actors"] == ("60x", MET)
    assert verdicts["throughput against await actor.method.remote()"] == ("20x", NOT_MET)
    assert verdicts["throughput against a Serve handle"] == ("-", UNKNOWN)
    assert verdicts["latency p50 against await actor.method.remote()"] == ("0.1x", NOT_MET)


def test_a_peer_that_wins_is_shown_as_winning(run: dict[str, Any]) -> None:
    table = next(table for table in report.tables(run) if table.title.startswith("Tiny calls"))
    row = next(row for row in table.rows if row[0] == "ProcessPoolExecutor")
    assert row[1:] == ["120,000", "0.5x", "0.05", "0.1", "0.5x"]


def test_what_a_call_uses_is_shown_of_those_who_were_asked(run: dict[str, Any]) -> None:
    table = next(table for table in report.tables(run) if table.title.startswith("What one call"))
    assert [row[1:] for row in table.rows] == [["1.00", "50", "1.00", "30"]] * 6


def test_what_a_process_uses_grows_with_its_sleeps_and_its_work() -> None:
    before = own_usage()
    for _ in range(5):
        time.sleep(0.001)
    sum(range(1_000_000))
    used = own_usage().since(before)
    if before.seconds:  # else the system does not tell
        assert used.sleeps >= 5
        assert used.seconds > 0


def test_a_contender_that_is_missing_is_named(run: dict[str, Any]) -> None:
    text = "\n".join(table.plain() for table in report.tables(run))
    assert "Ray Serve handle  missing: No module named 'starlette'" in text


def test_figures_are_set_right_and_names_left() -> None:
    table = report.Table("A title", ["", "figure"], [["a", "1"], ["longer", "1,000"]])
    assert table.plain().splitlines() == [
        "A title",
        "        figure",
        "--------------",
        "a            1",
        "longer   1,000",
    ]
    assert table.markdown().splitlines()[2:4] == ["|  | figure |", "| --- | ---: |"]


def test_the_page_is_rewritten_between_its_markers_only(tmp_path: Path, run: dict[str, Any]) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.rewrite(page, report.generated_section(run, ["throughput.svg"]))
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "2 cores of a chip" in text
    assert "![throughput](bench/throughput.svg)" in text
    bare = tmp_path / "bare.md"
    bare.write_text("no markers")
    with pytest.raises(ValueError, match="must have"):
        report.rewrite(bare, "new")


def by_size(**milliseconds: list[float]) -> dict[str, dict[str, dict[int, float]]]:
    return {
        way: {str(10**place): {0: took} for place, took in enumerate(values)} for way, values in milliseconds.items()
    }


def test_the_crossover_is_found_between_two_sizes() -> None:
    assert payloads.crossover(by_size(socket=[1, 2, 40], freight=[4, 4, 20])) == pytest.approx(10**1.5)


def test_a_socket_that_always_wins_has_no_crossover_and_one_that_never_does_has_it_at_once() -> None:
    assert payloads.crossover(by_size(socket=[1, 2], freight=[2, 4])) is None
    assert payloads.crossover(by_size(socket=[3, 5], freight=[2, 4])) == 1


def test_other_large_values_are_judged_and_shown_beside_the_arrays() -> None:
    strings = by_size(express=[1, 2], freight=[3, 3], ray=[2, 1])
    result = {"seconds": by_size(express=[1], ray=[2]), "others": {"bytes": strings}, "crossover": None, "deposit": 1}
    found = payloads.findings(result)
    assert [finding.verdict for finding in found] == ["met", "met", "NOT met"]
    assert found[1].claim == "echo of bytes of 1 bytes against a Ray call"
    assert len(payloads.findings({"seconds": by_size(express=[1], ray=[2])})) == 1
    table = report.tables({"results": {"P6": result}, "findings": [], "troubles": {}})[-1]
    assert [row[:2] for row in table.rows] == [["bytes", "1"], ["bytes", "10"]]


def test_each_kind_of_value_can_be_made() -> None:
    made = {kind: make(8000) for kind, make in kinds.kinds().items()}
    assert {kind: len(made[kind]) for kind in ("bytes", "str", "bytearray")} == dict.fromkeys(
        ("bytes", "str", "bytearray"), 8000
    )
