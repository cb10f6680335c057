"""What people look at adds up, whatever happens and however much of it, and takes no more room with time."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest

import poise
from poise import events
from poise._engine.watching import watched
from poise._watch.bars import MERGED, MOST_A_SECOND
from poise._watch.history import SECONDS, Times, add_time, quantiles
from poise._watch.model import Model
from poise.stats import Stats, WorkerStats
from poise.testing import Faults, LocalPool, ManualClock
from poise.view import engine_of
from tests.gate import Gate, wait_at

if TYPE_CHECKING:
    from poise._watch.picture import Picture, Quantiles
    from poise.events import Outcome


class Source:
    """A pool that stands still, with two workers of two slots."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waiting = 0
        self.is_open = True
        self.model = Model("Model", self)

    def time(self) -> float:
        return self.now

    def phase(self) -> str:
        return "open"

    def stats(self) -> Stats | None:
        if not self.is_open:
            return None
        counts: dict[str, Any] = dict.fromkeys(Stats.__dataclass_fields__, 0)
        pids: list[int | None] = [os.getpid(), None]
        workers = tuple(worker(number, pid) for number, pid in enumerate(pids))
        return Stats(**{**counts, "waiting": self.waiting, "size": 2, "ready": 2, "workers": workers})

    def at(self, now: float) -> Picture:
        self.now = now
        picture = self.model.picture()
        assert picture is not None
        json.dumps(picture)
        return picture

    def changes(self, since: int) -> Picture:
        picture = self.model.changes(since)
        assert picture is not None
        return picture

    def begin(self, at: float, call: int, worker: int = 0, function: str = "predict") -> None:
        self.model.call_begun(events.CallBegun(at, "Model", call, function, worker, 1))

    def end(
        self,
        at: float,
        call: int,
        worker: int | None = 0,
        outcome: Outcome = "returned",
        *,
        waiting: float = 0.0,
        running: float = 0.5,
        function: str = "predict",
        is_abandoned: bool = False,
    ) -> None:
        times = waiting, 0.0, running
        attempt = int(worker is not None)
        event = events.CallEnded(at, "Model", call, function, worker, attempt, outcome, None, *times, is_abandoned)
        self.model.call_ended(event)

    def die(self, at: float, worker: int) -> None:
        self.model.worker_died(
            events.WorkerDied(at, "Model", worker, 7, "crash", "it exited", ("predict",), replaced_in=0.1)
        )


def worker(number: int, pid: int | None) -> WorkerStats:
    counts: dict[str, Any] = dict.fromkeys(("generation", "running", "ahead", "finished"), 0)
    return WorkerStats(id=number, state="ready", slots=2, leased=False, busy=0.0, age=1.0, pid=pid, **counts)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setattr("poise._watch.model.this_node", lambda: None)  # another test may have a Ray in this process
    source = Source()
    source.model.tick()
    return source


def bars(picture: Picture) -> list[tuple[int, int, str, float, float, str, int]]:
    return [
        (bar["worker"], bar["row"], bar["function"], bar["begin"], bar["end"], bar["outcome"], bar["calls"])
        for bar in picture["bars"]
    ]


def values(times: Quantiles | None) -> list[float]:
    assert times is not None
    return [times["p50"], times["p99"]]


def test_calls_are_counted_in_the_second_of_their_end(source: Source) -> None:
    source.begin(100.1, 1)
    source.end(100.6, 1, waiting=0.004, running=0.5)
    source.begin(100.7, 2)
    source.end(101.2, 2, outcome="raised", waiting=0.004, running=0.5)
    source.end(101.3, 3, None, "expired", waiting=1.0)
    source.model.call_refused(events.CallRefused(101.4, "Model", "predict", poise.Overloaded))
    picture = source.at(102.5)
    assert [each["at"] for each in picture["seconds"]] == [100, 101, 102]
    assert [each["ended"] for each in picture["seconds"]] == [{"returned": 1}, {"raised": 1, "expired": 1}, {}]
    assert [each["refused"] for each in picture["seconds"]] == [0, 1, 0]
    first, second, third = picture["seconds"]
    assert values(first["waits"]) == pytest.approx([0.004, 0.004], rel=0.05)
    assert values(second["waits"]) == pytest.approx([0.004, 1.0], rel=0.05)
    assert values(second["runs"]) == pytest.approx([0.5, 0.5], rel=0.05)
    assert (third["waits"], third["busy"]) == (None, None)
    assert picture["rate"] == 1.5
    assert values(picture["runs"]) == pytest.approx([0.5, 0.5], rel=0.05)


