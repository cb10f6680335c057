"""Failures of the user's own code: each hurts its own caller alone, and the worker lives (G10).

The shared pool's fixture checks at the end that no worker died.
"""

from __future__ import annotations

import asyncio
import copyreg
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

import poise
from tests.contract.desk import Desk
from tests.untrue import UNTRUE, fail_untruly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.contract.conftest import OpenPool

pytestmark = pytest.mark.asyncio(loop_scope="module")

Desks = poise.Pool[Desk]


class OddError(Exception):
    """Pickles, but its constructor takes other arguments than those it keeps."""

    def __init__(self, code: int, *, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class RichError(Exception):
    def __init__(self, text: str, details: dict[str, int]) -> None:
        super().__init__(text, details)
        self.details = details


class LockedError(Exception):
    """Cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class BadStrError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class BadStateError(Exception):
    """Pickles in the worker and fails to unpickle at the caller's."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse_here, (os.getpid(), threading.get_ident())


class TrojanResult:
    """A result that fails to unpickle."""

    def __init__(self, error: type[BaseException] = ValueError) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, (self.error,)


class TrojanArgument(TrojanResult):
    """An argument that fails to unpickle in the worker."""


class UnpicklableArgument:
    def __reduce__(self) -> NoReturn:
        raise ValueError("stays at home")


class SurrogateResult:
    """Unpickles to a dict."""

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ()


def _refuse(error: type[BaseException]) -> NoReturn:
    raise error("refuses to be unpickled")


def _refuse_here(pid: int, thread: int) -> NoReturn:
    raise ValueError(f"made in {pid}/{thread}")


async def still_works(pool: Desks) -> None:
    assert await asyncio.gather(*(pool.run(Desk.echo, n) for n in range(6))) == list(range(6))


async def test_an_exception_arrives_as_itself_with_the_remote_traceback(desks: Desks) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        await desks.run(lambda desk: 1 // desk.total * 0 if desk.total else 1 // 0)
    cause = caught.value.__cause__
    assert cause is not None
    assert "test_failures.py" in str(cause)
    assert "1 // 0" in str(cause)
    assert "ZeroDivisionError" in str(cause)
    await still_works(desks)


async def test_an_exception_of_an_async_method_arrives_as_itself(desks: Desks) -> None:
    async def fail(desk: Desk) -> None:
        await asyncio.sleep(0)
        raise RichError("async", {"a": 1})

    with pytest.raises(RichError) as caught:
        await desks.run(fail)
    assert caught.value.details == {"a": 1}
    assert "in fail" in str(caught.value.__cause__)


async def test_an_exceptions_own_cause_is_told_in_the_traceback(desks: Desks) -> None:
    def fail(desk: Desk) -> None:
        try:
            raise KeyError("the first")  # noqa: TRY301
        except KeyError as error:
            raise ValueError("the second") from error

    with pytest.raises(ValueError, match="the second") as caught:
        await desks.run(fail)
    assert "the first" in str(caught.value.__cause__)


async def test_an_exception_with_fields_keeps_them(desks: Desks) -> None:
    with pytest.raises(RichError) as caught:
        await desks.run(Desk.fail, RichError("text", {"a": 1}))
    assert caught.value.details == {"a": 1}


async def test_each_caller_gets_an_exception_of_its_own(desks: Desks) -> None:
    failures = await asyncio.gather(
        *(desks.run(Desk.fail, ValueError(number)) for number in range(20)), return_exceptions=True
    )
    assert [failure.args for failure in failures if isinstance(failure, ValueError)] == [(n,) for n in range(20)]
    assert len({id(failure) for failure in failures}) == 20


def raise_odd(desk: Desk) -> NoReturn:
    raise OddError(3, text="odd")


def raise_locked(desk: Desk) -> NoReturn:
    raise LockedError("locked")


def raise_bad_str(desk: Desk) -> NoReturn:
    raise BadStrError


def raise_bad_state(desk: Desk) -> NoReturn:
    raise BadStateError("made there")


def raise_system_exit(desk: Desk) -> NoReturn:
    sys.exit(3)


def raise_keyboard_interrupt(desk: Desk) -> NoReturn:
    raise KeyboardInterrupt


def raise_cancelled(desk: Desk) -> NoReturn:
    raise asyncio.CancelledError("from the user's own code")


def raise_stop_iteration(desk: Desk) -> NoReturn:
    raise StopIteration(3)


def raise_stop_async_iteration(desk: Desk) -> NoReturn:
    raise StopAsyncIteration(3)


def raise_generator_exit(desk: Desk) -> NoReturn:
    raise GeneratorExit


def raise_group(desk: Desk) -> NoReturn:
    raise BaseExceptionGroup("group", [KeyboardInterrupt(), ValueError("x")])


def raise_local(desk: Desk) -> NoReturn:
    class LocalError(BaseException):
        pass

    raise LocalError("local")


@pytest.mark.parametrize(
    ("function", "name", "text"),
    [
        (raise_odd, "OddError", "3: odd"),
        (raise_locked, "LockedError", "locked"),
        (raise_bad_state, "BadStateError", "made there"),
        (raise_system_exit, "SystemExit", "3"),
        (raise_keyboard_interrupt, "KeyboardInterrupt", ""),
        (raise_cancelled, "CancelledError", "own code"),
        (raise_stop_iteration, "StopIteration", "3"),
        (raise_stop_async_iteration, "StopAsyncIteration", "3"),
        (raise_generator_exit, "GeneratorExit", ""),
        (raise_group, "BaseExceptionGroup", "group"),
        (raise_local, "LocalError", "local"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
async def test_an_exception_that_cannot_travel_arrives_as_text(
    desks: Desks, function: Callable[[Desk], NoReturn], name: str, text: str, is_async: bool
) -> None:
    async def in_a_coroutine(desk: Desk) -> None:
        await asyncio.sleep(0)
        function(desk)

    called: Any = in_a_coroutine if is_async else function
    if is_async and name == "StopIteration":
        pytest.skip("Python itself makes a RuntimeError of it in a coroutine")
    with pytest.raises(poise.RemoteError) as caught:
        await desks.run(called)
    assert caught.value.type_name.rpartition(".")[2] == name
    assert text in caught.value.text
    assert function.__name__ in caught.value.traceback_text
    await still_works(desks)


async def test_an_exception_whose_str_fails_arrives_all_the_same(desks: Desks) -> None:
    with pytest.raises(BadStrError):
        await desks.run(raise_bad_str)
    await still_works(desks)


class SealedError(Exception):
    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("sealed")


class NotesError(Exception):
    def __getattribute__(self, name: str) -> Any:
        if name == "__notes__":
            raise KeyboardInterrupt
        return super().__getattribute__(name)


@pytest.mark.parametrize("error", [SealedError(3), NotesError(3)], ids=lambda error: type(error).__name__)
async def test_an_exception_that_takes_no_note_arrives_from_a_broadcast(desks: Desks, error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        await desks.broadcast(Desk.fail, error)
    assert caught.value.args == (3,)
    await still_works(desks)


@pytest.mark.parametrize("error", UNTRUE)
async def test_an_exception_that_is_not_true_is_raised(desks: Desks, error: type[Exception]) -> None:
    def fail(desk: Desk, kind: type[Exception]) -> None:
        fail_untruly(kind)

    async def fail_async(desk: Desk, kind: type[Exception]) -> None:
        fail_untruly(kind)

    def items(desk: Desk, kind: type[Exception]) -> Iterator[int]:
        yield 1
        fail_untruly(kind)

    for function in (fail, fail_async):
        with pytest.raises(error):
            await desks.run(function, error)
        with pytest.raises(error):
            await desks.options(retries=1, retry_on=(error,), retry_delay=0).run(function, error)
        with pytest.raises(error):
            await desks.broadcast(function, error)
        with pytest.raises(error):
            async for _ in desks.map(function, [error]):
                pass
        (kept,) = [each async for each in desks.map(function, [error], on_error="return")]
        assert type(kept) is error
        async with desks.lease() as desk:
            with pytest.raises(error):
                await desk.run(function, error)
    got: list[int] = []
    with pytest.raises(error):
        async for item in desks.stream(items, error):
            got.append(item)  # noqa: PERF401 - it ends with an exception
    assert got == [1]
    await still_works(desks)


async def test_an_error_of_poises_own_that_the_user_raises_arrives_as_itself(desks: Desks) -> None:
    with pytest.raises(poise.Overloaded) as caught:
        await desks.run(Desk.fail, poise.Overloaded(1, 2, 3.0))
    assert caught.value.depth == 1


@pytest.mark.parametrize("which", ["positional", "keyword", "nested"])
async def test_an_argument_that_cannot_be_pickled_is_named(desks: Desks, which: str) -> None:
    bad = threading.Lock()
    with pytest.raises(poise.PayloadError) as caught:
        if which == "positional":
            await desks.run(Desk.join, "a", bad)  # type: ignore[call-overload]
        elif which == "keyword":
            await desks.run("join", a="a", b=bad)
        else:
            await desks.run(Desk.join, "a", [{"x": bad}])  # type: ignore[call-overload]
    assert ("argument 2" if which != "keyword" else "argument 'b'") in caught.value.what
    assert "lock" in caught.value.reason
    assert not caught.value.started
    await still_works(desks)


async def test_an_argument_whose_pickling_raises_is_named(desks: Desks) -> None:
    with pytest.raises(poise.PayloadError, match="stays at home"):
        await desks.run(Desk.echo, UnpicklableArgument())
    await still_works(desks)


async def test_a_function_that_cannot_be_pickled_is_named(desks: Desks) -> None:
    lock = threading.Lock()
    with pytest.raises(poise.PayloadError) as caught:
        await desks.run(lambda desk: lock.acquire())
    assert "lambda" in caught.value.what
    assert not caught.value.started


async def test_an_argument_that_fails_to_unpickle_is_an_error_of_that_call_alone(desks: Desks) -> None:
    with pytest.raises(poise.PayloadError, match="refuses to be unpickled"):
        await desks.run(Desk.echo, TrojanArgument())
    await still_works(desks)


async def test_a_result_that_cannot_be_pickled_is_an_error_of_that_call_alone(desks: Desks) -> None:
    with pytest.raises(poise.PayloadError) as caught:
        await desks.run(lambda desk: desk.lock)
    assert "result" in caught.value.what
    assert caught.value.started
    await still_works(desks)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, asyncio.CancelledError])
async def test_a_result_that_fails_to_unpickle_is_an_error_of_that_call_alone(
    desks: Desks, error: type[BaseException]
) -> None:
    with pytest.raises(poise.PayloadError) as caught:
        await desks.run(lambda desk: TrojanResult(error))
    assert "result" in caught.value.what
    assert "refuses to be unpickled" in caught.value.reason
    assert caught.value.started
    await still_works(desks)


async def test_a_generator_as_a_result_is_an_error_that_names_stream(desks: Desks) -> None:
    with pytest.raises(poise.PayloadError, match="stream"):
        await desks.run(Desk.count, 3)
    with pytest.raises(poise.PayloadError, match="stream"):
        await desks.run(Desk.async_count, 3)


async def test_a_result_may_unpickle_to_something_else(desks: Desks) -> None:
    result: object = await desks.run(lambda desk: SurrogateResult())
    assert result == {}


async def test_wrong_arguments_are_a_type_error(desks: Desks) -> None:
    with pytest.raises(TypeError, match="positional"):
        await desks.run("echo", 1, 2, 3)


async def test_a_broken_pickle_registry_of_the_users_hurts_one_call_alone(desks: Desks) -> None:
    def raise_interrupt(value: object) -> NoReturn:
        raise KeyboardInterrupt

    copyreg.pickle(SurrogateResult, raise_interrupt)
    try:
        with pytest.raises(poise.PayloadError, match="KeyboardInterrupt"):
            await desks.run(Desk.echo, SurrogateResult())
    finally:
        copyreg.dispatch_table.pop(SurrogateResult)
    await still_works(desks)


async def test_failures_amid_a_crowd_reach_their_own_callers_alone(desks: Desks) -> None:  # G1, G10
    def some_fail(desk: Desk, number: int) -> Any:
        match number % 5:
            case 1:
                raise ValueError(number)
            case 2:
                sys.exit(number)
            case 3:
                return threading.Lock()
            case 4:
                return TrojanResult()
            case _:
                return number

    outcomes = await asyncio.gather(*(desks.run(some_fail, n) for n in range(200)), return_exceptions=True)
    for number, outcome in enumerate(outcomes):
        match number % 5:
            case 1:
                assert isinstance(outcome, ValueError)
                assert outcome.args == (number,)
            case 2:
                assert isinstance(outcome, poise.RemoteError)
                assert outcome.text == str(number)
            case 3 | 4:
                assert isinstance(outcome, poise.PayloadError)
            case _:
                assert outcome == number


async def test_an_exception_nobody_asks_for_keeps_nothing_else_waiting(open_pool: OpenPool) -> None:  # G1
    async with open_pool(Desk, size=1) as pool:
        call = pool.submit(Desk.fail, ValueError("unheard"))
        assert await pool.run(Desk.echo, 1) == 1
        assert isinstance(call.exception(), ValueError)
