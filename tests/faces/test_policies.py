"""What a pool does by itself if it is asked to: options that are checked when they are made."""

from __future__ import annotations

import dataclasses
import functools
import threading
from typing import Any

import pytest

import poise
from poise.testing import LocalPool, ManualClock, local_pools
from tests.gate import Gate, wait_at


@pytest.mark.parametrize(
    ("given", "means"),
    [
        (2 << 30, 2 << 30),
        ("2GiB", 2 << 30),
        ("1.5 GiB", 3 << 29),
        ("500MB", 500_000_000),
        ("500 mb", 500_000_000),
        ("4096KiB", 4 << 20),
        ("1048576", 1 << 20),
        ("1TiB", 1 << 40),
    ],
)
def test_memory_is_bytes_or_text(given: Any, means: int) -> None:
    assert poise.Recycle(memory=given).most_bytes == means


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "give calls=, age= or memory="),
        ({"calls": 0}, "calls=0 is not allowed: a whole number of at least 1"),
        ({"calls": True}, "calls=True"),
        ({"calls": 1.5}, "calls=1.5"),
        ({"age": 0}, "age=0 is not allowed: seconds, more than zero"),
        ({"age": "1h"}, "age='1h'"),
        ({"memory": 2}, "memory=2 is not allowed: bytes, at least a mebibyte, or text such as"),
        ({"memory": "2 apples"}, "memory='2 apples'"),
        ({"memory": "-2GiB"}, "memory='-2GiB'"),
        ({"memory": True}, "memory=True"),
        ({"calls": 1, "jitter": 1}, "jitter=1 is not allowed: a part, at least 0 and less than 1"),
        ({"calls": 1, "jitter": -0.1}, "jitter=-0.1"),
        ({"calls": 1, "jitter": float("nan")}, "jitter=nan"),
        ({"calls": 1, "surge": 1}, "surge=1 is not allowed: True or False"),
        ({"age": 1, "exact": True}, "exact=True is not allowed: give calls= too"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(poise.ConfigError) as caught:
        poise.Recycle(**options)
    assert text in str(caught.value)


def test_a_rule_is_frozen() -> None:
    rule: Any = poise.Recycle(calls=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule.calls = 2
    assert rule == poise.Recycle(calls=1)


@pytest.mark.parametrize("recycle", [100, {"calls": 100}, poise.Recycle])
def test_a_pool_takes_a_rule_and_nothing_else(recycle: Any) -> None:
    for make in (poise.Pool, LocalPool, poise.Executor):
        with pytest.raises(poise.ConfigError, match=r"a poise.Recycle, such as"):
            make(recycle=recycle)


def test_who_knows_the_rule_by_another_name_is_told_ours() -> None:
    options: Any = {"max_tasks_per_child": 5}
    with pytest.raises(poise.UnknownOption, match="use recycle="):
        poise.Pool(**options)


async def test_a_pool_that_is_not_open_replaces_nobody() -> None:
    pool = LocalPool(size=1)
    with pytest.raises(poise.PoolClosed):
        await pool.replace(0)
    with pytest.raises(poise.PoolClosed):
        await pool.reload()


# ---------------------------------------------------------------------------------------------------------------------
# Health


class Model:
    def check(self) -> None: ...


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "say what a sick worker is: give a check, or counts="),
        ({"check": 5}, "check=5 is not allowed: a method of the workers' class, its name, or a function"),
        ({"check": "check", "every": 0}, "every=0 is not allowed: seconds, more than zero"),
        ({"check": "check", "every": 1e-9}, "every=1e-09 is not allowed: seconds, at least 0.001"),
        ({"check": "check", "timeout": None}, "timeout=None is not allowed: seconds, more than zero"),
        ({"check": "check", "strikes": 0}, "strikes=0 is not allowed: a whole number of at least 1"),
        ({"counts": "ValueError"}, "counts='ValueError' is not allowed: give exception classes"),
        ({"counts": (ValueError, KeyboardInterrupt)}, "KeyboardInterrupt"),
        ({"counts": ValueError, "failures": 0}, "failures=0 is not allowed: a whole number of at least 1"),
        ({"counts": ValueError, "most_out": 0}, "most_out=0 is not allowed: a part of the pool, more than 0"),
        ({"counts": ValueError, "most_out": 2}, "most_out=2"),
    ],
)
def test_a_health_that_makes_no_sense_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(poise.ConfigError) as caught:
        poise.Health(**options)
    assert text in str(caught.value)


def test_a_check_is_the_first_argument_and_has_a_name() -> None:
    assert poise.Health(Model.check).check_name == "Model.check"
    assert poise.Health("check").check_name == "check"
    assert poise.Health(functools.partial(int)).check_name == "its check"


def test_one_exception_that_counts_need_not_be_a_tuple() -> None:
    assert poise.Health(counts=ValueError).faults == (ValueError,)
    assert poise.Health(counts=ValueError) == poise.Health(counts=(ValueError,))


