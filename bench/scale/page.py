"""The tables of docs/scaling.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bench.report import Table

if TYPE_CHECKING:
    from pathlib import Path

PARTS: Final = ("limits", "rising", "recorded", "decisions")
"""What stands between markers of the page, each by itself."""
HOPS: Final = {"process": "30 us", "node": "250 us"}


def tables(run: dict[str, Any]) -> list[Table]:
    """Everything, in the order of `PARTS`; what was not measured is left out."""
    return [table(run, part) for part in PARTS if part != "decisions" or run["measured"]]


def table(run: dict[str, Any], part: str) -> Table:
    """One of them."""
    if part == "limits":
        heads = ["bytes of argument and of result", "owner's processor a call", "calls a second"]
        rows = [[f"{row['bytes']:,}", f"{row['owner'] * 1e6:.1f} us", f"{row['rate']:,.0f}"] for row in run["limits"]]
        return Table("One owner's limit", heads, rows)
    if part == "rising":
        return _rising(run)
    if part == "recorded":
        return _recorded(run)
    measured = run["measured"]
    heads = ["waiting", "workers", "a decision, best and median of five"]
    rows = [
        [
            f"{each['waiting']:,}",
            f"{each['workers']:,}",
            f"{min(each['seconds']) * 1e6:.1f}, {sorted(each['seconds'])[2] * 1e6:.1f} us",
        ]
        for each in measured["decisions"]
    ]
    title = f"A waiting call takes {measured['core_bytes']:.0f} B in the core, {measured['pool_bytes']:.0f} B in a pool"
    return Table(title, heads, rows)


def _rising(run: dict[str, Any]) -> Table:
    rows = [
        [
            f"{row['mean'] * 1e3:g} ms",
            f"{row['rate']:,}",
            HOPS[row["hop"]],
            f"{row['busy']:.0%}",
            f"{row['mean'] * row['rate'] / 1000:.0%}",
            *_waits(row),
        ]
        for row in run["rising"]
    ]
    heads = ["a call", "calls a second", "a hop", "owner busy", "load", *_WAITS]
    return Table("One owner, 1,000 workers", heads, rows)


def _recorded(run: dict[str, Any]) -> Table:
    rows = [
        [
            f"{row['requests']}, {row['load']:.0%}",
            row["way"] if row["owners"] == 1 else f"{row['owners']} owners, {row['way']}",
            f"{row['offered']:,.0f}",
            f"{row['busy']:.0%}",
            *_waits(row),
        ]
        for row in run["recorded"]
    ]
    heads = ["a request, load", "", "calls a second", "busiest owner", *_WAITS]
    return Table("Recorded requests", heads, rows)


_WAITS: Final = ("mean wait", "ideal", "p99", "ideal")


def _waits(row: dict[str, Any]) -> list[str]:
    """The cells of these columns."""
    return [_ms(row[name]) for name in ("mean_wait", "ideal_mean", "p99_wait", "ideal_p99")]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds < 0.01 else f"{seconds * 1e3:.0f} ms"


def rewrite(page: Path, run: dict[str, Any]) -> str:
    """The text of the page with every table between its markers."""
    text = page.read_text()
    for part in PARTS:
        if part == "decisions" and not run["measured"]:
            continue
        begin, end = f"<!-- bench scale: {part} -->", f"<!-- end of {part} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        _, _, lines = table(run, part).markdown().split("\n", 2)
        text = f"{before}{begin}\n\n{lines}\n\n{end}{after}"
    return text
