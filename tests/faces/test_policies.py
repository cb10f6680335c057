"""What a pool does by itself if it is asked to: options that are checked when they are made."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import poise
from poise.testing import LocalPool


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
