"""What befalls workers is logged: a line each, and a storm of deaths in a few."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

import poise
from poise._engine.journal import MOST_LINES, WINDOW, Journal
from poise.events import PoolEnded, WorkerDied
from poise.testing import Faults, LocalPool, ManualClock

if TYPE_CHECKING:
    from tests.gate import Gate


class Model:
    def predict(self, x: int) -> int:
        return x * 2


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "poise")


def said(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[tuple[str, str]]:
    """What the pool has logged at this level or above."""
    records = [record for record in caplog.records if record.name == "poise" and record.levelno >= level]
    return [(record.levelname, record.getMessage()) for record in records]


async def test_a_death_is_one_warning_and_the_recovery_one_line(caplog: pytest.LogCaptureFixture) -> None:
    faults = Faults()
    async with LocalPool(Model, size=1, faults=faults) as pool:
        faults.die(function=Model.predict)
        with pytest.raises(poise.WorkerLost):
            await pool.run(Model.predict, 1)
        await pool.until_ready()
    (harm, death), (good, recovery) = said(caplog)
    assert (harm, good) == ("WARNING", "INFO")
    assert death.startswith("pool of Model: worker 0 was lost while Model.predict ran on it: crashed by the test; ")
    assert "; it is replaced in about 0." in death
    assert death.endswith("; deaths so far: 1")
    assert recovery == "pool of Model: worker 1 is ready, the pool is whole again: 1 of 1 workers are ready"


async def test_an_idle_worker_may_die_too(caplog: pytest.LogCaptureFixture) -> None:
    async with LocalPool(Model, size=1) as pool:
        pool.launcher.lanes[0].crash("it fell\nand broke")
        await pool.until(lambda stats: stats.deaths == 1)
    assert "worker 0 was lost while it was idle: it fell and broke; " in said(caplog)[0][1]


async def test_a_worker_that_is_killed_past_a_deadline_says_for_which_call(caplog: pytest.LogCaptureFixture) -> None:
    clock, faults = ManualClock(), Faults()
    async with LocalPool(Model, size=1, faults=faults, clock=clock, kill_after=5.0) as pool:
        faults.hang(function=Model.predict)
        call = pool.options(timeout=1.0).submit(Model.predict, 1)
        await faults.happened()
        await clock.advance(6.0)
        with pytest.raises(poise.DeadlineExceeded):
            await call
        await pool.until(lambda stats: stats.deaths == 1)
    text = (
        "worker 0 was lost while Model.predict ran on it: killed: Model.predict still ran 5 s after its timeout of 1 s"
    )
    assert [text in line for _, line in said(caplog, logging.WARNING)] == [True]


async def test_a_start_that_fails_says_why_and_a_broken_pool_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    clock, faults = ManualClock(), Faults()
    async with LocalPool(Model, size=1, faults=faults, clock=clock) as pool:
        faults.refuse_start(100, cause=ValueError("no weights"))
        pool.launcher.lanes[0].crash()
        seen = 0

        def is_lost(stats: poise.Stats) -> bool:
            return stats.deaths > seen

        while pool.state != "broken":
            seen = (await pool.until(is_lost)).deaths
            await clock.advance(0.5)
        faults.clear()
        await clock.advance(31.0)
        await pool.until(lambda stats: stats.ready == 1)
    lines = said(caplog)
    starts = [
        line
        for line in lines
        if "could not start: the constructor raised ValueError: no weights; another is started in about" in line[1]
    ]
    assert 3 <= len(starts) <= MOST_LINES
    assert {level for level, _ in starts} == {"WARNING"}
    ((level, broken),) = [line for line in lines if "the pool is broken" in line[1]]
    assert level == "WARNING"
    assert "(starting workers is tried again and again): no worker could start (3 failed in a row): " in broken
    assert lines[-1][0] == "INFO"
    assert "is ready, the pool is no longer broken, the pool is whole again: 1 of 1 workers" in lines[-1][1]


async def test_what_is_planned_is_no_harm(caplog: pytest.LogCaptureFixture, gate: Gate) -> None:
    async with LocalPool(Model, size=3, min_ready=3) as pool:
        await pool.resize(1)
        await pool.until(lambda stats: len(stats.workers) == 1)
        await pool.resize(2)
        await pool.until_ready()
    assert said(caplog) == []
    assert any("ended as planned" in line for _, line in said(caplog, logging.DEBUG))


async def test_closing_at_once_while_calls_run_is_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    faults = Faults()
    pool = await LocalPool(Model, size=1, faults=faults).open()
    faults.hang()
    call = pool.submit(Model.predict, 1)
    await faults.happened()
    await pool.aclose()
    with pytest.raises(poise.WorkerLost):
        await call
    assert said(caplog) == []


def death(number: int, functions: tuple[str, ...] = ("f",)) -> WorkerDied:
    return WorkerDied(0.0, "Model", number, None, "crash", "it died", functions, 0.1)


async def test_a_storm_of_deaths_is_summed_up_when_its_window_ends(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    journal = Journal("Model", clock)
    for number in range(100):
        journal.worker_died(death(number))
    assert len(said(caplog)) == MOST_LINES
    await clock.advance(WINDOW)
    assert said(caplog)[MOST_LINES:] == [("WARNING", "pool of Model: 95 more deaths in 10 s")]
    journal.worker_died(death(100))
    assert said(caplog)[-1][1].endswith("deaths so far: 101")
    await clock.advance(WINDOW)
    assert len(said(caplog)) == MOST_LINES + 2


async def test_closing_tells_what_was_left_out(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    journal = Journal("Model", clock)
    for number in range(MOST_LINES + 2):
        journal.worker_died(death(number))
    await clock.advance(1.0)
    journal.pool_ended(PoolEnded(0.0, "Model"))
    assert said(caplog)[-1] == ("WARNING", "pool of Model: 2 more deaths in 1 s")
    await clock.advance(2 * WINDOW)
    assert len(said(caplog)) == MOST_LINES + 1


def test_what_ran_is_counted_by_function(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    journal = Journal("Model", loop)
    journal.worker_died(death(0, ("f", "g", "f", "h", "i", "j")))
    journal.pool_ended(PoolEnded(0.0, "Model"))
    loop.close()
    assert "while f (2 times), g, h and 2 more ran on it" in said(caplog)[0][1]
