"""`poise.testing`: pools without Ray, faults on demand, and a clock that stands still."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import poise
from poise.testing import Faults, LocalPool, ManualClock, local_pools


class Adder:
    def __init__(self, start: int = 0) -> None:
        self.total = start

    def add(self, amount: int) -> int:
        self.total += amount
        return self.total

    def echo(self, value: int) -> int:
        return value


def test_neither_poise_nor_its_testing_module_imports_ray_or_a_web_framework() -> None:
    program = """
import sys
import poise, poise.testing, poise.pytest_plugin
print(sorted({"ray", "starlette", "fastapi", "uvicorn", "click", "rich", "cryptography"} & set(sys.modules)))
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


async def test_a_local_pool_calls_what_cannot_be_pickled_by_its_factory() -> None:
    seen = threading.Event()

    class Telling(Adder):
        def echo(self, value: int) -> int:
            seen.set()
            return value

    async with LocalPool(Telling) as pool:
        assert await pool.run("echo", 1) == 1
    assert seen.is_set()


# ---------------------------------------------------------------------------------------------------------------------
# Faults


async def test_the_nth_call_kills_its_worker_and_no_other_does() -> None:
    async with LocalPool(Adder, size=1) as pool:
        pool.faults.die(on_call=2)
        assert await pool.run(Adder.echo, 1) == 1
        with pytest.raises(poise.WorkerLost, match="crashed by the test"):
            await pool.run(Adder.echo, 2)
        assert await pool.run(Adder.echo, 3) == 3
        assert pool.stats().deaths == 1


async def test_a_call_with_retries_survives_the_death_of_its_worker() -> None:
    async with LocalPool(Adder, size=1) as pool:
        pool.faults.die()
        assert await pool.options(retries=1).run(Adder.echo, 2) == 2


async def test_a_fault_may_count_the_calls_of_one_function_only() -> None:
    async with LocalPool(Adder, size=1) as pool:
        pool.faults.die(on_call=2, function=Adder.add)
        assert await pool.run(Adder.add, 1) == 1
        assert await pool.run(Adder.echo, 2) == 2
        with pytest.raises(poise.WorkerLost):
            await pool.run("add", 1)
        assert pool.faults.pending == 0


async def test_a_hanging_call_keeps_its_worker_until_that_is_killed() -> None:
    async with LocalPool(Adder, size=1, kill_after=0) as pool:
        pool.faults.hang()
        with pytest.raises(poise.DeadlineExceeded) as caught:
            await pool.options(timeout=0.05).run(Adder.echo, 1)
        assert caught.value.started
        assert await pool.run(Adder.echo, 2) == 2
        assert pool.stats().deaths == 1


async def test_a_worker_that_refuses_to_start_is_started_again() -> None:
    pool = LocalPool(Adder, size=1)
    pool.faults.refuse_start(2, cause=OSError("no weights"))
    async with pool:
        assert await pool.run(Adder.echo, 1) == 1
        assert pool.stats().deaths == 2


async def test_a_pool_whose_workers_all_refuse_to_start_is_broken_and_says_why() -> None:
    pool = LocalPool(Adder, size=1)
    pool.faults.refuse_start(3, cause=OSError("no weights"))
    with pytest.raises(poise.PoolBroken, match="OSError: no weights") as caught:
        await pool.open()
    assert isinstance(caught.value.__cause__, OSError)
    assert pool.state == "closed"


async def test_a_worker_can_be_crashed_by_its_number() -> None:
    async with LocalPool(Adder, size=1) as pool:
        pool.crash(0)
        stats = await pool.until(lambda stats: stats.deaths == 1 and stats.ready == 1)
        assert [worker.id for worker in stats.workers] == [1]


async def test_a_state_that_does_not_come_is_an_error_that_shows_the_pool() -> None:
    async with LocalPool(Adder, size=1) as pool:
        with pytest.raises(TimeoutError, match="ready=1"):
            await pool.until(lambda stats: stats.ready == 2, within=0.01)


@pytest.mark.parametrize("number", [0, -1, True, 1.5])
def test_a_fault_counts_from_one(number: int) -> None:
    with pytest.raises(poise.ConfigError, match="on_call"):
        Faults().die(on_call=number)


# ---------------------------------------------------------------------------------------------------------------------
# The clock


async def test_a_timeout_passes_when_the_test_says_so() -> None:
    clock = ManualClock()
    async with LocalPool(Adder, size=1, clock=clock) as pool:
        pool.faults.hang()
        call = pool.options(timeout=3600).submit(Adder.echo, 1)
        await pool.faults.happened()
        await clock.advance(3599)
        assert not call.done()
        await clock.advance(1)
        assert isinstance(call.exception(), poise.DeadlineExceeded)


