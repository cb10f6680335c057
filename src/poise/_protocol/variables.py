"""Context variables by name: they cannot be pickled, and each process has its own."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import ContextVar

Places: TypeAlias = tuple[tuple[str, str], ...]
"""Modules, and the name under which a variable is found in each."""


def places_of(variable: ContextVar[Any]) -> Places:
    """Where a variable is found among the globals of what this process has imported; the best guess comes first."""
    found: list[tuple[str, str]] = []
    own_globals = _globals_of(sys.modules.get("__main__"))  # known by several names, none of which a worker can import
    for module_name, module in list(sys.modules.items()):
        if _globals_of(module) is not own_globals:
            found += [(module_name, name) for name, value in list(_globals_of(module).items()) if value is variable]
    return tuple(reversed(found))  # a module that imports another is there before that one


def _globals_of(module: Any) -> dict[str, Any]:
    given: object = getattr(module, "__dict__", None)  # somebody may have put something else there than a module
    return cast("dict[str, Any]", given) if isinstance(given, dict) else {}


def find_variable(places: Places) -> ContextVar[Any]:
    """The variable: where this process has imported it already, if it has anywhere.

    Raises:
        Exception: the module cannot be imported, or has no such global.
    """
    for module_name, name in places:
        if (module := sys.modules.get(module_name)) is not None and hasattr(module, name):
            return getattr(module, name)  # type: ignore[no-any-return]
    module_name, name = places[0]
    return getattr(importlib.import_module(module_name), name)  # type: ignore[no-any-return]


def reduce_variable(variable: ContextVar[Any]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """How to pickle a variable, such as one that a function of `__main__` uses.

    Raises:
        TypeError: it is no global of such a module.
    """
    if places := places_of(variable):
        return find_variable, (places,)
    raise TypeError(f"cannot pickle the ContextVar {variable.name!r}: it is no global of a module but __main__")
