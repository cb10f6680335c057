"""Calls that take something of their caller's context along: variables that the user names, and a trace.

A pool that carries nothing has none of this: which kind of call it makes is decided once, where the pool is made.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from poise._answers import RAISED, Answer
from poise._engine.call import Call
from poise._protocol.headers import CONTEXT, pack_context
from poise._protocol.variables import places_of
from poise.errors import ConfigError, PayloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextvars import ContextVar

    from poise._core.calls import CallRecord
    from poise._engine.observers import Observers
    from poise._engine.tracing import Tracing, Trail
    from poise._lanes.lane import Parcel
    from poise._protocol.messages import Headers
    from poise._protocol.variables import Places
    from poise.options import PoolOptions

R = TypeVar("R")

_UNSET: Final[Any] = object()


def call_maker(
    settings: PoolOptions, pool: str, observers: Observers, kind: type[CarryingCall[Any]] | None = None
) -> Callable[..., Call[Any]]:
    """What makes the calls of a pool: of this kind, or the plainest that will do.

    Raises:
        ConfigError: a variable is none that a worker could find; what is needed for traces is not installed.
    """
    variables = [(variable, _places(variable)) for variable in settings.context]
    tracing: Tracing | None = None
    if settings.traces:
        tracing = _tracing(pool)
        observers.add_tracing(tracing)
    if variables or tracing is not None or kind is not None:
        carrying: type[CarryingCall[Any]] = CarryingCall if kind is None else kind
        return partial(carrying, variables, tracing)
    return Call  # not `Call[Any]`, which would note that in each call: 180 bytes and a microsecond


def _places(variable: ContextVar[Any]) -> Places:
    if places := places_of(variable):
        return places
    where = "a variable that a module has as a global, which the workers can import: not one of __main__"
    raise ConfigError("context", variable.name, where)


def _tracing(pool: str) -> Tracing:
    try:
        from poise._engine.tracing import Tracing
    except ImportError:
        remedy = "it needs opentelemetry-api, which is not installed: pip install 'poise[otel]'"
        raise ConfigError("traces", value=True, allowed=remedy) from None
    return Tracing(pool)


class CarryingCall(Call[R]):
    """A call that takes something along."""

    __slots__ = ("_context", "trail")

    def __init__(
        self, variables: Sequence[tuple[ContextVar[Any], Places]], tracing: Tracing | None, *call: Any
    ) -> None:
        """Take note of the context in which it is submitted."""
        super().__init__(*call)
        self._context: list[tuple[str, Places, Any]] = [
            (variable.name, places, value)
            for variable, places in variables
            if (value := variable.get(_UNSET)) is not _UNSET
        ]
        self.trail: Trail | None = None if tracing is None else tracing.follow(self)
        """What it leaves in its trace, until it has ended."""

    def headers(self, record: CallRecord) -> Headers:
        """What goes with an attempt.

        Raises:
            PayloadError: a variable cannot be pickled.
        """
        headers = {} if self.trail is None else self.trail.headers(record.past_attempts + 1)
        if (context := pack_context(self._context)) is not None:
            headers[CONTEXT] = context
        return headers

    def parcel(self, record: CallRecord) -> Parcel:
        """What goes to a worker of an attempt.

        Raises:
            PayloadError: a variable cannot be pickled.
        """
        parcel = super().parcel(record)
        parcel.headers = self.headers(record) or None
        return parcel

    @property
    def failure(self) -> BaseException | None:
        """What it has failed with. Not as `exception()`, which takes that for heard."""
        return self._exception

    def release(self) -> None:
        """Let go of what the call no longer needs; one that has no outcome then was refused just now."""
        if self.trail is not None and not self.done():
            self.trail.refused(sys.exception())
        super().release()
        self._context = []


def parcels_of(calls: Sequence[tuple[CallRecord, Call[Any]]]) -> tuple[list[Parcel], list[Answer]]:
    """Make a parcel of each call, and answer for those of which one cannot be made."""
    try:
        return [call.parcel(record) for record, call in calls], []
    except PayloadError:  # a variable of somebody's context
        pass
    parcels: list[Parcel] = []
    refused: list[Answer] = []
    for record, call in calls:
        try:
            parcels.append(call.parcel(record))
        except PayloadError as error:
            refused.append(Answer(record.id, RAISED, error))
    return parcels, refused
