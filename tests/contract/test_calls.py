"""Calls and their results: whatever can be called arrives, and each caller gets its own answer."""

from __future__ import annotations

import asyncio
import functools
import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import poise
from tests.contract.desk import Desk, Picky

if TYPE_CHECKING:
    from tests.contract.conftest import OpenPool

pytestmark = pytest.mark.asyncio(loop_scope="module")

Desks = poise.Pool[Desk]


async def test_run_waits_for_the_result(desks: Desks) -> None:
    assert await desks.run(Desk.echo, 7) == 7


async def test_submit_gives_a_future_at_once(desks: Desks) -> None:
    call = desks.submit(Desk.echo, 7)
    assert not call.done()
    assert await call == 7
    assert call.done()
    assert call.result() == 7


async def test_calls_take_positional_and_keyword_arguments(desks: Desks) -> None:
    assert await desks.run(Desk.join, "a", "b", sep="+", c="d") == "a+b+c=d"


async def test_keyword_arguments_may_have_any_name(desks: Desks) -> None:
    assert await desks.run("join", fn="1", self_="2", args="3", timeout="4") == "fn=1-self_=2-args=3-timeout=4"


async def test_a_method_may_be_given_by_its_name(desks: Desks) -> None:
    assert await desks.run("echo", "x") == "x"


async def test_an_unknown_name_says_what_there_is(desks: Desks) -> None:
    with pytest.raises(AttributeError, match="echo"):
        await desks.run("ecko", "x")


async def test_a_lambda_runs_beside_the_instance(desks: Desks) -> None:
    outer = 3
    assert await desks.run(lambda desk, x: (type(desk).__name__, x * outer), 5) == ("Desk", 15)


async def test_a_partial_runs_beside_the_instance(desks: Desks) -> None:
    assert await desks.run(functools.partial(Desk.join, sep="/"), "a", "b") == "a/b"


async def test_an_async_function_runs_beside_the_instance(desks: Desks) -> None:
    async def double(desk: Desk, x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    assert await desks.run(double, 4) == 8


async def test_an_async_method_is_awaited_in_the_worker(desks: Desks) -> None:
    assert await desks.run(Desk.async_echo, "x") == "x"


async def test_a_coroutine_that_a_plain_function_returns_is_awaited_too(desks: Desks) -> None:
    assert await desks.run(lambda desk, x: desk.async_echo(x), 9) == 9


async def test_a_builtin_function_may_be_called_on_the_instance(desks: Desks) -> None:
    assert await desks.run(operator.attrgetter("delay")) == 0.0
    assert await desks.run(hasattr, "total") is True


async def test_a_callable_object_may_be_called(desks: Desks) -> None:
    assert await desks.run(Doubler(3), 5) == 15


async def test_what_is_not_callable_is_refused_at_once(desks: Desks) -> None:
    with pytest.raises(poise.ConfigError, match="fn"):
        desks.submit(3)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -1.5,
        "",
        "ü\0",
        b"\xff",
        (),
        [1, [2, (3,)]],
        {"a": {1, 2}},
        {1: {2: 3}},
        math.inf,
        10**40,
        range(3),
    ],
    ids=repr,
)
async def test_values_arrive_as_they_are(desks: Desks, value: object) -> None:
    result = await desks.run(Desk.echo, value)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize("bytes_", [1_000, 100_000, 5_000_000])
