"""Which part of a function or class is to blame if it cannot travel by value.

Cloudpickle says what it cannot pickle, and not where that is: a lock of `__main__` that a method uses looks like the
method's own fault. Here the names that code uses are tried one by one.
"""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any, Final

from poise._protocol.words import callable_name, type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MOST: Final = 200
"""Functions and classes that are looked through."""


def culprit(value: object, try_to_pickle: Callable[[Any], object]) -> str:
    """Name the variable that keeps a function or class from travelling, as the end of a sentence; "" if none does.

    Args:
        value: what could not be pickled.
        try_to_pickle: raises if what it is given cannot be.
    """
    seen: set[int] = set()
    waiting: list[Any] = [value]
    while waiting and len(seen) < _MOST:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        for user, kind, name, used in _uses(each):
            if _travels(used, try_to_pickle):
                continue
            if issubclass(type(used), types.FunctionType | type | functools.partial):
                waiting.append(used)
                continue
            remedy = (
                "define it in a module and import it from there" if kind == "global" else "make it inside the function"
            )
            return f"; it is the {kind} {name!r} of type {type_name(used)!r}, which {user} uses: {remedy}"
    return ""


def _travels(value: object, try_to_pickle: Callable[[Any], object]) -> bool:
    try:
        try_to_pickle(value)
    except Exception:  # noqa: BLE001 - whatever it raises is the answer
        return False
    return True


def _uses(value: Any) -> Iterator[tuple[str, str, str, Any]]:
    """What a function, or the functions of a class, refer to: the user, the kind of name, the name, the value."""
    if isinstance(value, functools.partial):
        inner: Any = value.func
        yield "the partial", "function", callable_name(inner), inner
    for function in _functions_of(value):
        user = callable_name(function)
        for name in _names(function.__code__):
            if name in function.__globals__:
                yield user, "global", name, function.__globals__[name]
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
            try:
                yield user, "variable", name, cell.cell_contents
            except ValueError:  # it is not assigned yet
                continue


def _functions_of(value: Any) -> Iterator[types.FunctionType]:
    if isinstance(value, types.FunctionType):
        yield value
    elif isinstance(value, type):
        for attribute in list(vars(value).values()):
            for each in (attribute, *(getattr(attribute, name, None) for name in ("__func__", "fget", "func"))):
                if isinstance(each, types.FunctionType):
                    yield each


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
