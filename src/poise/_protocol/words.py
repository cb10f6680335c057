"""What can be said of a stranger's object, whatever its class does to prevent it. Nothing here raises.

A metaclass may hide or forge the name of its classes, and `__str__`, `__class__` and `__dir__` are anybody's code, so
the interpreter's own slots are read where there is one.
"""

from __future__ import annotations

import functools
from typing import Any, Final, TypeGuard

_QUALNAME: Final[Any] = type.__dict__["__qualname__"]
_MODULE: Final[Any] = type.__dict__["__module__"]


def class_names(kind: type) -> tuple[str, str]:
    """The module and the qualified name of a class; "" for a module that is no text."""
    name = str.__str__(_QUALNAME.__get__(kind))
    try:
        module: object = _MODULE.__get__(kind)
    except AttributeError:
        return "", name
    return str.__str__(module) if is_text(module) else "", name


def class_name(kind: type) -> str:
    """The qualified name of a class."""
    return class_names(kind)[1]


def type_name(value: object) -> str:
    """The qualified name of the value's type, with its module unless that is `builtins`."""
    module, name = class_names(type(value))
    return name if module in ("builtins", "") else f"{module}.{name}"


def callable_name(function: object) -> str:
    """What to call a function in messages: not its repr, which may fail or be huge."""
    named: Any = function
    while issubclass(type(function), functools.partial):
        function = named = named.func
    try:
        name: object = named.__qualname__
    except Exception:  # noqa: BLE001 - there is none, or the user's own `__getattr__` raised
        name = None
    return str.__str__(name) if is_text(name) else class_name(type(function))


def text_of(error: BaseException) -> str:
    """What `str` gives for an exception."""
    try:
        return str.__str__(str(error))  # exactly a str, whatever kind of string the user's __str__ returned
    except BaseException:  # noqa: BLE001 - a user's __str__ may raise anything
        return f"<str() of {class_name(type(error))} failed>"


def describe(error: BaseException) -> str:
    """The exception as one line."""
    return f"{class_name(type(error))}: {text_of(error)}"


def is_text(value: object) -> TypeGuard[str]:
    """Whether the value is a str, and does not only say so."""
    return issubclass(type(value), str)
