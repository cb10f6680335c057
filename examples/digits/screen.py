"""How the demo looks: a live table in a terminal, plain lines elsewhere, and the summary."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from examples.digits.client import Outcome
from examples.digits.progress import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console, RenderableType

    from examples.digits.progress import Progress, WorkerSeen
    from examples.digits.traffic import Plan

BARS = " ▁▂▃▄▅▆▇█"
LOAD_WIDTH = 30

LINE_EVERY = 2.0
"""Seconds between two lines where there is no terminal."""

STATE_STYLES = {"ready": "green", "starting": "yellow", "pending": "yellow", "retiring": "yellow", "gone": "red"}


def introduction(workers: int, seconds: float) -> Text:
    """What is about to be seen."""
    return Text.assemble(
        ("poise demo", "bold"),
        f": a web service that reads handwritten digits, on a pool of {workers} workers. It gets {seconds:.0f} s of "
        "recorded traffic over HTTP, in the middle of which a worker is killed with kill -9, and later all of them are "
        "replaced by new ones. Every answer is compared with the one that a single process gives for that image.\n",
    )


@contextmanager
def waiting(console: Console, why: str) -> Iterator[None]:
    """Say that something takes a moment, for as long as it does."""
    if not _is_live(console):
        console.print(f"{why} ...")
        yield
        return
    with console.status(why):
        yield


@contextmanager
def display(console: Console) -> Iterator[Callable[[Progress], None]]:
    """What shows the progress, when it is called with it: the live picture, or lines where there is no terminal."""
    if not _is_live(console):
        yield _Lines(console)
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda progress: live.update(frame(progress), refresh=True)


def _is_live(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


class _Lines:
    """Prints a line now and then, and each event."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0
        self._told = 0

    def __call__(self, progress: Progress) -> None:
        for event in progress.events[self._told :]:
            self._console.print(event, markup=False, soft_wrap=True)
        self._told = len(progress.events)
        if progress.now >= self._next:
            self._next = progress.now + LINE_EVERY
            self._console.print(line(progress), markup=False, soft_wrap=True)


def frame(progress: Progress) -> RenderableType:
    """The live picture: workers, curves, counts, events."""
    return Group(
        _heading(progress),
        Text(),
        _workers(progress),
        Text(),
        _curves(progress),
        Text(),
        _counts(progress),
        _events(progress),
    )


def line(progress: Progress) -> str:
    """The same in one line, for where there is no terminal."""
    tally, stats = progress.tally, progress.stats
    outcomes = "  ".join(f"{outcome.value} {tally.outcomes[outcome]}" for outcome in Outcome)
    latency = f"p50 {_seconds(tally.latency(0.5))}  p99 {_seconds(tally.latency(0.99))}"
    workers = f"workers {stats.ready}/{stats.size}  backlog {stats.waiting}"
    return f"{progress.now:5.1f} s  {workers}  sent {tally.sent}  {outcomes}  {latency}"


def summary(progress: Progress) -> RenderableType:
    """What it came to."""
    return Group(Text(), _balance(progress), Text(), *_complaints(progress), _verdict(progress))


# ---------------------------------------------------------------- the live picture


def _heading(progress: Progress) -> Text:
    plan = progress.plan
    done = min(progress.now, plan.seconds)
    return Text.assemble(
        ("recorded traffic", "bold"),
        f" {plan.speed:.0f} times as fast, {plan.rate:.0f} requests a second in bursts:  ",
        (f"{done:4.1f} of {plan.seconds:.0f} s", "bold cyan"),
    )


def _workers(progress: Progress) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title, justify in (("worker", "right"), ("state", "left"), ("pid", "right"), ("calls", "right")):
        table.add_column(title, justify="right" if justify == "right" else "left", min_width=8)
    table.add_column("load, last second")
    for seen in progress.workers.values():
        table.add_row(*_worker_row(seen))
    return table


def _worker_row(seen: WorkerSeen) -> tuple[RenderableType, ...]:
    worker = seen.stats
    state = "gone" if seen.is_gone else worker.state
    fill = round(seen.load * LOAD_WIDTH)
    load = Text.assemble(("━" * fill, "cyan"), ("━" * (LOAD_WIDTH - fill), "bright_black"), f" {seen.load:4.0%}")
    pid = "" if worker.pid is None else str(worker.pid)
    return (
        str(worker.id),
        Text(state, STATE_STYLES.get(state, "")),
        pid,
        f"{worker.finished:,}",
        "" if seen.is_gone else load,
    )