async def test_arrays_and_bytes_of_any_size_arrive(desks: Desks, bytes_: int) -> None:
    array = np.arange(bytes_ // 8, dtype=np.float64)
    assert (await desks.run(Desk.echo, array) == array).all()
    assert await desks.run(Desk.echo, bytes(bytes_)) == bytes(bytes_)
    shared = await desks.run(Desk.echo, [array, array])
    assert shared[0] is shared[1]


async def test_changing_an_argument_after_submit_changes_nothing_for_a_call_that_has_a_worker(desks: Desks) -> None:
    array = np.zeros(50_000)
    call = desks.submit(Desk.echo, array)
    array[:] = 1
    assert not (await call).any()


async def test_functions_classes_and_nested_lambdas_arrive(desks: Desks) -> None:
    function = await desks.run(Desk.echo, lambda x: x + 1)
    assert function(1) == 2
    assert await desks.run(Desk.echo, Desk) is Desk


async def test_a_thousand_calls_at_once_each_get_their_own_result(open_pool: OpenPool) -> None:  # G1, G3
    async with open_pool(Desk, size=4, min_ready=4) as pool:
        calls = [pool.submit(Desk.echo, number) for number in range(1000)]
        assert await asyncio.gather(*calls) == list(range(1000))
        witnesses = await pool.broadcast(Desk.witness)
        assert [most for _, most, _ in witnesses] == [1, 1, 1, 1]
        assert sum(runs for *_, runs in witnesses) == 1000
        stats = pool.stats()
        assert stats.completed >= 1000
        assert stats.in_flight == stats.waiting == 0


async def test_the_seeds_case_works(open_pool: OpenPool) -> None:  # many requests at once, each its own answer
    async with open_pool(Actor, size=2) as pool:
        totals = await asyncio.gather(*(pool.run(Actor.increment, 1) for _ in range(100)))
        states = await pool.broadcast(Actor.increment, 0)
        assert sum(states) == 100
        assert sorted(totals) == sorted(n for state in states for n in range(1, state + 1))


async def test_the_seeds_case_works_for_a_class_decorated_for_ray(open_pool: OpenPool, shared_ray: None) -> None:
    import ray

    remote_class: Any = ray.remote(Actor)
    async with open_pool(remote_class, size=2) as pool:
        await asyncio.gather(*(pool.run(remote_class.increment, 1) for _ in range(50)))
        await asyncio.gather(*(pool.run("increment", 1) for _ in range(50)))
        assert sum(await pool.broadcast(Actor.increment, 0)) == 100


async def test_a_pool_without_a_factory_runs_plain_functions(open_pool: OpenPool) -> None:
    async with open_pool() as pool:
        assert await pool.run(math.factorial, 5) == 120
        assert await pool.run(lambda: 3) == 3
        assert await pool.run(twice, 4) == 8
        assert await pool.run(functools.partial(pow, 2), 10) == 1024
        assert await pool.run(Doubler, 3) == Doubler(3)
        assert [x async for x in pool.map(twice, range(5))] == [0, 2, 4, 6, 8]
        assert [x async for x in pool.stream(range, 3)] == [0, 1, 2]
        with pytest.raises(AttributeError, match="no factory"):
            await pool.run("upper")


async def test_a_subclass_decides_what_runs(open_pool: OpenPool) -> None:
    async with open_pool(Picky, size=1) as pool:
        assert await pool.run(Desk.echo, 1) == ["picky", 1]
        assert await pool.run("echo", 1) == ["picky", 1]
        assert await pool.run(Picky.echo, 1) == ["picky", 1]


async def test_a_factory_may_be_a_partial_or_a_lambda(open_pool: OpenPool) -> None:
    async with open_pool(functools.partial(Desk, 0.5), size=1) as pool:
        assert await pool.run(lambda desk: desk.delay) == 0.5
    delay = 0.25
    async with open_pool(lambda: Desk(delay), size=1) as pool:
        assert await pool.run(lambda desk: desk.delay) == 0.25


async def test_an_instance_may_be_anything(open_pool: OpenPool) -> None:
    factory: type[list[int]] = list
    async with open_pool(factory, size=1) as pool:
        await pool.run(list.append, 5)
        await pool.run("append", 6)
        assert await pool.run(list.copy) == [5, 6]
        assert await pool.run(len) == 2
    async with open_pool(lambda: None, size=1) as pool:
        assert await pool.run(lambda nothing, x: (nothing, x), 1) == (None, 1)


class Actor:
    """The seed's."""

    def __init__(self) -> None:
        self.state = 0

    def increment(self, x: int) -> int:
        self.state += x
        return self.state


def twice(x: int) -> int:
    return 2 * x


class Doubler:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, _desk: object, x: int) -> int:
        return self.factor * x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Doubler) and self.factor == other.factor

    __hash__ = None  # type: ignore[assignment]
