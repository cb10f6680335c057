"""The factory on its way to its workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poise._lanes.culprits import culprit
from poise._protocol.codec import pack
from poise._protocol.pickling import pack_in_band
from poise.errors import PayloadError

if TYPE_CHECKING:
    from collections.abc import Callable

    from poise._protocol.payloads import Packed


def pack_factory(factory: Callable[[], Any]) -> Packed:
    """Pack a factory.

    Raises:
        PayloadError: it cannot be pickled; the error names the part of it that is to blame.
    """
    try:
        return pack(factory, "the factory")
    except PayloadError as whole:
        error = _failing_part(factory) or whole
        reason = error.reason + culprit(factory, pack_in_band)
        raise PayloadError(error.what, reason, started=False) from error.__cause__


def _failing_part(factory: Callable[[], Any]) -> PayloadError | None:
    """Which part of a factory that is made of some cannot travel, as an executor's with an initializer."""
    for what, part in getattr(factory, "__poise_parts__", tuple)():
        try:
            pack(part, what)
        except PayloadError as error:
            return error
    return None