def _curves(progress: Progress) -> Table:
    plan, past = progress.plan, _bucket(progress, progress.now) + 1
    arrivals, waiting = plan.histogram(BUCKETS), progress.waiting
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row("arrivals", _curve(arrivals, past), f"up to {max(arrivals) * BUCKETS / plan.seconds:.0f}/s")
    table.add_row("backlog", _curve(waiting, past), f"{progress.stats.waiting}, at most {max(waiting)}")
    table.add_row("", _marks(progress), "")
    return table


def _curve(values: list[int], past: int) -> Text:
    top = max(*values, 1)
    bars = "".join(BARS[math.ceil(value / top * (len(BARS) - 1))] for value in values)
    return Text.assemble((bars[:past], "cyan"), (bars[past:], "bright_black"))


def _marks(progress: Progress) -> Text:
    """The time axis, with the death, the reload, and the recovery from both on it."""
    axis = ["─"] * BUCKETS
    text = Text("".join(axis), "bright_black")
    for at, mark, style in _moments(progress):
        place = _bucket(progress, at)
        text = Text.assemble(text[:place], (mark, style), text[place + 1 :])
    return text


def _moments(progress: Progress) -> Iterator[tuple[float, str, str]]:
    if (kill := progress.kill) is not None:
        yield kill.at, "✗", "bold red"
        if kill.whole_at is not None:
            yield kill.whole_at, "✓", "bold green"
    if (reload := progress.reload) is not None:
        yield reload.at, "↻", "bold yellow"
        if reload.done_at is not None:
            yield reload.done_at, "✓", "bold green"


def _bucket(progress: Progress, at: float) -> int:
    return min(BUCKETS - 1, int(at / progress.plan.seconds * BUCKETS))


def _counts(progress: Progress) -> Text:
    tally = progress.tally
    text = Text.assemble("sent ", (f"{tally.sent:,}", "bold"))
    for outcome in Outcome:
        count = tally.outcomes[outcome]
        text.append(f"   {outcome.value} ").append(f"{count:,}", _style(outcome, count))
    text.append(f"\nlatency   p50 {_seconds(tally.latency(0.5))}   p99 {_seconds(tally.latency(0.99))}")
    return text.append("   from when a request is due to its answer", "dim")


def _style(outcome: Outcome, count: int) -> str:
    if outcome is Outcome.ANSWERED or not count:
        return "bold"
    return "bold yellow" if outcome is Outcome.REFUSED else "bold red"


def _events(progress: Progress) -> Text:
    return Text("".join(f"\n{event}" for event in progress.events), "bold")


def _seconds(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


# ---------------------------------------------------------------- the summary


def _balance(progress: Progress) -> Table:
    tally, stats, kill = progress.tally, progress.stats, progress.kill
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    table.add_row("sent", f"{tally.sent:,}", _pace(progress.plan))
    notes = {
        Outcome.ANSWERED: "with the digit and the ten scores of a single process",
        Outcome.REFUSED: "with 503 or 504, as an overloaded service should",
        Outcome.WRONG: "an answer, but not the one for that image",
        Outcome.LOST: "another status, a broken connection, or no answer",
    }
    for outcome, note in notes.items():
        count = tally.outcomes[outcome]
        table.add_row(outcome.value, Text(f"{count:,}", _style(outcome, count)), note)
    table.add_row("deaths", f"{stats.deaths}", f"of workers; calls run again because theirs died: {stats.retried}")
    if kill is not None:
        whole = "never" if kill.took is None else f"{kill.took:.1f} s"
        table.add_row("whole after", whole, f"from kill -9 until {stats.size} workers were ready again")
    if (reload := progress.reload) is not None:
        took = "never" if reload.took is None else f"{reload.took:.1f} s"
        table.add_row("all new after", took, f"from the reload until {stats.size} new workers had taken over")
    if stats.batches:
        table.add_row("batches", f"{stats.batches:,}", f"of {stats.batched / stats.batches:.1f} calls in the mean")
    table.add_row("latency", _seconds(tally.latency(0.5)), f"p50; p99 {_seconds(tally.latency(0.99))}")
    return table


def _pace(plan: Plan) -> str:
    return f"real HTTP requests in {plan.seconds:.0f} s, {plan.speed:.0f} times as fast as recorded"


def _complaints(progress: Progress) -> list[Text]:
    shown = progress.tally.complaints[:10]
    return [Text(complaint, "red") for complaint in shown]


def _verdict(progress: Progress) -> Text:
    if progress.status == 0:
        return Text(
            "Every request got its own answer or a proper refusal; the pool healed and was reloaded.", "bold green"
        )
    if not progress.tally.is_clean:
        return Text("FAILED: requests were lost or answered wrongly.", "bold red")
    if not progress.is_whole:
        return Text("FAILED: the pool was not whole again after a worker was killed.", "bold red")
    return Text("FAILED: the workers were not replaced by new ones.", "bold red")
