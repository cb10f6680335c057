"""What `poise.batched` makes of a function, as its author and the other faces of a pool meet it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import ray

import poise
from poise.testing import LocalPool
from tests.gate import wait_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.gate import Gate


class Model:
    def __init__(self) -> None:
        self.factor = 2

    @poise.batched(max=4)
    def times(self, values: list[int]) -> list[int]:
        """Multiply."""
        return [self.factor * value for value in values]

    @poise.batched(max=4)
    async def times_async(self, values: list[int]) -> list[int]:
        return [self.factor * value for value in values]

    @poise.batched(max=4)
    def sizes(self, values: list[Any]) -> list[int]:
        return [len(values)] * len(values)

    @poise.batched()
    def fail(self, errors: list[Exception]) -> list[poise.Failed]:
        return [poise.Failed(error) for error in errors]

    @staticmethod
    @poise.batched()
    def still(values: list[int]) -> list[int]:
        return values


class Overriding(Model):
    def sizes(self, values: list[Any]) -> list[int]:  # type: ignore[override]
        return [1]


@poise.batched(max=8)
def lengths(texts: list[str]) -> list[tuple[int, int]]:
    return [(len(texts), len(text)) for text in texts]


class LocalExecutor(poise.Executor[Any]):
    """An executor whose workers live in this process."""

    def _make_pool(self, factory: Any, **options: Any) -> poise.Pool[Any]:
        return LocalPool(factory, **options)


# ---------------------------------------------------------------------------------------------------------------------
# The function itself


def test_called_directly_it_takes_one_value() -> None:
    model = Model()
    assert model.times(3) == 6
    assert Model.times(model, 3) == 6
    assert Model.still(3) == 3
    assert lengths("abc") == (1, 3)
    with pytest.raises(ValueError, match="mine"):
        model.fail(ValueError("mine"))


async def test_a_coroutine_function_stays_one() -> None:
    assert inspect.iscoroutinefunction(Model.times_async)
    assert await Model().times_async(3) == 6


def test_what_was_written_is_at_hand() -> None:
    assert Model.times.batch(Model(), [1, 2]) == [2, 4]
    assert Model().times.batch(Model(), [1, 2]) == [2, 4]  # type: ignore[call-arg, arg-type]
    assert lengths.batch(["a"]) == [(1, 1)]


def test_it_keeps_its_name_and_can_be_pickled() -> None:
    assert Model.times.__doc__ == "Multiply."
    assert Model.times.__qualname__ == "Model.times"  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(lengths)) is lengths


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="takes one value, and 3 arguments"):
        Model.times(Model(), 1, 2)  # type: ignore[call-arg]


def written_for_nothing() -> list[int]:
    return []


def written_for_more(one: int, values: list[int], other: int) -> list[int]:
    return []


def written_with_a_keyword(values: list[int], *, scale: int) -> list[int]:
    return []


def stream(values: list[int]) -> Iterator[int]:
    yield from values


async def async_stream(values: list[int]) -> AsyncIterator[int]:
    for value in values:
        yield value


@pytest.mark.parametrize(
    ("function", "remedy"),
    [
        (stream, "return a list"),
        (async_stream, "return a list"),
        (written_for_nothing, "take a list"),
        (written_for_more, "such as a tuple"),
        (written_with_a_keyword, "such as a tuple"),
        (lengths, "already"),
        (staticmethod(written_for_nothing), "put @staticmethod above"),
        (classmethod(lambda kind, values: values), "put @classmethod above"),
        (functools.partial(lengths), "def"),
        (Model, "def"),
        (7, "def"),
    ],
)
def test_what_cannot_be_batched_is_refused_when_it_is_decorated(function: Any, remedy: str) -> None:
    with pytest.raises(poise.ConfigError, match=remedy):
        poise.batched()(function)


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"max": 0}, "max=0 .* at least 1"),
        ({"max": 1.5}, "max=1.5"),
        ({"max": True}, "max=True"),
        ({"wait": -1}, "wait=-1 .* zero or more"),
        ({"wait": None}, "wait=None"),
        ({"wait": float("inf")}, "finite"),
        ({"wait": float("nan")}, "wait=nan"),
    ],
)
def test_its_options_are_checked(options: dict[str, Any], allowed: str) -> None:
    with pytest.raises(poise.ConfigError, match=allowed):
        poise.batched(**options)


def test_only_an_exception_fails_a_value() -> None:
    assert repr(poise.Failed(ValueError(1))) == "Failed(ValueError(1))"
    with pytest.raises(poise.ConfigError, match="exception"):
        poise.Failed("no exception")  # type: ignore[arg-type]


def test_a_batch_error_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(poise.BatchError("f", 2, 1, "list")))
    assert (error.function, error.expected, error.returned, error.type_name) == ("f", 2, 1, "list")
    assert "2 values and returned 1 result:" in str(error)


# ---------------------------------------------------------------------------------------------------------------------
# In a pool


async def test_a_class_that_overrides_it_without_the_mark_is_told_of() -> None:
    async with LocalPool(Overriding, size=1) as pool:
        first = pool.submit(lambda model, seconds: asyncio.sleep(seconds), 0.05)
        calls = [pool.submit(Model.sizes, n) for n in range(2)]
        await first
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, poise.BatchError)
            assert "in the worker it is not batched" in str(error)


async def test_a_function_around_it_runs_alone() -> None:
    @functools.wraps(lengths)
    def around(text: str) -> tuple[int, int]:
        return lengths(text)

    async with LocalPool(size=1) as pool:
        assert await asyncio.gather(*(pool.run(around, "ab") for _ in range(3))) == [(1, 2)] * 3


async def test_static_methods_are_batched() -> None:
    async with LocalPool(Model, size=1) as pool:
        assert await asyncio.gather(*(pool.run("still", n) for n in range(3))) == [0, 1, 2]


async def test_a_broadcast_runs_it_once_on_every_worker() -> None:
    async with LocalPool(Model, size=3) as pool:
        assert await pool.broadcast(Model.times, 2) == [4, 4, 4]


async def test_values_of_an_executors_map_share_runs(gate: Gate) -> None:
    with LocalExecutor(Model, max_workers=1) as executor:
        held = executor.submit(lambda model, path: wait_at(path), gate.path)
        await gate.reached()
        futures = [executor.submit(Model.sizes, n) for n in range(6)]
        futures[0].cancel()
        gate.open()
        held.result()
        assert [future.result() for future in futures[1:]] == [4, 4, 4, 4, 1]
        assert list(executor.map(Model.times, range(20))) == [2 * n for n in range(20)]
        assert list(executor.map(Model.times, range(20), chunksize=5)) == [2 * n for n in range(20)]


async def test_actors_of_somebody_elses_run_batches_too(shared_ray: None) -> None:
    actor: Any = ray.remote(Model).remote()
    async with poise.Pool.of([actor]) as pool:
        assert await asyncio.gather(*(pool.run(Model.times, n) for n in range(9))) == [2 * n for n in range(9)]
        sizes = await asyncio.gather(*(pool.run(Model.sizes, n) for n in range(9)))
        assert sizes == [1, 4, 4, 4, 4, 4, 4, 4, 4]
        got = await asyncio.gather(*(pool.run(Model.fail, ValueError(n)) for n in range(3)), return_exceptions=True)
        assert [repr(error) for error in got] == ["ValueError(0)", "ValueError(1)", "ValueError(2)"]
        assert await asyncio.gather(*(pool.run(Model.times_async, n) for n in range(3))) == [0, 2, 4]
        assert ray.get(actor.times.remote(4)) == 8  # as Ray calls it


async def test_a_redefined_method_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    class Changing:
        @poise.batched()
        def give(self, values: list[int]) -> list[int]:
            return values

    old = Changing
    async with LocalPool(old, size=1) as pool:

        @poise.batched()
        def give(self: Any, values: list[int]) -> list[int]:
            return [value + 1 for value in values]

        give.__qualname__ = old.give.__qualname__  # type: ignore[attr-defined]
        assert await pool.run(give, 1) == 1
    assert "defined anew" in caplog.text
