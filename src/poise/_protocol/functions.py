"""Functions: how the one to call is named.

A method travels by its name, so that the worker's own class decides what runs (a subclass may override it). Any other
function is pickled by value, once for each function object, and the worker keeps it under its digest.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from poise._protocol.words import class_names

if TYPE_CHECKING:
    from poise._protocol.payloads import Packed


class PickledFunction(NamedTuple):
    """A function that travels by value."""

    digest: bytes
    """Names the function in the worker's cache; empty if it must not be kept, because it holds Ray objects."""
    packed: Packed


Target: TypeAlias = str | PickledFunction
"""What a call is to run: a method by its name, or a function."""

TypeNames: TypeAlias = Sequence[tuple[str, str]]
"""The classes of a worker's instance, most derived first, as (module, qualified name)."""


def type_names(instance: object) -> TypeNames:
    """Name the classes of an instance for `FunctionBook`."""
    return [class_names(kind) for kind in type(instance).__mro__]


def method_name(function: Callable[..., Any], classes: frozenset[tuple[str, ...]] | None = None) -> str | None:
    """The name of a method if that is what the function is, else None.

    Args:
        function: an unbound method such as `Model.predict`, also through a class decorated with `@ray.remote`.
        classes: (module, qualified name) of the classes whose methods count; None means any class.
    """
    if isinstance(function, types.MethodType) and is_ray_class(function.__self__):
        return function.__name__  # so Ray's `Actor.increment` is bound to it
    if isinstance(function, types.MethodDescriptorType | types.WrapperDescriptorType):
        owner = function.__objclass__
        return function.__name__ if _owned(owner.__module__, owner.__qualname__, classes) else None
    if not isinstance(function, types.FunctionType | types.MethodType):
        return None
    owner_name, _, name = function.__qualname__.rpartition(".")
    if not name.isidentifier() or not _owned(function.__module__, owner_name, classes):
        return None
    if name.startswith("__") and not name.endswith("__"):
        return f"_{owner_name.rpartition('.')[2].lstrip('_')}{name}"
    return name


def is_ray_class(value: object) -> bool:
    """Whether it is a class decorated with `@ray.remote`."""
    return hasattr(value, "__ray_metadata__")  # Ray's ActorClass, which is an instance


def _owned(module: str | None, owner_name: str, classes: frozenset[tuple[str, ...]] | None) -> bool:
    if classes is None:
        return owner_name != "" and not owner_name.endswith("<locals>")
    return (module, owner_name) in classes


def names_like(name: str, instance: object) -> str:
    """Say which public names of the instance are near, as the end of a sentence."""
    try:
        names = [each for each in dir(instance) if not each.startswith("_")]
    except Exception:  # noqa: BLE001 - `__dir__` is the user's own code, and this is only a hint
        return ""
    near = difflib.get_close_matches(name, names, n=3)
    return f"; did you mean {' or '.join(repr(each) for each in near)}?" if near else ""