def test_the_share_of_busy_slots_is_exact_over_seconds_and_calls_that_still_run(source: Source) -> None:
    source.begin(100.5, 1)  # runs on
    source.begin(101.0, 2, worker=1)
    source.end(101.5, 2, worker=1)
    source.end(101.9, 3, worker=1, running=0.25)  # over before it was known to have begun
    picture = source.at(103.0)
    assert [each["busy"] for each in picture["seconds"]] == [0.5 / 4, (1 + 0.5 + 0.25) / 4, 1 / 4, None]
    assert picture["busy"] == pytest.approx((0.5 + 1.75 + 1) / 12, abs=1e-4)


def test_calls_of_a_batch_share_slots_and_a_worker_that_dies_is_busy_no_more(source: Source) -> None:
    for call in range(8):
        source.begin(100.0, call)
    source.die(100.5, 0)
    picture = source.at(102.0)
    assert [each["busy"] for each in picture["seconds"]] == [2 * 0.5 / 4, 0.0, None]
    assert [each["deaths"] for each in picture["seconds"]] == [1, 0, 0]
    assert picture["deaths"] == [
        {
            "at": 100.5,
            "worker": 0,
            "pid": 7,
            "cause": "crash",
            "reason": "it exited",
            "functions": ["predict"],
            "replaced_in": 0.1,
        }
    ]


def test_what_runs_now_is_told_with_its_slot_and_since_when(source: Source) -> None:
    source.begin(100.1, 1)
    source.begin(100.2, 2, function="train")
    source.end(100.3, 1)
    source.begin(100.4, 3)
    first, second = source.at(101.0)["workers"]
    assert first["calls"] == [
        {"call": 2, "function": "train", "row": 1, "since": 100.2},
        {"call": 3, "function": "predict", "row": 0, "since": 100.4},
    ]
    assert first["is_here"]
    assert first["resident"] is not None
    assert first["resident"] > 1 << 20
    assert first["cpu"] is not None
    assert (second["calls"], second["is_here"], second["resident"], second["cpu"]) == ([], False, None, None)


def test_bars_are_what_ran_where_from_when_to_when(source: Source) -> None:
    source.begin(100.0, 1)
    source.begin(100.1, 2)
    source.end(101.0, 1)
    source.begin(101.0, 3)
    source.end(101.5, 3, outcome="expired", is_abandoned=True)
    who = "Model", 2, "predict", 0, 1
    source.model.call_put_back(events.CallPutBack(102.0, *who, is_retry=True))
    source.model.call_released(events.CallReleased(103.0, "Model", 3, "predict", 0, 1, 2.0))
    source.begin(103.0, 4)
    source.model.call_put_back(events.CallPutBack(103.2, "Model", 4, "predict", 0, 1, is_retry=False))
    source.model.call_put_back(events.CallPutBack(103.2, "Model", 5, "predict", 9, 1, is_retry=True))
    source.model.call_released(events.CallReleased(103.2, "Model", 6, "predict", 9, 1, 2.0))
    source.end(103.3, 7, outcome="cancelled")
    assert bars(source.at(104.0)) == [
        (0, 0, "predict", 100.0, 101.0, "returned", 1),
        (0, 1, "predict", 100.1, 102.0, "retry", 1),
        (0, 0, "predict", 101.0, 103.0, "expired", 1),
    ]


def test_short_calls_that_follow_each_other_are_one_bar_that_grows(source: Source) -> None:
    for number in range(100):
        source.end(100.001 + number / 1000, number, running=0.0009)
    picture = source.at(100.2)
    (bar,) = picture["bars"]
    assert bar["calls"] == 100
    assert bar["end"] == pytest.approx(100.1)
    seen = picture["mark"]
    source.end(100.21, 100, running=0.001, function="other")
    source.end(100.2 + MERGED, 101, running=0.001)
    assert [bar["function"] for bar in source.changes(seen)["bars"]] == ["other", "predict"]
    assert source.changes(source.changes(seen)["mark"])["bars"] == []


def test_what_has_changed_makes_up_the_whole_picture(source: Source) -> None:
    chance = random.Random(4)
    known: dict[Any, Any] = {}
    seconds: dict[int, Any] = {}
    seen, now, held = 0, 100.0, list[tuple[int, int]]()
    for call in range(3000):
        now += chance.choice((0.0, 0.0005, 0.004, 0.05, 1.1)) * chance.random()
        if chance.random() < 0.5:
            source.begin(now, call, number := chance.randrange(2))
            held.append((call, number))
        elif held:
            source.end(now, *held.pop(chance.randrange(len(held))))
        else:
            source.end(now, call, chance.randrange(2), running=chance.random() / 100)
        if chance.random() < 0.1:
            source.now = now
            picture = source.changes(seen)
            seen = picture["mark"]
            known |= {bar["id"]: bar for bar in picture["bars"]}
            seconds |= {second["at"]: second for second in picture["seconds"]}
    picture = source.changes(seen)
    known |= {bar["id"]: bar for bar in picture["bars"]}
    seconds |= {second["at"]: second for second in picture["seconds"]}
    whole = source.at(source.now)
    assert sorted(known.values(), key=str) == sorted(whole["bars"], key=str)
    assert list(seconds.values())[-SECONDS:] == whole["seconds"]
    drawn: dict[tuple[int, int], float] = {}
    for bar in sorted(whole["bars"], key=lambda bar: bar["begin"]):
        place = bar["worker"], bar["row"]
        assert drawn.get(place, 0.0) <= bar["begin"] + 1e-9 <= bar["end"] + 2e-9, "two bars of a row overlap"
        drawn[place] = bar["end"]
    bare = source.model.changes(0, bars=False)
    assert bare is not None
    assert not bare["bars"]


