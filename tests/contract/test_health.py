"""Workers that are checked, and those that are sick."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import poise
from tests.contract.desk import Desk, until
from tests.gate import Gate, leave_mark, wait_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.conftest import OpenPool

PATIENT = 60.0
"""Seconds that a check may take where that is not what is tested: workers may be slow."""


class Fault(Exception):
    """What a sick worker answers."""


class Patient(Desk):
    """Is well, until it is told otherwise."""

    def __init__(self, gate: str = "") -> None:
        super().__init__()
        self.gate = gate
        self.is_well = True
        self.checks: list[tuple[int, object]] = []

    def check(self) -> None:
        self.checks.append((threading.get_ident(), None))
        if not self.is_well or Path(f"{self.gate}.sick").exists():
            raise Fault(self.name)

    async def check_async(self) -> bool:
        self.checks.append((threading.get_ident(), asyncio.get_running_loop()))
        await asyncio.sleep(0)
        return self.is_well

    async def check_for_ever(self) -> None:
        if not self.is_well:
            await asyncio.Event().wait()

    def check_at_gate(self) -> None:
        if not self.is_well:
            wait_at(self.gate, self.name)

    def fall_sick(self) -> str:
        self.is_well = False
        return self.name

    def work(self) -> str:
        if not self.is_well:
            raise Fault(self.name)
        return self.name

    def close(self) -> None:
        if self.gate:
            leave_mark(self.gate, f"closed {self.name}")

    # ---------------------------------------------------------------- how it was checked

    def was_checked_here(self) -> tuple[int, bool]:
        return len(self.checks), {thread for thread, _ in self.checks} == {threading.get_ident()}

    async def was_checked_on_this_loop(self) -> tuple[int, bool]:
        return len(self.checks), all(loop is asyncio.get_running_loop() for _, loop in self.checks)


def spread_sickness(gate: str) -> None:
    """Have whoever is checked be found sick."""
    Path(f"{gate}.sick").touch()


def is_healed(stats: poise.Stats) -> bool:
    return stats.sick > 0 and stats.ready == stats.size == len(stats.workers)


@pytest.mark.parametrize(
    ("check", "look"),
    [(Patient.check, Patient.was_checked_here), (Patient.check_async, Patient.was_checked_on_this_loop)],
)
async def test_a_worker_is_checked_before_it_is_ready_and_then_where_its_calls_run(
    open_pool: OpenPool, check: Callable[[Patient], Any], look: Callable[[Patient], Any]
) -> None:
    async with open_pool(Patient, size=1, health=poise.Health(check, every=0.05, timeout=PATIENT)) as pool:
        times, is_here = await pool.run(look)
        assert times > 0
        assert is_here
        async with asyncio.timeout(60):
            while (await pool.run(look))[0] < times + 3:
                await asyncio.sleep(0.01)
        assert (await pool.run(look))[1]
        stats = pool.stats()
        assert (stats.sick, stats.deaths) == (0, 0)
        assert stats.completed == stats.submitted


@pytest.mark.parametrize("check", ["check", lambda patient: patient.is_well])
async def test_a_worker_whose_check_fails_is_replaced_and_no_call_is_lost(
    open_pool: OpenPool, gate: Gate, check: Any
) -> None:  # G8
    path, health = gate.path, poise.Health(check, every=0.05, timeout=PATIENT, strikes=2)
    async with open_pool(lambda: Patient(path), size=2, health=health) as pool:
        await pool.until_ready()
        sick = await pool.run(Patient.fall_sick)
        while pool.stats().sick == 0:
            await asyncio.gather(*(pool.run(Patient.slow, n, 0.002) for n in range(10)))
            await asyncio.sleep(0.01)
        stats = await until(pool, is_healed, within=90)
        assert (stats.deaths, stats.lost, stats.failed) == (0, 0, 0)
        await gate.reached()
        assert gate.marks == [f"closed {sick}"]
        assert sick not in {await pool.run(Patient.who) for _ in range(10)}


async def test_a_first_check_that_fails_is_a_failed_start(open_pool: OpenPool, gate: Gate) -> None:  # G8
    path = gate.path
    spread_sickness(path)
    pool = open_pool(lambda: Patient(path), size=1, health=poise.Health(Patient.check))
    with pytest.raises(poise.PoolBroken, match=r"its first check failed: Patient\.check raised .*Fault") as caught:
        await pool.open()
    assert isinstance(caught.value.__cause__, Fault)
    assert "in check" in str(caught.value.__cause__.__cause__)
    await gate.reached(3)
    assert len(gate.marks) >= 3, "what was made is closed"


async def test_a_replacement_that_is_sick_from_the_start_takes_nobodys_place(
    open_pool: OpenPool, gate: Gate
) -> None:  # G8
    path = gate.path
    async with open_pool(lambda: Patient(path), size=1, health=poise.Health(Patient.check, every=1e6)) as pool:
        name = await pool.run(Patient.who)
        spread_sickness(path)
        with pytest.raises(poise.ReplaceFailed, match="its first check failed"):
            await pool.replace(pool.stats().workers[0].id)
        assert await pool.run(Patient.who) == name


async def test_a_worker_whose_check_hangs_is_killed_and_no_call_waits_with_it(
    open_pool: OpenPool, gate: Gate
) -> None:  # G4, G8
    path, health = gate.path, poise.Health(Patient.check_at_gate, every=0.05, timeout=2.0, strikes=1)
    async with open_pool(lambda: Patient(path), size=1, health=health) as pool:
        name = await pool.run(Patient.fall_sick)
        await gate.reached()
        assert await pool.run(Patient.who) != name
        stats = await until(pool, is_healed, within=90)
        assert stats.deaths == stats.sick
        assert stats.lost == 0
        gate.open()


async def test_a_worker_that_is_stopped_is_killed_and_replaced(open_pool: OpenPool, lane: str) -> None:  # G8
    if lane == "local":
        pytest.skip("its workers have no process of their own")
    async with open_pool(Patient, size=1, health=poise.Health(Patient.check, every=0.2, timeout=2.0)) as pool:
        name = await pool.run(Patient.who)
        pid = pool.stats().workers[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await until(pool, is_healed, within=90)
        assert await pool.run(Patient.who) != name


async def test_a_coroutine_that_never_ends_costs_its_worker_no_call(open_pool: OpenPool) -> None:
    health = poise.Health(Patient.check_for_ever, every=0.05, timeout=1.0, strikes=2)
    async with open_pool(Patient, size=1, health=health) as pool:
        name = await pool.run(Patient.fall_sick)
        stats = await until(pool, is_healed, within=90)
        assert (stats.deaths, stats.lost) == (0, 0)
        assert await pool.run(Patient.who) != name


async def test_a_worker_whose_calls_fail_where_others_succeed_is_replaced(
    open_pool: OpenPool, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_pool(Patient, size=2, health=poise.Health(counts=Fault, failures=3)) as pool:
        await pool.until_ready()
        sick = await pool.run(Patient.fall_sick)
        failed = 0
        while pool.stats().sick == 0:
            outcomes = await asyncio.gather(*(pool.run(Patient.work) for _ in range(6)), return_exceptions=True)
            failed += sum(isinstance(outcome, Fault) for outcome in outcomes)
        await until(pool, is_healed, within=90)
        assert failed >= 3
        names = await asyncio.gather(*(pool.run(Patient.work) for _ in range(20)))
        assert sick not in names
        assert pool.stats().deaths == 0
    assert "is replaced: it has failed" in caplog.text


async def test_what_fails_everywhere_harms_no_worker(open_pool: OpenPool) -> None:
    async with open_pool(Patient, size=2, health=poise.Health(counts=ValueError, failures=1)) as pool:
        await pool.until_ready()
        before = {worker.id for worker in pool.stats().workers}
        stubborn = pool.options(retries=1, retry_on=ValueError, retry_delay=0)
        for _ in range(5):
            with pytest.raises(ValueError, match="bad"):
                await stubborn.run(lambda _: int("bad"))
        # One that starts within a millisecond may have taken the place of the first before the second try has failed.
        is_at_once = pool.stats().workers[0].lane == "local"

        def is_calm(stats: poise.Stats) -> bool:
            stayed = {worker.id for worker in stats.workers} == before
            return stats.ready == len(stats.workers) == 2 and (stayed or is_at_once)

        stats = await until(pool, is_calm, within=90)
        assert stats.sick == 0 or is_at_once
