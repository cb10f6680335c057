"""What newcomers get wrong: each is told at once, with what to do instead."""

from __future__ import annotations

import functools
import pickle
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest
import trio

import poise
from poise.testing import LocalPool, local_pools

if TYPE_CHECKING:
    from collections.abc import Callable


class Model:
    def __init__(self, scale: int = 1) -> None:
        self.scale = scale

    def predict(self, x: int) -> int:
        return self.scale * x

    def fail(self) -> None:
        raise TypeError("the model's own")

    @classmethod
    def load(cls, path: str) -> Model:
        raise NotImplementedError(path)


class Callable1(Model):
    def __call__(self, x: int) -> int:
        return self.predict(x)


class NeedsPath:
    def __init__(self, path: str) -> None: ...


any_pool: Any = poise.Pool
MAKERS: dict[str, Callable[..., Any]] = {"Pool": any_pool, "LocalPool": LocalPool, "Executor": poise.Executor}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Each face that takes a factory and options."""
    return MAKERS[request.param]


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"num_gpus": 1}, "use ray_options={'num_gpus': ...}"),
        ({"runtime_env": {}}, "use ray_options={'runtime_env': ...}"),
        ({"concurency": 2}, "did you mean concurrency=?"),
        ({"retries": 2}, "use pool.options(retries=...)"),
        ({"max_concurrency": 2}, "use concurrency="),
        ({"colour": "red"}, "a pool has the options backlog, "),
    ],
)
def test_an_option_that_there_is_not_says_what_to_use(
    make: Callable[..., Any], options: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(poise.UnknownOption, match="there is no option") as caught:
        make(Model, **options)
    assert remedy in str(caught.value)
    assert isinstance(caught.value, poise.ConfigError)
    assert isinstance(caught.value, TypeError)  # as Python's own error for it is
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.option, copy.value) == (str(caught.value), caught.value.option, caught.value.value)


@pytest.mark.parametrize(
    ("factory", "remedy"),
    [
        (NeedsPath, "lacks 'path'; use lambda: NeedsPath(path=...)"),
        (functools.partial(NeedsPath), "lacks 'path'; use lambda: NeedsPath(path=...)"),
        (lambda path: path, "lacks 'path'; use lambda: f(path=...)"),
        (Model.load, "lacks 'path'; use lambda: Model.load(path=...)"),
        (Callable1(), "it is an object of class Callable1, and each worker makes its own"),
        (Model(), "it is an object of this process, and each worker makes its own"),
        ("Model", "it is not callable"),
    ],
)
def test_a_factory_that_cannot_be_called_without_arguments_is_refused_at_once(
    make: Callable[..., Any], factory: Any, remedy: str
) -> None:
    with pytest.raises(poise.ConfigError, match="factory=") as caught:
        pool = make(factory)
        if isinstance(pool, poise.Executor):  # which looks at a factory no sooner than its pool
            pool.shutdown()
    assert remedy in str(caught.value)


def _wrapped(*args: Any, **kwargs: Any) -> Model:
    return Model(*args, **kwargs)


class Settings:
    """As pydantic's are: the signature says what is looked up elsewhere."""

    __signature__ = "anything"


@pytest.mark.parametrize(
    "factory",
    [Model, functools.partial(NeedsPath, "x"), lambda: 1, functools.wraps(NeedsPath)(_wrapped), Settings, dict],
)
def test_a_factory_that_may_work_is_not_refused(make: Callable[..., Any], factory: Any) -> None:
    make(factory)


async def test_a_function_that_does_not_expect_the_instance_is_told_of_it() -> None:
    function: Any = lambda: 1  # noqa: E731
    async with LocalPool(Model, size=1) as pool:
        with pytest.raises(TypeError, match="takes 0 positional arguments but 1 was given") as caught:
            await pool.run(function)
    (note,) = caught.value.__notes__
    assert "Model, as its first argument, before those of the call" in note


