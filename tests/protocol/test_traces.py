"""Tracebacks that are not kept."""

from __future__ import annotations

from typing import NoReturn

import pytest

from poise._protocol.traces import RemoteTraceback, drop_frames


class Odd(Exception):
    """Neither to be asked for its truth nor for its length."""

    def __bool__(self) -> NoReturn:
        raise RuntimeError("is it?")


def fail(error: BaseException, cause: BaseException | None = None) -> NoReturn:
    raise error from cause


def handled(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """The error after it was raised, handled, and had its frames dropped."""
    try:
        fail(error, cause)
    except BaseException as caught:  # noqa: BLE001 - whatever is given
        drop_frames(caught)
    return error


def raised(error: BaseException) -> BaseException:
    """The error with a traceback."""
    with pytest.raises(type(error)):
        fail(error)
    return error


def test_an_error_keeps_its_traceback_as_text() -> None:
    error = handled(ValueError("x"))
    assert error.__traceback__ is None
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "in handled" in str(error.__cause__)


def test_what_stands_behind_an_error_keeps_no_frames_either() -> None:
    cause, context = raised(Odd("cause")), raised(KeyError("inner"))
    cause.__context__ = context
    group = ExceptionGroup("several", [ValueError("one"), Odd("two")])
    for member in group.exceptions:
        raised(member)
    handled(group, cause)
    for each in (group, cause, context, *group.exceptions):
        assert each.__traceback__ is None
    assert group.__cause__ is cause


def test_errors_that_stand_behind_each_other_are_an_end() -> None:
    one, two = raised(Odd("one")), raised(Odd("two"))
    one.__context__, two.__context__ = two, one
    handled(ValueError("x"), one)
    assert one.__traceback__ is None
    assert two.__traceback__ is None


def test_what_a_caller_handles_at_the_moment_is_left_to_it() -> None:
    inner = raised(KeyError("inner"))
    try:
        fail(Odd("the caller's own"))
    except Odd as own:
        inner.__context__ = own
        error = handled(ValueError("x"), inner)
        caller = own
        trace = own.__traceback__
    assert trace is not None
    assert caller.__traceback__ is trace
    assert error.__context__ is None
    assert inner.__traceback__ is None
    assert inner.__context__ is None
