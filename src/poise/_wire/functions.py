"""Functions: how the one to call is named, and how it is found in the worker.

A method travels by its name, so that the worker's own class decides what runs (a subclass may override it). Any other
function is pickled by value, once for each function object, and the worker keeps it under its digest.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

from poise._wire.codec import Packed, Payload, pack_in_band, unpack
from poise._wire.culprits import culprit
from poise._wire.main_names import main_ledger
from poise._wire.traces import drop_frames
from poise._wire.words import callable_name, class_name, class_names, describe, is_text
from poise.errors import PayloadError, not_pickled

if TYPE_CHECKING:
    from poise._wire.redefined import KnownClasses


class PickledFunction(NamedTuple):
    """A function that travels by value."""

    digest: bytes
    """Names the function in the worker's cache; empty if it must not be kept, because it holds Ray objects."""
    packed: Packed


Target: TypeAlias = str | PickledFunction
"""What a call is to run: a method by its name, or a function."""

TypeNames: TypeAlias = Sequence[tuple[str, str]]
"""The classes of a worker's instance, most derived first, as (module, qualified name)."""

LONGEST_NAME: Final = 1000
"""Characters of a method's name."""
KEPT: Final = 1024
"""Functions that a worker keeps unpickled."""

_PLAIN_FUNCTIONS: Final = (
    types.FunctionType,
    types.BuiltinFunctionType,
    functools.partial,
    type,
)


def type_names(instance: object) -> TypeNames:
    """Name the classes of an instance for `FunctionBook`."""
    return [class_names(kind) for kind in type(instance).__mro__]


# ---------------------------------------------------------------------------------------------------------------------
# The caller's side

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


def method_name(function: Callable[..., Any], classes: frozenset[tuple[str, ...]] | None = None) -> str | None:
    """The name of a method if that is what the function is, else None.

    Args:
        function: an unbound method such as `Model.predict`, also through a class decorated with `@ray.remote`.
        classes: (module, qualified name) of the classes whose methods count; None means any class.
    """
    if isinstance(function, types.MethodType) and _is_ray_class(function.__self__):
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
    return isinstance(function, types.MethodType) and not (isinstance(owner, type) or _is_ray_class(owner))


def _is_ray_class(value: object) -> bool:
    return hasattr(value, "__ray_metadata__")  # Ray's ActorClass, which is an instance


def _owned(module: str | None, owner_name: str, classes: frozenset[tuple[str, ...]] | None) -> bool:
    if classes is None:
        return owner_name != "" and not owner_name.endswith("<locals>")
    return (module, owner_name) in classes


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


def names_like(name: str, instance: object) -> str:
    """Say which public names of the instance are near, as the end of a sentence."""
    try:
        names = [each for each in dir(instance) if not each.startswith("_")]
    except Exception:  # noqa: BLE001 - `__dir__` is the user's own code, and this is only a hint
        return ""
    near = difflib.get_close_matches(name, names, n=3)
    return f"; did you mean {' or '.join(repr(each) for each in near)}?" if near else ""


# ---------------------------------------------------------------------------------------------------------------------
# The worker's side


@dataclass(slots=True)
class Absent:
    """Stands for the instance in a pool without a factory, whose functions run alone."""


def construct(factory: Callable[[], Any] | None) -> object:
    """Make what a worker holds.

    Raises:
        TypeError: the factory is an `async def` function.
        BaseException: whatever the user's constructor raises.
    """
    if factory is None:
        return Absent()
    instance: object = factory()
    if isinstance(instance, Coroutine):
        instance.close()
        raise TypeError(
            "the factory is an async function, and a worker is made by a plain call; let it return an object with an "
            "async method that does the rest, and broadcast that when the pool is open"
        )
    return instance


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