@pytest.mark.parametrize(
    "function", [Model.predict, "predict", lambda model, x: model.predict(x)], ids=["method", "name", "lambda"]
)
async def test_an_option_among_the_arguments_is_told_where_it_belongs(function: Any) -> None:
    async with LocalPool(Model, size=1) as pool:
        with pytest.raises(TypeError, match="unexpected keyword argument 'timeout'") as caught:
            await pool.run(function, 1, timeout=3)
    assert caught.value.__notes__ == [
        "timeout= is an option and no argument of the function: use pool.options(timeout=...)"
    ]


async def test_a_type_error_of_the_functions_own_is_left_alone() -> None:
    async with LocalPool(Model, size=1) as pool:
        cases: list[tuple[Any, tuple[Any, ...]]] = [
            (Model.fail, ()),
            (lambda _, x: abs(x), ("text",)),
            ("predict", (1, 2)),
        ]
        for function, args in cases:
            with pytest.raises(TypeError) as caught:
                await pool.run(function, *args)
            assert not hasattr(caught.value, "__notes__")


async def test_a_call_that_was_made_already_is_told_how_it_is_made() -> None:
    async with LocalPool(Model, size=1) as pool:
        wrong: Any = Model().predict(3)
        with pytest.raises(poise.ConfigError, match=r"pool.run\(f, x\), and not pool.run\(f\(x\)\)"):
            await pool.run(wrong)


async def test_a_pool_that_is_being_opened_says_so() -> None:
    shown: list[str] = []

    class Slow(Model):
        def __init__(self) -> None:
            super().__init__()
            shown.append(repr(pool))

    pool = LocalPool(Slow, size=1)
    async with pool:
        assert repr(pool) == "<Pool of Slow, open: 1/1 workers ready, 0 running, 0 waiting>"
    assert shown == ["<Pool of Slow, opening: 0/1 workers ready, 1 starting, 0 running, 0 waiting>"]


def test_without_an_event_loop_the_pool_says_what_it_needs() -> None:
    opening = LocalPool(Model).open()
    with pytest.raises(poise.WrongLoop, match=r"needs an asyncio event loop, and none runs here: .* poise\.Executor"):
        opening.send(None)


def test_under_trio_it_says_what_to_do_and_that_works() -> None:
    async def main() -> int:
        with pytest.raises(poise.WrongLoop, match=r"here runs trio: .*trio\.to_thread\.run_sync"):
            await LocalPool(Model).open()
        with local_pools(), poise.Executor(1) as executor:
            return await trio.to_thread.run_sync(executor.submit(pow, 2, 5).result)

    assert trio.run(main) == 32


def own(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What poise has logged: asyncio does too, where the machine is slow."""
    return [record.getMessage() for record in caplog.records if record.name == "poise"]


async def test_a_method_of_a_class_that_was_defined_anew_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = types.ModuleType("cells")
    monkeypatch.setitem(sys.modules, "cells", module)
    cell = "class Cell:\n    def number(self): return {}\n    def other(self): return {}"
    exec(cell.format(1, 1), module.__dict__)
    for wrap in (lambda kind: kind, lambda kind: lambda: kind(*())):
        caplog.clear()
        exec(cell.format(1, 1), module.__dict__)
        old = module.Cell
        async with LocalPool(wrap(old), size=1) as pool:
            await pool.run(old.number)
            exec(cell.format(1, 1), module.__dict__)
            await pool.run(module.Cell.number)  # the same code
            assert not own(caplog)
            exec(cell.format(2, 2), module.__dict__)
            assert await pool.run(module.Cell.number) == 1
            await pool.run(module.Cell.other)
        (told,) = own(caplog)
        assert told.startswith("Cell.number is of a class Cell that was defined anew after the pool had been opened")


def test_patience_is_for_a_key_which_may_be_none_at_times() -> None:
    pool = LocalPool(size=1)
    with pytest.raises(poise.ConfigError, match=r"patience=0\.5 .*pool\.options\(key=session, patience=0\.5\)"):
        pool.options(patience=0.5)
    pool.options(patience=0)
    pool.options(key=None, patience=0.5).options(timeout=1.0)
    keyed = pool.options(key="session").options(patience=0.5)
    keyed.options(key=None)
