"""The tables of a run: for the terminal, and for the documentation."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench.contenders import CONTENDERS
from bench.samples import Spread, quantile, ratios
from bench.targets import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

BEGIN: Final = "<!-- bench:begin -->"
END: Final = "<!-- bench:end -->"
LABELS: Final = {kind.key: kind.label for kind in CONTENDERS} | {
    "none": "no pool at all",
    "beside": "no pool at all, beside a caller that is as busy",
    "socket": "socket only",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A title, heads and rows of text; the first column is text, the others are figures."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_text: bool = False
    """Whether the other columns are text too."""

    def plain(self) -> str:
        """For a terminal."""
        lines = [self.heads, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.heads))]
        rendered = [
            "  ".join(
                cell.ljust(width) if not column or self.is_text else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self.title, rendered[0], "-" * len(rendered[0]), *rendered[1:]])

    def markdown(self) -> str:
        """For the documentation."""
        rule = ["---" if not column or self.is_text else "---:" for column in range(len(self.heads))]
        lines = [self.heads, rule, *self.rows]
        return "\n".join([f"### {self.title}", "", *(f"| {' | '.join(line)} |" for line in lines)])


def tables(run: dict[str, Any]) -> list[Table]:
    """Everything that was measured; parts that were not are left out."""
    results = run["results"]
    made = [targets_table(findings_of(run))]
    if "calls" in results:
        made += [_calls_table(results["calls"]), _usage_table(results["calls"])]
    if "P3" in results:
        made.append(_utilisation_table(results["P3"]))
    if "P4" in results:
        made.append(_replay_table(results["P4"]))
    if "P5" in results:
        made.append(_core_table(results["P5"]))
    if "P6" in results:
        made.append(_payload_table(results["P6"]))
        if results["P6"].get("others"):
            made.append(_kinds_table(results["P6"]["others"]))
    if "P8" in results:
        made.append(_startup_table(results["P8"]))
    if run["troubles"]:
        made.append(
            Table("Not measured", ["what", "why"], [list(item) for item in run["troubles"].items()], is_text=True)
        )
    return made


def findings_of(run: dict[str, Any]) -> list[Finding]:
    """The findings that a run's JSON holds."""
    return [Finding(**each) for each in run["findings"]]


def targets_table(findings: Iterable[Finding]) -> Table:
    """Every target: wanted, measured, met or not."""
    rows = [[each.part, each.claim, each.target, each.measured, each.verdict] for each in findings]
    return Table("Targets", ["", "what", "target", "measured (middle half)", "verdict"], rows, is_text=True)


def spread(values: Iterable[float], scale: float = 1.0, form: str = ",.3g") -> str:
    """A median, with the middle half of the repetitions if there are several."""
    scaled = [value * scale for value in values]
    if not scaled:
        return "-"
    each = Spread.of(scaled)
    text = format(each.median, form)
    return text if each.count == 1 else f"{text} ({format(each.low, form)} to {format(each.high, form)})"


def _calls_table(result: dict[str, Any]) -> Table:
    records = result["contenders"]
    express = records["express"]
    rows = [
        [
            record["label"],
            spread(record["rate"].values(), form=",.0f"),
            _times(ratios(express["rate"], record["rate"])),
            spread(record["p50"].values(), 1e3),
            spread(record["p99"].values(), 1e3),
            _times(ratios(record["p50"], express["p50"])),
        ]
        for record in records.values()
        if record["p50"]
    ]
    heads = ["", "calls a second, together", "poise is", "p50, one at a time, ms", "p99, ms", "poise is"]
    return Table("Tiny calls, 2 workers (P1, P2)", heads, rows)


def _usage_table(result: dict[str, Any]) -> Table:
    """What the latencies are made of: a sleep is a thread that waits for another, and has to be woken."""
    rows = [
        [
            record["label"],
            *(
                spread([each[part] for each in record.get(whose, {}).values()], scale, form)
                for whose in ("caller", "workers")
                for part, scale, form in ((0, 1, ".2f"), (1, 1e6, ",.0f"))
            ),
        ]
        for record in result["contenders"].values()
        if record.get("caller")
    ]
    heads = ["", "sleeps of the caller", "its processor, us", "sleeps of the workers", "their processor, us"]
    return Table("What one call at a time takes, all threads of these processes together (P2)", heads, rows)


def _times(values: Sequence[float]) -> str:
    return f"{quantile(values, 0.5):.3g}x" if values else "-"


def _utilisation_table(result: dict[str, Any]) -> Table:
    rows: list[list[str]] = []
    for load, by_contender in result["utilisation"].items():
        for key, by_turn in by_contender.items():
            rates = result["rate"].get(load, {})
            against = [ratios(rates.get(key, {}), rates.get(bare, {})) for bare in ("none", "beside")]
            cells = [spread(each, form=".3f") for each in against]
            rows.append([f"{load}: {LABELS[key]}", spread(by_turn.values(), form=".3f"), *cells])
    heads = ["", "part of the workers' time in calls"]
    heads += ["calls a second against no pool at all", "against none beside a caller as busy as poise"]
    return Table("Utilisation (P3)", heads, rows)


