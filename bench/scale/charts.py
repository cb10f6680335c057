"""Draws docs/bench/scale-*.svg."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bench.charts import LIMIT, OTHERS, POISE, SERIES, begin

if TYPE_CHECKING:
    from pathlib import Path

TICKS: Final = (10, 30, 100, 300, 1000, 3000)


def draw(run: dict[str, Any], folder: Path) -> None:
    """Draw all of them.

    Raises:
        ImportError: matplotlib is not installed.
    """
    plot = begin()
    folder.mkdir(parents=True, exist_ok=True)
    for name, chart in (("owner", _owner), ("bytes", _bytes), ("beyond", _beyond)):
        figure = chart(plot, run)
        figure.savefig(folder / f"scale-{name}.svg", bbox_inches="tight", metadata={"Date": None})
        plot.close(figure)


def _owner(plot: Any, run: dict[str, Any]) -> Any:
    means = sorted({row["mean"] for row in run["rising"]})
    figure, both = plot.subplots(1, len(means), figsize=(8, 3.4), sharey=True)
    for axes, mean in zip(both, means, strict=True):
        for hop, colour in (("process", POISE), ("node", LIMIT)):
            rows = [row for row in run["rising"] if row["mean"] == mean and row["hop"] == hop]
            rates = [row["rate"] for row in rows]
            label = "hop 30 us" if hop == "process" else "hop 250 us"
            axes.plot(rates, [row["p99_wait"] * 1e3 for row in rows], "o-", ms=4, color=colour, label=f"p99, {label}")
            waits = [row["mean_wait"] * 1e3 for row in rows]
            axes.plot(rates, waits, "o:", ms=3, color=colour, label=f"mean, {label}")
        # Where none waits at all in an ideal queue the point is below a logarithmic scale, and is left out.
        ideal = [row for row in run["rising"] if row["mean"] == mean and row["hop"] == "process" and row["ideal_p99"]]
        waits = [row["ideal_p99"] * 1e3 for row in ideal]
        axes.plot([row["rate"] for row in ideal], waits, "s-", ms=4, color=OTHERS, label="p99, one ideal queue")
        axes.set(yscale="log", xlabel="calls a second")
        axes.set_title(f"calls of {mean * 1e3:g} ms")
    both[0].set_ylabel("ms of wait (logarithmic)")
    both[0].legend(fontsize=7)
    figure.tight_layout()
    return figure


def _bytes(plot: Any, run: dict[str, Any]) -> Any:
    figure, axes = plot.subplots(figsize=(6, 3.2))
    rows = run["limits"]
    axes.plot([row["bytes"] for row in rows], [row["rate"] for row in rows], "o-", ms=4, color=POISE)
    axes.axhline(10_000, color=LIMIT, linestyle=":", label="10,000 a second")
    axes.set(xscale="log", yscale="log", xlabel="bytes of the argument and of the result", ylabel="calls a second")
    axes.legend(fontsize=8)
    axes.set_title("What one owner can do")
    figure.tight_layout()
    return figure


def _beyond(plot: Any, run: dict[str, Any]) -> Any:
    rows = [row for row in run["recorded"] if row["load"] == 0.9]
    kinds = list(dict.fromkeys(row["requests"] for row in rows))
    figure, both = plot.subplots(1, len(kinds), figsize=(9, 3.8), sharey=True)
    for axes, kind in zip(both, kinds, strict=True):
        own = [row for row in rows if row["requests"] == kind][::-1]
        labels = [row["way"] if row["owners"] == 1 else f"{row['way']}, {row['owners']}" for row in own]
        by_owners = {1: POISE, 4: SERIES[2], 16: SERIES[4]}
        colours = [by_owners[row["owners"]] for row in own]
        axes.barh(labels, [row["p99_wait"] * 1e3 for row in own], color=colours, height=0.7)
        axes.axvline(own[0]["ideal_p99"] * 1e3, color=LIMIT, linestyle=":", label="one ideal queue")
        axes.set(xscale="log", xlabel="ms of wait, p99 (logarithmic)", xlim=(10, 3000))
        axes.set_xticks(TICKS, [f"{tick:,}" for tick in TICKS])
        axes.minorticks_off()
        axes.set_title(f"requests of {kind}, {own[0]['offered']:,.0f} a second", fontsize=9)
        axes.tick_params(axis="y", labelsize=8)
    both[0].legend(fontsize=7)
    figure.tight_layout()
    return figure