def test_it_is_bounded(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2 * MOST_A_SECOND):
        source.end(100.5, number, running=0.0, function=f"f{number}")
    for number in range(50):
        source.die(100.6, number)
    picture = source.at(100.7)
    assert (len(picture["bars"]), picture["hidden"]) == (MOST_A_SECOND, MOST_A_SECOND)
    assert [death["worker"] for death in picture["deaths"]] == list(range(30, 50))
    picture = source.at(100.7 + 2 * SECONDS)  # nobody looked for long
    assert len(picture["seconds"]) == 1
    picture = source.at(source.now + SECONDS - 1)
    picture = source.at(source.now + 10)
    assert len(picture["seconds"]) == SECONDS
    assert picture["seconds"][-1]["at"] == int(source.now)


def test_the_backlog_is_what_waited_at_the_end_of_each_second(source: Source) -> None:
    for now, waiting in (100.9, 5), (101.2, 7), (103.4, 2):
        source.now, source.waiting = now, waiting
        source.model.tick()
    assert [each["backlog"] for each in source.at(103.5)["seconds"]] == [7, 2, 2, 2]


def test_a_ray_that_another_thread_is_importing_is_none(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    assert source.at(101.0)["workers"][0]["is_here"]


def test_of_a_pool_that_is_not_open_there_is_nothing_to_see(source: Source) -> None:
    source.is_open = False
    assert source.model.picture() is None
    source.model.tick()


def test_quantiles_are_within_five_percent() -> None:
    chance = random.Random(1)
    given = sorted(chance.lognormvariate(-6, 3) for _ in range(10_000))
    times = Times(int)
    for each in given:
        add_time(times, each)
    assert values(quantiles([times])) == pytest.approx([given[5000], given[9900]], rel=0.06)
    times = Times(int)
    add_time(times, 0.0)
    assert quantiles([times]) == {"p50": 0.0, "p99": 0.0}
    assert quantiles([]) is None


async def test_a_real_pool_is_seen_whole(gate: Gate) -> None:
    faults = Faults()
    pool = LocalPool(size=2, min_ready=2, concurrency=2, faults=faults)
    model = watched(engine_of(pool))
    assert watched(engine_of(pool)) is model
    assert model.picture() is None
    async with pool:
        await asyncio.gather(*(pool.submit(abs, -number) for number in range(500)))
        faults.die(function=abs)
        with pytest.raises(poise.WorkerLost):
            await pool.run(abs, -1)
        await pool.until_ready()
        call = pool.submit(wait_at, gate.path)
        await pool.until(lambda stats: stats.running == 1)
        await asyncio.sleep(0)  # what befalls is told a moment later
        picture = model.picture()
        assert picture is not None
        json.dumps(picture)
        gate.open()
        await call
    assert (picture["pool"], picture["state"], picture["ready"], picture["size"]) == (
        repr(engine_of(pool)),
        "open",
        2,
        2,
    )
    assert sum(sum(second["ended"].values()) for second in picture["seconds"]) == 501
    assert picture["totals"]["completed"] == 500
    assert sum(bar["calls"] for bar in picture["bars"]) == 501
    assert [death["cause"] for death in picture["deaths"]] == ["crash"]
    assert [call["function"] for worker in picture["workers"] for call in worker["calls"]] == ["wait_at"]
    over = model.picture()
    assert over is not None
    assert over["state"] == "closed"


async def test_a_pool_that_is_watched_late_is_seen_from_then_on() -> None:
    clock = ManualClock()
    async with LocalPool(size=1, clock=clock) as pool:
        await pool.run(abs, -1)
        model = watched(engine_of(pool))
        await pool.run(abs, -1)
        await clock.advance(3)
        picture = model.picture()
        assert picture is not None
        assert [second["at"] for second in picture["seconds"]] == [1000, 1001, 1002, 1003]
        assert picture["seconds"][0]["ended"] == {"returned": 1}
        assert picture["totals"]["completed"] == 2
