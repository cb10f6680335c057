"""The caller's book of functions: how each is named for a worker, or carried to it."""

from __future__ import annotations

import functools
import hashlib
import types
import weakref
from typing import TYPE_CHECKING, Any, Final, cast

from poise._lanes.culprits import culprit
from poise._protocol.functions import PickledFunction, Target, TypeNames, is_ray_class, method_name
from poise._protocol.main_names import main_ledger
from poise._protocol.payloads import Payload
from poise._protocol.pickling import pack_in_band
from poise._protocol.traces import drop_frames
from poise._protocol.words import callable_name, describe, is_text
from poise.errors import PayloadError, not_pickled

if TYPE_CHECKING:
    from collections.abc import Callable

    from poise._lanes.redefined import KnownClasses

LONGEST_NAME: Final = 1000
"""Characters of a method's name."""

_PLAIN_FUNCTIONS: Final = (
    types.FunctionType,
    types.BuiltinFunctionType,
    functools.partial,
    type,
)

_pickled: weakref.WeakKeyDictionary[Callable[..., Any], tuple[int, PickledFunction]] = weakref.WeakKeyDictionary()
"""With `main_ledger.changes` at that time: what a function takes along may be another one since."""


class FunctionBook:
    """Names functions for one worker, whose instance is of the given classes."""

    def __init__(self, classes: TypeNames, known: KnownClasses | None = None) -> None:
        """Know the worker's classes, and those of them that are defined here."""
        if known is not None:
            known.learn(classes)
        self._here = known
        self._classes = frozenset(tuple(name) for name in classes)
        self._known: weakref.WeakKeyDictionary[Callable[..., Any], Target] = weakref.WeakKeyDictionary()
        self._changes = main_ledger.changes

    def target(self, function: Callable[..., Any] | str) -> Target:
        """Name the function, pickling it if it has no name in the worker.

        Raises:
            PayloadError: it cannot be pickled, or it is bound to an object of this process.
        """
        # Other callables may be unhashable, compare equal without being the same, or change: never remembered.
        if type(function) is not types.FunctionType:
            return _checked(function) if type(function) is str else self._find(function)
        if self._changes != main_ledger.changes:
            self._changes = main_ledger.changes
            self._known.clear()
        try:
            return self._known[function]
        except KeyError:
            target = self._known[function] = self._find(function)
            return target

    def _find(self, function: Callable[..., Any] | str) -> Target:
        try:
            return _checked(function) if is_text(function) else self._look_at(cast("Callable[..., Any]", function))
        except PayloadError:
            raise
        except BaseException as error:  # a callable's attributes may be the user's own code
            drop_frames(error)
            raise PayloadError(f"the function {callable_name(function)}", describe(error), started=False) from error

    def _look_at(self, function: Callable[..., Any]) -> Target:
        name = method_name(function, self._classes)
        if name is None:
            return _pickle(function)
        if _is_bound_to_an_instance(function):
            what, remedy = f"the function {function.__qualname__}", f"give {function.__qualname__} of the class itself"
            reason = f"it is bound to an object of this process, and each worker has an instance of its own: {remedy}"
            raise PayloadError(what, reason, started=False)
        if self._here is not None and type(function) is types.FunctionType:
            self._here.check(function)
        return name


def _checked(name: Any) -> str:
    exact = str.__str__(name)
    if len(exact) > LONGEST_NAME or not (exact.isascii() or _is_encodable(exact)):
        raise PayloadError("the method's name", "it is no name that an object could have", started=False)
    return exact


def _is_encodable(name: str) -> bool:
    """Whether UTF-8 has it: halves of surrogate pairs are in no name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_bound_to_an_instance(function: Callable[..., Any]) -> bool:
    owner: Any = getattr(function, "__self__", None)
    return isinstance(function, types.MethodType) and not (isinstance(owner, type) or is_ray_class(owner))


def _stays_as_it_is(function: object) -> bool:
    return isinstance(function, _PLAIN_FUNCTIONS)


def _pickle(function: Callable[..., Any]) -> PickledFunction:
    keep = _stays_as_it_is(function)
    if keep and (known := _pickled.get(function)) is not None and known[0] == main_ledger.changes:
        return known[1]
    try:
        packed = pack_in_band(function)
    except BaseException as error:
        drop_frames(error)
        reason = describe(error) + culprit(function, pack_in_band)
        raise not_pickled(f"the function {callable_name(function)}", reason, error, started=False) from error
    if isinstance(packed, Payload):
        return PickledFunction(b"", packed)
    pickled = PickledFunction(hashlib.blake2b(packed, digest_size=16).digest(), packed)
    if keep:
        _pickled[function] = main_ledger.changes, pickled
    return pickled
