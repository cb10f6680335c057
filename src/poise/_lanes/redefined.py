"""Notices a method of a class that was defined anew since the pool was opened: the workers have the older one.

Methods travel by name, so the worker's own class decides what runs. In a notebook that is easily another than the one
in the cell that was just run, and nothing would say so.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import types
from typing import TYPE_CHECKING, Any

from poise._protocol.words import class_names

if TYPE_CHECKING:
    from collections.abc import Iterable

_log = logging.getLogger("poise")


class KnownClasses:
    """The classes of a pool's workers, as they were here when it was opened."""

    def __init__(self, factory: Any) -> None:
        """Know those of the factory, if it is a class."""
        made = factory
        while isinstance(made, functools.partial):
            made = made.func
        self._kinds: dict[tuple[str, str], type] = {}
        self._is_learnt = False
        self._told: set[type] = set()
        if isinstance(made, type):
            self._kinds = {class_names(kind): kind for kind in made.__mro__}

    def learn(self, names: Iterable[Iterable[str]]) -> None:
        """Find the classes of the first worker's instance, given by module and qualified name, as they are here now."""
        if self._is_learnt:
            return
        self._is_learnt = True
        for module, name in names:
            kind = _found(module, name)
            if kind is not None:
                self._kinds.setdefault((module, name), kind)

    def check(self, function: types.FunctionType) -> None:
        """Warn, once for each class, if the function is a method of a newer class of the same name."""
        owner, _, name = function.__qualname__.rpartition(".")
        kind = self._kinds.get((function.__module__, owner))
        if kind is None or kind in self._told:
            return
        had = kind.__dict__.get(name)
        if type(had) is not types.FunctionType or had is function or _code_of(had) == _code_of(function):
            return
        self._told.add(kind)
        _log.warning(
            "%s is of a class %s that was defined anew after the pool had been opened, and the workers run the older "
            "one; open a new pool to use the new one",
            function.__qualname__,
            owner,
        )


def _code_of(function: types.FunctionType) -> object:
    """The code that its author wrote, below decorators such as `poise.batched`."""
    return getattr(inspect.unwrap(function), "__code__", None)


def _found(module: str, name: str) -> type | None:
    found: Any = sys.modules.get(module)
    for each in name.split("."):
        found = getattr(found, "__dict__", {}).get(each)
    return found if isinstance(found, type) else None
