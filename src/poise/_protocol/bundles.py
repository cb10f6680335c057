"""Bundles: packed values that travel as one value, each to be unpacked by itself."""

from __future__ import annotations

from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any, TypeAlias

from poise._protocol.lifting import LIFTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poise._protocol.payloads import Packed

Part: TypeAlias = Any
"""A packed value in a bundle that has arrived: a pickle, or with it its buffers and Ray's objects."""


class Bundle:
    """The values of a batch, in the order of its calls."""

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts

    @property
    def is_flat(self) -> bool:
        """Whether it is all short pickles, so that nothing has to be taken out of its own."""
        return all(type(part) is bytes and len(part) < LIFTED for part in self.parts)

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        """Leave to whoever carries it what is large and what Ray counts."""
        return type(self), ([_open(part) for part in self.parts],)


class Arguments(Bundle):
    """The same where each is packed as the arguments of its call, by somebody else than who has put them together."""

    __slots__ = ()


class Outcomes(Bundle):
    """What became of each of the values: results, or packed exceptions."""

    __slots__ = ("codes",)

    def __init__(self, parts: Sequence[Part], codes: Sequence[int]) -> None:
        super().__init__(parts)
        self.codes: list[int] = list(codes)
        """`RETURNED` or `RAISED` for each."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """As any bundle, and with them the verdicts."""
        kind, (parts,) = super().__reduce_ex__(protocol)
        return kind, (parts, self.codes)


def _open(packed: Packed) -> Part:
    if isinstance(packed, bytes):
        return _lifted(packed)
    buffers = [PickleBuffer(buffer) for buffer in packed.buffers]
    return _lifted(packed.data), buffers, list(packed.nested)


def _lifted(data: bytes) -> bytes | PickleBuffer:
    return data if len(data) < LIFTED else PickleBuffer(data)
