"""Draws a run's charts, as SVG files."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from bench.report import LABELS, headline
from bench.samples import quantile
from bench.utilisation import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

POISE: Final = "#0b6e4f"
OTHERS: Final = "#8a99a8"
LIMIT: Final = "#c08a2d"
SERIES: Final = (POISE, "#d1495b", "#30638e", LIMIT, "#6a4c93", OTHERS)


def draw(run: dict[str, Any], folder: Path) -> list[str]:
    """Draw every chart that the run has figures for, and return their names.

    Raises:
        ImportError: matplotlib is not installed.
    """
    plot = begin()
    folder.mkdir(parents=True, exist_ok=True)
    results, names = run["results"], []
    for name, part, chart in _CHARTS:
        if part in results:
            figure = chart(plot, results[part])
            figure.text(0.01, 0.005, _short(headline(run)), fontsize=6, color="#667")
            figure.savefig(folder / name, bbox_inches="tight", metadata={"Date": None})
            plot.close(figure)
            names.append(name)
    return names


def begin() -> Any:
    """Matplotlib's pyplot, set as all charts of the bench are drawn.

    Raises:
        ImportError: it is not installed.
    """
    importlib.import_module("matplotlib").use("svg")
    plot: Any = importlib.import_module("matplotlib.pyplot")
    plot.rcParams.update(
        {
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "figure.facecolor": "white",
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "svg.hashsalt": "poise",
        }
    )
    return plot


def _short(text: str, most: int = 180) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _median(by_turn: dict[Any, float]) -> float:
    return quantile(list(by_turn.values()), 0.5)


def _colour(key: str) -> str:
    return POISE if key.startswith(("express", "freight")) else LIMIT if key.startswith("ping") else OTHERS


def _calls(plot: Any, result: dict[str, Any]) -> Any:
    records = {key: record for key, record in result["contenders"].items() if record["rate"]}
    figure, axes = plot.subplots(figsize=(8, 0.42 * len(records) + 1.4))
    keys = sorted(records, key=lambda key: _median(records[key]["rate"]))
    rates = [_median(records[key]["rate"]) for key in keys]
    axes.barh([records[key]["label"] for key in keys], rates, color=[_colour(key) for key in keys])
    for place, rate in enumerate(rates):
        axes.text(rate * 1.05, place, f"{rate:,.0f}", va="center", fontsize=9)
    axes.set(xscale="log", xlabel="calls a second (logarithmic)", xlim=(min(rates) / 3, max(rates) * 4))
    axes.set_title("Tiny calls awaited together, 2 workers: more is better")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    return figure


def _latency(plot: Any, result: dict[str, Any]) -> Any:
    records = {key: record for key, record in result["contenders"].items() if record["p50"]}
    figure, axes = plot.subplots(figsize=(8, 0.42 * len(records) + 1.4))
    keys = sorted(records, key=lambda key: -_median(records[key]["p50"]))
    for place, key in enumerate(keys):
        p50, p99 = _median(records[key]["p50"]) * 1e3, _median(records[key]["p99"]) * 1e3
        axes.plot([p50, p99], [place, place], color=_colour(key), linewidth=2)
        axes.plot([p50], [place], "o", color=_colour(key))
        axes.plot([p99], [place], "|", color=_colour(key), markersize=11, markeredgewidth=2)
        axes.text(p99 * 1.15, place, f"{p50:.3g} / {p99:.3g}", va="center", fontsize=9)
    axes.set_yticks(range(len(keys)), [records[key]["label"] for key in keys])
    most = max(_median(record["p99"]) for record in records.values()) * 1e3
    axes.set(xscale="log", xlabel="ms (logarithmic): dot p50, bar p99")
    axes.set_xlim(right=most * 6)
    axes.set_title("One call at a time: less is better")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    return figure


def _utilisation(plot: Any, result: dict[str, Any]) -> Any:
    loads = list(result["utilisation"])
    keys = [kind.key for kind in KINDS]
    figure, axes = plot.subplots(figsize=(8, 3.6))
    for number, key in enumerate(keys):
        places = [place + (number - (len(keys) - 1) / 2) * 0.16 for place in range(len(loads))]
        parts = [_median(result["utilisation"][load].get(key) or {0: 0.0}) for load in loads]
        axes.bar(places, parts, width=0.15, label=LABELS[key], color=SERIES[number])
    axes.set_xticks(range(len(loads)), loads)
    axes.set(ylim=(0, 1.05), ylabel="part of the workers' time in calls")
    axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False)
    axes.set_title("Utilisation: 1 is what the workers could do with no pool at all")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    return figure


def _waits(plot: Any, result: dict[str, Any]) -> Any:
    loads = result["loads"]
    figure, both = plot.subplots(1, 2, figsize=(10, 4))
    for axes, name in zip(both, ("mean", "p99"), strict=True):
        for number, by_contender in enumerate(loads.values()):
            ideal = quantile([run[f"ideal_{name}"] for run in by_contender["express"]], 0.5) * 1e3
            axes.plot([number - 0.35, number + 0.35], [ideal, ideal], color="black", linewidth=2)
            for place, (key, colour) in enumerate(zip(_REPLAYED, SERIES, strict=False)):
                if key in by_contender:
                    wait = quantile([run[name] for run in by_contender[key]], 0.5) * 1e3
                    label = LABELS[key] if number == 0 else None
                    axes.plot([number + (place - 1.5) * 0.18], [wait], "o", color=colour, label=label)
        axes.set_xticks(range(len(loads)), [load.replace(", ", ",\n") for load in loads], fontsize=8)
        axes.set(yscale="log", ylabel=f"{name} wait, ms (logarithmic)")
        axes.set_title(f"{name} wait")
    both[0].plot([], [], color="black", linewidth=2, label="ideal single queue")
    figure.legend(fontsize=8, loc="lower center", ncols=5, frameon=False, bbox_to_anchor=(0.5, 0.02))
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    return figure


_REPLAYED: Final = ("express", "freight", "queue", "ray")


def _core(plot: Any, result: dict[str, Any]) -> Any:
    figure, (left, right) = plot.subplots(1, 2, figsize=(10, 3.8), sharey=True)
    costs = [(each, quantile(each["seconds"], 0.5) * 1e6) for each in result["costs"]]
    number = 0
    for ahead in (False, True):
        how = "sent ahead" if ahead else "late bound"
        for workers in (4, 1000):
            _curve(
                left, costs, "waiting", {"workers": workers, "sends_ahead": ahead}, f"{workers} workers, {how}", number
            )
            number += 1
    number = 0
    for ahead in (False, True):
        how = "sent ahead" if ahead else "late bound"
        for waiting in (10, 100_000):
            fixed = {"waiting": waiting, "sends_ahead": ahead}
            _curve(right, costs, "workers", fixed, f"{waiting:,} waiting, {how}", number)
            number += 1
    left.set(xscale="log", xlabel="waiting calls", ylabel="us a decision")
    right.set(xscale="log", xlabel="workers")
    left.set_ylim(bottom=0)
    for axes in (left, right):
        axes.legend(fontsize=8)
    left.set_title("A decision costs the same, however many wait")
    right.set_title("and however many work")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    return figure


def _curve(
    axes: Any, costs: Iterable[tuple[dict[str, Any], float]], along: str, fixed: dict[str, Any], label: str, number: int
) -> None:
    points = sorted(
        (each[along], cost) for each, cost in costs if all(each[key] == value for key, value in fixed.items())
    )
    axes.plot([x for x, _ in points], [y for _, y in points], "o-", markersize=4, color=SERIES[number], label=label)


def _payloads(plot: Any, result: dict[str, Any]) -> Any:
    figure, axes = plot.subplots(figsize=(8, 4))
    for way, colour in zip(("express", "socket", "freight", "ray"), SERIES, strict=False):
        points = sorted((int(size), _median(by_turn) * 1e3) for size, by_turn in result["seconds"][way].items())
        label = "a plain Ray call" if way == "ray" else LABELS[way]
        axes.plot([x for x, _ in points], [y for _, y in points], "o-", markersize=4, color=colour, label=label)
    axes.axvline(result["deposit"], color="#667", linestyle=":", label="DEPOSIT")
    axes.set(xscale="log", yscale="log", xlabel="bytes of the array (logarithmic)", ylabel="ms there and back")
    axes.legend(fontsize=8)
    axes.set_title("Echo of an array: less is better")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    return figure


def _startup(plot: Any, result: dict[str, Any]) -> Any:
    figure, axes = plot.subplots(figsize=(6, 3.6))
    for key, colour in zip(("express", "freight", "ray"), (POISE, SERIES[1], OTHERS), strict=True):
        by_count = result["seconds"].get(key, {})
        points = sorted((int(count), _median(by_turn)) for count, by_turn in by_count.items())
        label = "bare actors" if key == "ray" else LABELS[key]
        axes.plot([x for x, _ in points], [y for _, y in points], "o-", color=colour, label=label)
    axes.set(xlabel="workers", ylabel="seconds until all are ready")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    axes.set_title("Start")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    return figure


_CHARTS: Final[tuple[tuple[str, str, Callable[[Any, dict[str, Any]], Any]], ...]] = (
    ("throughput.svg", "calls", _calls),
    ("latency.svg", "calls", _latency),
    ("utilisation.svg", "P3", _utilisation),
    ("waits.svg", "P4", _waits),
    ("core.svg", "P5", _core),
    ("payloads.svg", "P6", _payloads),
    ("startup.svg", "P8", _startup),
)
