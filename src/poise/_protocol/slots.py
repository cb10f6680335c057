"""Slots of classes that travel by value.

Cloudpickle makes such a class anew without its `__slots__`, so that an instance made in a worker has its state in a
`__dict__`, which an instance of the caller's own class has no place for. Here the class is made with them.
"""

from __future__ import annotations

import types
from typing import Any, Final, Generic, NamedTuple, TypeVar

T = TypeVar("T")

_CLASS: Final = 6
"""How many arguments make a class; an enum takes others."""
_BASES: Final = 2
"""Which of them are the bases, as the class statement has them."""
_CONTAINERS: Final = frozenset({str, tuple, list, dict, set, frozenset})
"""What the slots are given in, unless it is an iterator that has been used up."""


class _Sample(NamedTuple, Generic[T]):
    item: T


_GENERIC_ITEM: Final[Any] = _Sample.__dict__["__class_getitem__"].__func__
"""What a `NamedTuple` takes from `Generic`; Python's releases keep it in different places."""


def with_slots(kind: type, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """What cloudpickle makes the class of (metaclass, name, bases, first attributes...), with its slots."""
    slots: Any = kind.__dict__.get("__slots__")
    if not (type(slots) in _CONTAINERS and len(arguments) == _CLASS) or NamedTuple in arguments[_BASES]:
        return arguments  # a NamedTuple makes its own and lets nobody else
    names = (slots,) if type(slots) is str else tuple(slots)
    return *arguments[:3], {**arguments[3], "__slots__": names}, *arguments[4:]


def without_members(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a class without those that it has from being made, of which cloudpickle overlooks two.

    These are the members of slots with private names, and what a `NamedTuple` that is generic takes from `Generic`.
    """
    return {name: value for name, value in attributes.items() if not _comes_by_itself(value)}


def _comes_by_itself(value: Any) -> bool:
    kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType] - narrowing would make it unknown
    return kind is types.MemberDescriptorType or (kind is classmethod and value.__func__ is _GENERIC_ITEM)
