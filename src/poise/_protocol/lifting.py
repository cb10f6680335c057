"""Long strings of bytes or characters, lifted out of a pickle so that it need not copy them.

Pickle takes `bytes`, `bytearray` and `str` into itself, which copies them here and again on arrival; a lane then
carries the pickle, and Ray pickles that anew. A lifted one is a buffer beside the pickle (PEP 574), as an array is, and
copied at most once more: where it becomes what it was, if it did not arrive as that.
"""

from __future__ import annotations

from itertools import islice
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LIFTED: Final = 64 * 1024
"""Bytes or characters from which on it pays."""

LOOKED_AT: Final = 256
"""Items of a container that are looked at for long strings if it has to go through cloudpickle, which takes longer."""

STRINGS: Final = frozenset({bytes, bytearray, str})
"""The types of which exactly these, and no subclasses, are lifted."""

_SEQUENCES: Final = frozenset({list, tuple})


class Lifted:
    """Stands in a pickle for a long string."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes | bytearray | str) -> None:
        self._value = value

    def __reduce_ex__(self, _protocol: Any) -> tuple[Callable[[Any], Any], tuple[PickleBuffer]]:
        value = self._value
        if isinstance(value, str):
            return text_of, (PickleBuffer(value.encode("utf-8", "surrogatepass")),)
        return bytes_of if isinstance(value, bytes) else bytearray_of, (PickleBuffer(value),)


def text_of(buffer: Any) -> str:
    """The characters that were lifted."""
    return str(buffer, "utf-8", "surrogatepass")


def bytes_of(buffer: Any) -> bytes:
    """The bytes that were lifted: those that have arrived if they are `bytes`, else a copy."""
    owner = memoryview(buffer).obj
    return owner if type(owner) is bytes and len(owner) == len(buffer) else bytes(buffer)


def bytearray_of(buffer: Any) -> bytearray:
    """The bytearray that was lifted, likewise: one that has arrived is nobody else's."""
    owner = memoryview(buffer).obj
    return owner if type(owner) is bytearray and len(owner) == len(buffer) else bytearray(buffer)


def is_long(value: bytes | bytearray | str) -> bool:
    """Whether a string is to be lifted."""
    return len(value) >= LIFTED


def long_strings(values: Sequence[Any]) -> list[Any]:
    """Those that are among the values themselves, and among the first items of lists, tuples and dicts."""
    found: list[Any] = []
    for value in values:
        kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType] - as below
        if kind is dict:
            items: Any = value.values()
        else:
            items = value if kind in _SEQUENCES else (value,)
        found += [item for item in islice(items, LOOKED_AT) if type(item) in STRINGS and is_long(item)]
    return found


class Lift:
    """Lifts the strings of one pickle. What is there twice is lifted once, so that it arrives as one object."""

    __slots__ = ("_lifted",)

    def __init__(self) -> None:
        self._lifted: dict[int, Any] = {}

    def string(self, value: Any) -> Any:
        """The value, or what stands for it if it is a long string."""
        if type(value) not in STRINGS or not is_long(value):
            return value
        return self._lifted.setdefault(id(value), Lifted(value))

    def flat(self, value: Any) -> Any:
        """The value with what stands for long strings in it; a list, tuple or dict is looked through, not deeper."""
        if id(value) in self._lifted:
            return self._lifted[id(value)]
        kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType] - narrowing would make the items unknown
        if kind is dict:
            lifted: Any = {self.string(key): self.string(item) for key, item in value.items()}
        elif kind in _SEQUENCES:
            lifted = kind(self.string(item) for item in value)
        else:
            return self.string(value)
        self._lifted[id(value)] = lifted
        return lifted
