"""Where what calls produce goes, and how it is packed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Coroutine, Iterable
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

from poise._protocol.codec import pack
from poise._protocol.words import type_name
from poise.errors import PayloadError

if TYPE_CHECKING:
    from poise._answers import Answer
    from poise._protocol.payloads import Packed


class Outlet(Protocol):
    """Takes what calls produce. Called on the runner's threads; it does not block for long.

    It may raise for a value that it cannot pass on, and has then done nothing.
    """

    def reply(self, answer: Answer) -> None:
        """An attempt has ended. Never raises for one with plain bytes or nothing."""

    def item(self, call_id: int, item: Packed) -> None:
        """A stream has produced an item."""

    def retire(self) -> None:
        """The code of a call asks for this worker to be replaced, to be heard before the reply of that call."""


def pack_result(result: Any) -> Packed:
    """Pack what a call returned.

    Raises:
        PayloadError: it cannot be pickled.
    """
    try:
        return pack(result, "the result", started=True)
    except PayloadError as error:
        if isinstance(result, GeneratorType | AsyncGeneratorType):
            reason = "it is a generator, whose items arrive one by one through stream()"
        elif isinstance(result, asyncio.Future):
            reason = "it is a future; await it in the worker, in an `async def` method"
        else:
            raise
        raise PayloadError("the result", reason, started=True) from error


def pack_item(item: Any) -> Packed:
    """Pack one item of a stream.

    Raises:
        PayloadError: it cannot be pickled.
    """
    return pack(item, "an item of the stream", started=True)


def is_coroutine(value: Any) -> TypeGuard[Coroutine[Any, Any, Any]]:
    """Whether the value is what an `async def` function gives; other awaitables, such as ObjectRefs, are values."""
    return isinstance(value, Coroutine)


def is_async_iterable(value: Any) -> TypeGuard[AsyncIterable[Any]]:
    """Whether the value is to be iterated on the loop."""
    return isinstance(value, AsyncIterable)


def check_iterable(source: Any) -> Iterable[Any]:
    """Return what a stream's function returned if it can be iterated.

    Raises:
        TypeError: it cannot.
    """
    items: Iterable[Any] = source
    if not hasattr(source, "__iter__") and not hasattr(source, "__getitem__"):
        raise TypeError(f"stream() needs an iterable, and this call returned {type_name(source)}; use run() for it")
    return items