async def test_a_worker_that_overruns_is_killed_when_the_clock_says_so() -> None:
    clock = ManualClock()
    async with LocalPool(Adder, size=1, clock=clock, kill_after=60) as pool:
        pool.faults.hang()
        call = pool.options(timeout=1).submit(Adder.echo, 1)
        await pool.faults.happened()
        await clock.advance(1)
        assert isinstance(call.exception(), poise.DeadlineExceeded)
        await clock.advance(59)
        assert pool.stats().abandoned == 1
        await clock.advance(1)
        await pool.until(lambda stats: stats.deaths == 1)


async def test_backoff_passes_when_the_test_says_so() -> None:
    clock = ManualClock()
    pool = LocalPool(Adder, size=1, clock=clock, min_ready=0)
    pool.faults.refuse_start()
    async with pool:
        stats = await pool.until(lambda stats: stats.deaths == 1)
        assert (stats.ready, stats.starting) == (0, 1)
        await clock.advance(1)
        await pool.until(lambda stats: stats.ready == 1)


async def test_a_start_that_takes_too_long_is_given_up_when_the_clock_says_so() -> None:
    clock = ManualClock()
    pool = LocalPool(Adder, size=1, clock=clock, start_timeout=30)
    pool.launcher.hold()
    opening = asyncio.ensure_future(pool.open())
    await asyncio.sleep(0)
    await clock.advance(30)
    with pytest.raises(poise.PoolBroken, match="start_timeout=30 s"):
        await opening


async def test_the_timers_of_a_clock_ring_at_their_own_moments_and_in_order() -> None:
    clock = ManualClock(now=0)
    rung: list[tuple[str, float]] = []
    clock.call_at(2, lambda: rung.append(("late", clock.time())))
    clock.call_at(1, lambda: rung.append(("early", clock.time())))
    clock.call_at(1.5, lambda: rung.append(("cancelled", clock.time()))).cancel()
    clock.call_at(9, lambda: rung.append(("never", clock.time())))
    await clock.advance(5)
    assert rung == [("early", 1), ("late", 2)]
    assert clock.time() == 5


async def test_a_clock_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="does not go back"):
        await ManualClock().advance(-1)


async def test_a_deadline_bounds_every_call_of_a_view() -> None:  # G6
    clock = ManualClock()
    async with LocalPool(Adder, size=1, clock=clock) as pool:
        view = pool.options(deadline=clock.time() + 10)
        assert await view.run(Adder.echo, 1) == 1
        pool.faults.hang()
        hurried, patient = view.options(timeout=5).submit(Adder.echo, 1), view.options(timeout=50).submit(Adder.echo, 2)
        await pool.faults.happened()
        await clock.advance(5)
        assert (hurried.done(), patient.done()) == (True, False)
        await clock.advance(5)
        assert isinstance(hurried.exception(), poise.DeadlineExceeded)
        assert isinstance(patient.exception(), poise.DeadlineExceeded)
        with pytest.raises(poise.DeadlineExceeded) as caught:
            await view.run(Adder.echo, 3)
        assert not caught.value.started


# ---------------------------------------------------------------------------------------------------------------------
# Pools of the code under test, and fixtures


async def service() -> int:
    async with poise.Pool(Adder, size=1) as pool:
        return await pool.options(retries=1).run(Adder.echo, 5)


async def test_a_pool_that_the_code_under_test_makes_is_local_within_the_block() -> None:
    with local_pools() as faults:
        faults.die()
        assert await service() == 5
        assert faults.pending == 0


async def test_the_fixtures_give_local_pools(
    poise_pool: type[LocalPool[Adder]], poise_local: Faults, poise_clock: ManualClock
) -> None:
    async with poise_pool(Adder, size=1, clock=poise_clock) as pool:
        assert await pool.run(Adder.echo, 1) == 1
    assert await service() == 5
    assert poise_local.pending == 0


def test_a_pool_that_a_test_leaves_open_fails_it(tmp_path: Path) -> None:
    test = tmp_path / "test_it.py"
    test.write_text(
        "import asyncio\n\n"
        "def test_it(poise_pool):\n"
        "    async def leave_it_open():\n"
        "        await poise_pool(dict, size=1).open()\n"
        "    asyncio.run(leave_it_open())\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert answer.returncode == 1
    assert "were not closed" in answer.stdout


def test_the_example_of_a_tested_service_passes() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "examples/test_my_service.py"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert answer.returncode == 0, answer.stdout
    assert "5 passed" in answer.stdout
