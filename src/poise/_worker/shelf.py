"""The worker's shelf of functions: finds what a call is to run."""

from __future__ import annotations

import functools
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from poise._protocol.codec import unpack
from poise._protocol.functions import PickledFunction, Target, names_like
from poise._protocol.traces import drop_frames
from poise._protocol.words import callable_name, class_name, describe
from poise.errors import PayloadError

if TYPE_CHECKING:
    from collections.abc import Callable

    from poise._protocol.payloads import Packed

KEPT: Final = 1024
"""Functions that a worker keeps unpickled."""


@dataclass(slots=True)
class Absent:
    """Stands for the instance in a pool without a factory, whose functions run alone."""


class FunctionShelf:
    """Finds what a call is to run; keeps the functions that came pickled."""

    def __init__(self, instance: object) -> None:
        """Serve calls on the instance, or on nothing if it is `Absent`."""
        self._instance = instance
        self._alone = isinstance(instance, Absent)
        self._kept: OrderedDict[bytes, Callable[..., Any]] = OrderedDict()
        self._defined: OrderedDict[bytes, Packed] = OrderedDict()

    def find(self, target: Target) -> Callable[..., Any]:
        """Return what is to be called with the call's own arguments.

        Raises:
            AttributeError: there is no method of that name. A property may raise anything.
            PayloadError: the function cannot be unpickled here.
        """
        if isinstance(target, str):
            try:
                method: object = getattr(self._instance, target)
            except AttributeError:
                better = self._no_such_method(target)
                if better is None:
                    raise
                raise better from None
            if not callable(method):
                kind = class_name(type(self._instance))
                raise TypeError(f"{target!r} of {kind!r} is no method: it is of type {class_name(type(method))!r}")
            return method
        function = self._load(target)
        return function if self._alone else functools.partial(function, self._instance)

    def adds_instance(self, target: Target) -> bool:
        """Whether `find` adds the worker's instance to the arguments of this function."""
        return not (self._alone or isinstance(target, str))

    def name_of(self, target: Target) -> str:
        """What to call the function of a call that runs."""
        if isinstance(target, str):
            method = getattr(type(self._instance), target, None)
            return target if method is None else callable_name(method)
        function = self._kept.get(target.digest)
        return "" if function is None else callable_name(function)

    def define(self, function: PickledFunction) -> None:
        """Know a function by its digest, for calls that come without it. May run beside `find`."""
        self._defined[function.digest] = function.packed
        self._defined.move_to_end(function.digest)
        if len(self._defined) > KEPT:
            self._defined.popitem(last=False)

    def _load(self, pickled: PickledFunction) -> Callable[..., Any]:
        digest, packed = pickled
        kept = self._kept.get(digest)
        if kept is not None:
            return kept
        try:
            function: Callable[..., Any] = unpack(packed or self._defined[digest])
        except BaseException as error:
            drop_frames(error)
            raise PayloadError("the function", describe(error), started=False) from error
        if digest:
            self._kept[digest] = function
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return function

    def _no_such_method(self, name: str) -> AttributeError | None:
        """Say which names are near, or None if the name exists and its own code raised the error."""
        if self._alone:
            return AttributeError(
                f"{name!r} is a method's name, and this pool has no factory, so its workers have no instance; "
                "give the function itself, or open the pool with a factory"
            )
        kind = type(self._instance)
        if hasattr(kind, name):
            return None
        return AttributeError(
            f"{class_name(kind)!r} has no method {name!r}, as it was when the worker started"
            f"{names_like(name, self._instance)}"
        )
