"""What `poise top` draws of a pool."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from poise._watch.picture import DeathPicture, Picture, Quantiles, SecondPicture, WorkerPicture

KEYS: Final = "↑↓ worker   r replace it   k its stack   s resize   d drain   tab next pool   q quit"
SPARKS: Final = "▁▂▃▄▅▆▇█"
SPAN: Final = 60
"""Seconds that a sparkline shows."""
DEATHS: Final = 3
"""Deaths that are shown."""
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_COLOURS: Final = {"ready": "green", "starting": "yellow", "pending": "yellow", "retiring": "yellow"}


@dataclass
class Scene:
    """What there is to draw."""

    picture: Picture
    seconds: Sequence[SecondPicture]
    """Those of the picture and of those before it."""
    title: str
    cpu: dict[int, float] = field(default_factory=dict[int, float])
    """The share of a processor that each worker takes."""
    chosen: int | None = None
    """The worker that keys are about."""
    rows: int | None = None
    """How many workers there is room for; None if for all."""
    notice: str = ""
    """What is to be read first."""
    footer: str = KEYS


def draw(scene: Scene) -> RenderableType:
    """One frame."""
    picture = scene.picture
    parts: list[RenderableType] = [_heading(scene)]
    if scene.notice:
        parts.append(Text(scene.notice, style="bold yellow"))
    parts += [_numbers(picture), _lines(scene.seconds), Text(), _workers(scene)]
    if picture["deaths"]:
        parts += [Text(), _deaths(picture["deaths"], picture["now"])]
    parts += [Text(), Text(scene.footer, style="reverse", no_wrap=True, overflow="ellipsis")]
    return Group(*parts)


def _heading(scene: Scene) -> Text:
    picture = scene.picture
    state, size = picture["state"], picture["size"]
    bounds = "" if picture["least"] == picture["most"] else f" (of {picture['least']} to {picture['most']})"
    return Text.assemble(
        (scene.title, "bold"),
        "   ",
        (state, "bold green" if state == "open" else "bold yellow"),
        f"   {picture['ready']} of {size} workers ready{bounds}",
        f", {picture['starting']} starting" if picture["starting"] else "",
    )


def _numbers(picture: Picture) -> Table:
    totals = picture["totals"]
    table = Table.grid(padding=(0, 3))
    busy = "-" if picture["busy"] is None else f"{picture['busy']:.0%}"
    table.add_row(
        "now",
        f"{picture['running']} running",
        f"{picture['ahead']} ahead",
        _loud(f"{picture['waiting'] + picture['parked']} waiting", is_loud=picture["waiting"] > 0),
        _loud(f"{picture['abandoned']} abandoned", is_loud=picture["abandoned"] > 0),
        f"{busy} busy",
    )
    table.add_row(
        "lately",
        f"{picture['rate']:,.0f} calls/s",
        f"waits p50 {_quantile(picture['waits'], 'p50')}",
        f"p99 {_quantile(picture['waits'], 'p99')}",
        f"runs p50 {_quantile(picture['runs'], 'p50')}",
        f"p99 {_quantile(picture['runs'], 'p99')}",
    )
    table.add_row(
        "so far",
        f"{totals['completed']:,} answered",
        _loud(f"{totals['failed']:,} failed", is_loud=totals["failed"] > 0),
        f"{totals['expired'] + totals['cancelled']:,} given up",
        _loud(f"{totals['rejected']:,} refused", is_loud=totals["rejected"] > 0),
        _loud(f"{totals['lost']:,} lost, {totals['deaths']:,} deaths", is_loud=totals["lost"] + totals["deaths"] > 0),
    )
    return table


def _loud(text: str, *, is_loud: bool) -> Text:
    return Text(text, style="yellow" if is_loud else "")


def _lines(seconds: Sequence[SecondPicture]) -> Table:
    past = list(seconds)[-SPAN - 1 : -1]  # the present one is not over
    table = Table.grid(padding=(0, 3))
    rows: dict[str, list[float]] = {
        "calls/s": [sum(second["ended"].values()) for second in past],
        "backlog": [second["backlog"] for second in past],
        "busy": [second["busy"] or 0.0 for second in past],
        "wait p99": [0.0 if second["waits"] is None else second["waits"]["p99"] for second in past],
    }
    for name, values in rows.items():
        most = max(values, default=0.0)
        top = {"busy": f"{most:.0%}", "wait p99": duration(most)}.get(name, f"{most:,.0f}")
        scale = 1.0 if name == "busy" else most
        table.add_row(name, Text(spark(values, scale), style="cyan"), f"at most {top} in {len(past)} s")
    return table


def spark(values: Sequence[float], most: float) -> str:
    """A line of blocks, as high as each of the values is beside the most."""
    last = len(SPARKS) - 1
    return "".join(SPARKS[min(last, round(value / most * last)) if most else 0] for value in values)


def _workers(scene: Scene) -> Table:
    workers = scene.picture["workers"]
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False, expand=True)
    table.add_column("", width=1)
    for name in ("worker", "state", "pid", "node"):
        table.add_column(name, no_wrap=True)
    for name in ("gen", "done", "ahead"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("runs", no_wrap=True, overflow="ellipsis", ratio=1)
    for name in ("for", "memory", "cpu"):
        table.add_column(name, justify="right", no_wrap=True)
    for worker in _in_view(workers, scene):
        is_chosen = worker["id"] == scene.chosen
        table.add_row(
            "▶" if is_chosen else "",
            str(worker["id"]),
            _state(worker),
            "" if worker["pid"] is None else str(worker["pid"]),
            "here" if worker["is_here"] else (worker["node"] or worker["lane"])[:8],
            str(worker["generation"]),
            f"{worker['finished']:,}",
            str(worker["ahead"]),
            _runs(worker),
            duration(scene.picture["now"] - worker["calls"][0]["since"]) if worker["calls"] else "",
            "" if worker["resident"] is None else size_of(worker["resident"]),
            "" if worker["id"] not in scene.cpu else f"{scene.cpu[worker['id']]:.0%}",
            style="bold" if is_chosen else "",
        )
    hidden = len(workers) - table.row_count
    if hidden > 0:
        table.add_row("", "", f"and {hidden} more", style="dim")
    return table


def _in_view(workers: list[WorkerPicture], scene: Scene) -> list[WorkerPicture]:
    """As many as there is room for, the chosen one among them."""
    if scene.rows is None or len(workers) <= scene.rows:
        return workers
    place = next((place for place, worker in enumerate(workers) if worker["id"] == scene.chosen), 0)
    rows = max(1, scene.rows - 1)  # the last one says how many are left out
    first = min(max(0, place - rows // 2), len(workers) - rows)
    return workers[first : first + rows]


def _state(worker: WorkerPicture) -> Text:
    more = ", sick" if worker["quarantined"] else ", leased" if worker["leased"] else ""
    style = "red" if worker["quarantined"] else _COLOURS.get(worker["state"], "")
    return Text(worker["state"] + more, style=style)


def _runs(worker: WorkerPicture) -> Text:
    names = [call["function"] for call in worker["calls"]]
    return plain("" if not names else names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more")


def plain(text: str) -> Text:
    """What a program has said, as it is: neither rich nor the terminal is to obey it."""
    return Text(_CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text))


def _deaths(deaths: list[DeathPicture], now: float) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False, expand=True)
    for name in ("last deaths", "worker", "cause"):
        table.add_column(name, no_wrap=True)
    table.add_column("why", overflow="ellipsis", no_wrap=True, ratio=1)
    for death in reversed(deaths[-DEATHS:]):
        ran = f" while {', '.join(death['functions'])} ran" if death["functions"] else ""
        ago = f"{duration(now - death['at'])} ago"
        table.add_row(ago, str(death["worker"]), Text(death["cause"], style="red"), plain(death["reason"] + ran))
    return table


def _quantile(times: Quantiles | None, which: str) -> str:
    return "-" if times is None else duration(times["p50" if which == "p50" else "p99"])


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h"


def size_of(memory: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KB", "MB"):
        if memory < 1000:
            return f"{memory:.3g} {unit}"
        memory /= 1024
    return f"{memory:.3g} GB"
