"""Keys on recorded conversations: `python -m bench affinity`.

The pool's own core on simulated time, so that each run gives the same figures: a model reads a prompt and writes an
answer, and a worker that has had the conversation before need not read it again.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.report import Table
from bench.samples import quantile
from poise._answers import RETURNED, Answer
from poise._core.affinity import KeyedCallRecord
from poise._core.calls import CallRecord
from poise._core.effects import Send, Start
from poise._core.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from poise._core.effects import Effect

BEGIN: Final = "<!-- bench affinity -->"
END: Final = "<!-- end of bench affinity -->"
TRACE: Final = Path(__file__).parent / "data" / "mooncake_conversation_excerpt.csv"
TICK: Final = 3.0
"""Seconds: the trace's clock. What came in one step of it is spread evenly over that."""
FIRST_NEW: Final = 99_637
"""The least number of a conversation that began in the excerpt."""
PER_TOKEN_READ: Final = 0.0001
PER_TOKEN_WRITTEN: Final = 0.002
"""Seconds: together 1.7 s for the mean request, if it is read."""
BEFORE: Final = 0.5
"""Seconds between the calls before the excerpt, one for each conversation that had begun by then. They do not count."""
SIZES: Final = (6, 8, 12)
POLICIES: Final = {
    "no key": None,
    "key": 0.0,
    "key, patience=0.5": 0.5,
    "key, patience=2": 2.0,
    "key, patience=math.inf": math.inf,
}
"""By what calls are told apart, and how long they wait for the worker that they prefer."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request: when it comes, the seconds that it takes to read and to answer, and to what it belongs."""

    at: float
    reading: float
    writing: float
    conversation: int


@dataclass(slots=True)
class Outcome:
    """What became of the turns of the excerpt, in seconds."""

    waits: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """From each turn to its answer."""
    returns: int = 0
    """Turns of conversations that there had been before."""
    hits: int = 0
    """Of those, turns that need not be read."""
    busy: float = 0.0

    @property
    def hit_rate(self) -> float:
        """The part of the returns that came to a worker which had the conversation."""
        return self.hits / self.returns


def turns() -> list[Turn]:
    """The excerpt, and before it, at negative times, one turn of each conversation that had begun by then."""
    lines = [line for line in TRACE.read_text().splitlines() if not line.startswith("#")]
    rows = [{name: int(value) for name, value in row.items()} for row in csv.DictReader(lines)]
    in_step: dict[int, list[dict[str, int]]] = {}
    for row in rows:
        in_step.setdefault(row["seconds"], []).append(row)
    recorded = [
        _turn(seconds + TICK * place / len(step), row)
        for seconds, step in in_step.items()
        for place, row in enumerate(step)
    ]
    first = {row["conversation"]: row for row in reversed(rows) if row["conversation"] < FIRST_NEW}
    begun = [first[conversation] for conversation in sorted(first)]
    return [*(_turn(BEFORE * (place - len(begun)), row) for place, row in enumerate(begun)), *recorded]


def _turn(at: float, row: dict[str, int]) -> Turn:
    return Turn(at, PER_TOKEN_READ * row["input"], PER_TOKEN_WRITTEN * row["output"], row["conversation"])


class Model:
    """A pool of such workers, in which each turn takes as long as it must."""

    def __init__(self, workers: int, patience: float | None) -> None:
        """Have all workers ready, which have had no conversation yet."""
        self.outcome: Outcome = Outcome()
        self._patience = patience
        self._now = -math.inf
        self._kept: dict[int, set[int]] = {worker_id: set() for worker_id in range(workers)}
        """Which conversations each worker has had."""
        self._known: set[int] = set()
        self._turns: dict[int, Turn] = {}
        self._ends: list[tuple[float, int, int, float]] = []
        """A heap: when a call ends, its number, its worker, and how long it took."""
        self._scheduler = Scheduler(size=workers)
        for effect in self._scheduler.open(self._now):
            assert isinstance(effect, Start)
            self._scheduler.worker_ready(effect.worker_id, self._now)

    def run(self, turns: Sequence[Turn]) -> Outcome:
        """Let all turns come, each at its time, and be answered."""
        for number, turn in enumerate(turns):
            self._pass_until(turn.at)
            self._turns[number] = turn
            self._take(self._scheduler.submit(self._record(number, turn), self._now))
        self._pass_until(math.inf)
        return self.outcome

    def _record(self, number: int, turn: Turn) -> CallRecord:
        new: Callable[..., CallRecord] = CallRecord
        if self._patience is not None:
            new = partial(KeyedCallRecord, turn.conversation, self._patience, None)
        return new(number, "answer")

    def _pass_until(self, time: float) -> None:
        while True:
            end = self._ends[0][0] if self._ends else math.inf
            due = min(end, self._scheduler.next_tick())
            if due == math.inf or due > time:
                break
            self._now = max(self._now, due)
            if end <= due:
                _, number, worker_id, seconds = heapq.heappop(self._ends)
                answer = Answer(number, RETURNED, None, seconds)
                self._take(self._scheduler.finished(worker_id, (answer,), self._now))
            else:
                self._take(self._scheduler.tick(self._now))
        self._now = max(self._now, time)

    def _take(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                for call in effect.calls:
                    self._begin(call.id, effect.worker_id)

    def _begin(self, number: int, worker_id: int) -> None:
        turn, kept = self._turns.pop(number), self._kept[worker_id]
        is_hit = turn.conversation in kept
        seconds = turn.writing + (0.0 if is_hit else turn.reading)
        heapq.heappush(self._ends, (self._now + seconds, number, worker_id, seconds))
        if turn.at >= 0:
            outcome = self.outcome
            outcome.returns += turn.conversation in self._known
            outcome.hits += is_hit
            outcome.waits.append(self._now - turn.at)
            outcome.times.append(self._now - turn.at + seconds)
            outcome.busy += seconds
        kept.add(turn.conversation)
        self._known.add(turn.conversation)


def table(workers: int) -> Table:
    """What each policy makes of the excerpt on so many workers."""
    rows: list[list[str]] = []
    recorded = turns()
    for name, patience in POLICIES.items():
        outcome = Model(workers, patience).run(recorded)
        mean, tail = sum(outcome.waits) / len(outcome.waits), quantile(outcome.waits, 0.99)
        answered = sum(outcome.times) / len(outcome.times)
        share = outcome.busy / workers / (recorded[-1].at + TICK)
        rows.append(
            [
                name,
                f"{outcome.hit_rate:.0%}",
                f"{mean:.2f} s",
                f"{tail:.1f} s",
                f"{answered:.2f} s",
                f"{share:.0%}",
            ]
        )
    heads = ["", "hits", "wait, mean", "99 of 100 within", "answered after, mean", "busy"]
    return Table(f"{workers} workers", heads, rows)


def section() -> str:
    """What stands between the markers of docs/how-to/affinity.md."""
    shown: list[str] = []
    for measured in map(table, SIZES):
        _, _, lines = measured.markdown().split("\n", 2)
        shown.append(lines.replace("|  |", f"| {measured.title} |", 1))
    return "\n\n".join(shown)


def rewrite(page: Path) -> str:
    """The text of a page with the section between its markers."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{section()}\n\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Print the tables, or write them into a page."""
    parser = argparse.ArgumentParser(prog="python -m bench affinity", description=__doc__)
    parser.add_argument("--docs", type=Path, help="rewrite the tables of this page, and print nothing")
    chosen = parser.parse_args(arguments)
    if chosen.docs is None:
        print("\n\n".join(table(workers).plain() for workers in SIZES))
    else:
        chosen.docs.write_text(rewrite(chosen.docs))
    return 0