def _replay_table(result: dict[str, Any]) -> Table:
    rows: list[list[str]] = []
    for load, by_contender in result["loads"].items():
        for key, runs in by_contender.items():
            cells = [f"{load}: {LABELS[key]}", spread([run["utilisation"] for run in runs], form=".2f")]
            for name in ("mean", "p99"):
                cells.append(spread([run[name] for run in runs], 1e3))
                cells.append(spread([run[f"ideal_{name}"] for run in runs], 1e3))
            cells.append(_times([run["mean"] / run["ideal_mean"] for run in runs if run["ideal_mean"]]))
            cells.append(_times([run["p99"] / run["ideal_p99"] for run in runs if run["ideal_p99"]]))
            cells.append(f"{sum(run['held_up'] for run in runs)} of {sum(run['calls'] for run in runs)}")
            rows.append(cells)
    heads = ["", "busy", "mean wait, ms", "ideal", "p99 wait, ms", "ideal", "mean", "p99", "held up"]
    return Table("Calls that come by themselves, against an ideal single queue (P4)", heads, rows)


def _core_table(result: dict[str, Any]) -> Table:
    rows = [
        [
            f"{each['waiting']:,}",
            f"{each['workers']:,}",
            "sent ahead" if each["sends_ahead"] else "late bound",
            spread(each["seconds"], 1e6),
        ]
        for each in result["costs"]
    ]
    sizes = ", ".join(
        f"{result[key]:,.0f} B in {where}"
        for key, where in (("core_bytes", "the core"), ("pool_bytes", "the whole pool"))
        if key in result
    )
    title = f"The scheduler alone (P5); a waiting call takes {sizes}"
    return Table(title, ["waiting", "workers", "placement", "us a decision"], rows)


def _payload_table(result: dict[str, Any]) -> Table:
    seconds = result["seconds"]
    ways = [name for name in ("express", "socket", "freight", "ray") if name in seconds]
    rows = [
        [f"{int(size):,}", *(spread(seconds[way].get(size, {}).values(), 1e3) for way in ways)]
        for size in seconds.get("express", {})
    ]
    at = result["crossover"]
    found = "the socket is faster at every size" if at is None else f"freight is faster from {at:,.0f} bytes on"
    title = f"Echo of an array, ms (P6); {found}, and DEPOSIT is {result['deposit']:,}"
    return Table(title, ["bytes", *(f"{LABELS[way]}" for way in ways)], rows)


def _kinds_table(others: dict[str, Any]) -> Table:
    ways = ("express", "freight", "ray")
    rows = [
        [kind, f"{int(size):,}", *(spread(seconds[way].get(size, {}).values(), 1e3) for way in ways)]
        for kind, seconds in others.items()
        for size in seconds["express"]
    ]
    return Table("Echo of other large values, ms (P6)", ["", "bytes", *(LABELS[way] for way in ways)], rows)


def _startup_table(result: dict[str, Any]) -> Table:
    seconds = result["seconds"]
    counts = list(next(iter(seconds.values()), {}))
    rows = [
        [LABELS[key], *(spread(by_count.get(count, {}).values()) for count in counts)]
        for key, by_count in seconds.items()
    ]
    return Table("Seconds until N workers are ready (P8)", ["", *(f"N = {count}" for count in counts)], rows)


def headline(run: dict[str, Any]) -> str:
    """Where and when a run was made, in one line."""
    machine = run["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    size = "quick run" if run["quick"] else "full run"
    return (
        f"{run['started'][:10]}, {size}, {machine['cores']} cores of {machine['processor']}, {machine['memory']}, "
        f"{machine['system']}, CPython {machine['python']}, {packages}"
    )


def generated_section(run: dict[str, Any], charts: Sequence[str]) -> str:
    """What stands between the markers of docs/benchmarks.md."""
    parts = [f"Measured by `{run['command']}`: {headline(run)}.", *(table.markdown() for table in tables(run))]
    parts += [f"![{name.removesuffix('.svg').replace('-', ' ')}](bench/{name})" for name in charts]
    return "\n\n".join(parts)


def rewrite(page: Path, section: str) -> None:
    """Put the section between the markers of a page.

    Raises:
        ValueError: the page does not have both markers, in order.
    """
    text = page.read_text()
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    new, count = pattern.subn(lambda _: f"{BEGIN}\n\n{section}\n\n{END}", text)
    if count != 1:
        raise ValueError(f"{page} must have {BEGIN} and after it {END}")
    page.write_text(new)


def show(run: dict[str, Any]) -> None:
    """Print everything; with colours on a terminal, where rich is installed."""
    try:
        if sys.stdout.isatty():
            _show_richly(run)
            return
    except ImportError:
        pass
    print("\n\n".join([headline(run), *(table.plain() for table in tables(run))]))


def _show_richly(run: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    console = Console()
    console.print(escape(headline(run)), style="dim")
    for table in tables(run):
        shown = RichTable(title=escape(table.title), title_justify="left", title_style="bold")
        for column, head in enumerate(table.heads):
            shown.add_column(escape(head), justify="left" if not column or table.is_text else "right")
        for row in table.rows:
            shown.add_row(*(escape(cell) for cell in row), style=_STYLES.get(row[-1]))
        console.print(shown)


_STYLES: Final = {"met": "green", "NOT met": "bold red", "not measured": "yellow"}