@pytest.mark.parametrize("health", [Model.check, True, poise.Health])
def test_a_pool_takes_a_health_and_nothing_else(health: Any) -> None:
    for make in (poise.Pool, LocalPool, poise.Executor):
        with pytest.raises(poise.ConfigError, match=r"a poise.Health, such as"):
            make(health=health)


CHECKED, ENDED = threading.Semaphore(0), threading.Event()
"""Of the module, because workers in this process find functions of modules where they are."""


def tell_of_check() -> None:
    CHECKED.release()


def check_for_ever() -> None:
    ENDED.wait()


def find_no_licence() -> None:
    raise LookupError("no licence")


def test_the_workers_of_an_executor_are_checked_too() -> None:
    health = poise.Health(tell_of_check, every=0.01)
    with local_pools(), poise.Executor(1, health=health, initializer=int) as executor:
        assert executor.submit(pow, 2, 5).result(30) == 32
        for _ in range(3):
            assert CHECKED.acquire(timeout=30)


def test_an_executor_whose_workers_are_sick_from_the_start_is_broken() -> None:
    with local_pools(), poise.Executor(1, health=poise.Health(find_no_licence)) as executor:
        error = executor.submit(pow, 2, 5).exception(60)
    assert isinstance(error, poise.PoolBroken)
    assert "its first check failed: find_no_licence raised LookupError: no licence" in str(error)


async def test_a_first_check_that_does_not_end_is_named() -> None:
    pool = LocalPool(size=1, start_timeout=0.5, close_timeout=0, health=poise.Health(check_for_ever))
    with pytest.raises(poise.PoolBroken, match="first check"):
        await pool.open()
    ENDED.set()


# ---------------------------------------------------------------------------------------------------------------------
# Elastic


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"min": -1, "max": 2}, "min=-1 is not allowed: a whole number of at least 0"),
        ({"min": 0, "max": 0}, "max=0 is not allowed: a whole number of at least 1"),
        ({"min": 3, "max": 2}, "max=2 is not allowed: at least min, which is 3"),
        ({"min": True, "max": 2}, "min=True"),
        ({"min": 0, "max": 1.5}, "max=1.5"),
        ({"min": 0, "max": 1, "idle": 0}, "idle=0 is not allowed: seconds, more than zero"),
        ({"min": 0, "max": 1, "idle": None}, "idle=None"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(poise.ConfigError) as caught:
        poise.Elastic(**options)
    assert text in str(caught.value)


@pytest.mark.parametrize("size", [(2,), (1, 2, 3), (3, 2), (0, 0), (-1, 2), (1, None), (True, 2), "12", [1, 2]])
def test_a_size_is_a_number_or_two(size: Any) -> None:
    for make in (poise.Pool, LocalPool):
        with pytest.raises(poise.ConfigError, match="size="):
            make(size=size)
    with pytest.raises(poise.ConfigError, match="max_workers="):
        poise.Executor(max_workers=size)


async def test_min_ready_is_at_most_the_most() -> None:
    with pytest.raises(poise.ConfigError, match="min_ready=5 is not allowed: at most size, which is 4"):
        LocalPool(size=(0, 4), min_ready=5)
    async with LocalPool(size=(1, 4), min_ready=4) as pool:
        assert pool.stats().ready == 1
        with pytest.raises(poise.ConfigError, match="workers=5 is not allowed: the pool has 4"):
            await pool.until_ready(5)
        for size in ((2, 1), 0):
            with pytest.raises(poise.ConfigError, match="size="):
                await pool.resize(size)


async def test_an_elastic_pool_by_a_clock_that_stands_still(gate: Gate) -> None:
    clock = ManualClock()
    async with LocalPool(size=poise.Elastic(0, 2, idle=30.0), clock=clock) as pool:
        await pool.run(abs, -1)
        await clock.advance(29.0)
        assert pool.stats().size == 1
        await clock.advance(1.0)
        assert pool.stats().size == 0
        held, waiting = pool.submit(wait_at, gate.path), pool.submit(abs, -2)
        await gate.reached()
        await clock.advance(0.1)  # longer than a start takes here
        assert await waiting == 2
        assert pool.stats().size == 2
        gate.open()
        await held


def test_an_executor_takes_bounds_too() -> None:
    class LocalExecutor(poise.Executor[Any]):
        def _make_pool(self, factory: Any, **options: Any) -> poise.Pool[Any]:
            return LocalPool(factory, **options)

    for made in (LocalExecutor((0, 2)), LocalExecutor(max_workers=poise.Elastic(0, 2))):
        with made as executor:
            assert executor.submit(abs, -1).result(10) == 1
            assert list(executor.map(abs, range(-3, 0))) == [3, 2, 1]
            assert executor.stats().most == 2
