"""The names of `__main__`: one namespace for all functions of a worker, and one for all of the caller.

Cloudpickle carries a function of `__main__` by value and gives it globals of its own, so that what one function
assigns, such as an initializer, another would not see. Here such a function is bound to the `__main__` of where it
arrives: in a worker to a namespace that stands for the caller's, and at the caller, if it comes back, to the real one.

The sender numbers the values that a name has had (`Ledger`). In the worker a name is set when it first arrives, unless
the worker's own code has set it already, and again when it arrives in another version; what the worker's code assigns
meanwhile stays. A newer *definition* (function, class, module) takes the place of the older one. A function with
another version of any other *value* gets a copy of the namespace, a new world, with that value in it: calls that are
under way keep theirs, as `for n in ...: pool.submit(lambda: n)` needs it.

The attributes of a class that travels by value are treated alike: set once, and again when the sender has changed them.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import types
import weakref
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from poise._protocol.slots import with_slots, without_members

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Versions: TypeAlias = dict[str, int]

KEPT_WORLDS: Final = 32
"""Namespaces that functions which arrive can still join; functions keep their own alive."""

_OWN: Final = os.urandom(16)
"""Names the `__main__` of this process."""

_IMPLICIT: Final = ("__name__", "__package__", "__path__", "__file__")
"""What functions use without naming it: for relative imports, warnings and tracebacks."""

_SCALARS: Final = frozenset({int, float, complex, bool, str, bytes, type(None)})

_lru_cache_wrapper: Any = type(functools.lru_cache(len))
_DEFINITIONS: Final = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type, _lru_cache_wrapper)


# ---------------------------------------------------------------------------------------------------------------------
# The sender's side


class Ledger:
    """Numbers the values that names have had, as often as somebody looked."""

    def __init__(self) -> None:
        """Know of no name yet."""
        self._seen: dict[str, tuple[Callable[[], Any], int]] = {}
        self._lock = threading.RLock()  # the garbage collector may run anything that pickles
        self.changes = 0
        """How often a name was seen to have another value than before."""

    def version(self, name: str, value: Any) -> int:
        """The number of this value of the name."""
        with self._lock:
            if name not in self._seen:
                version = 1
            else:
                last, version = self._seen[name]
                if _is_same(last(), value):
                    return version
                version += 1
                self.changes += 1
            self._seen[name] = _holder(value), version
        return version


class _Names(NamedTuple):
    """The globals of a function on its way: versions of what it takes along."""

    origin: bytes
    """Whose `__main__` they belong to."""
    values: Versions
    definitions: Versions


main_ledger: Final = Ledger()
"""Of the names of `__main__`."""

_class_ledgers: weakref.WeakKeyDictionary[type, Ledger] = weakref.WeakKeyDictionary()
_class_origins: weakref.WeakKeyDictionary[type, bytes] = weakref.WeakKeyDictionary()
"""Of classes that have come from elsewhere."""


def reduce_function(function: types.FunctionType, reduced: Any) -> Any:
    """Have a function of `__main__` bound to the one `__main__` where it arrives; others are left to cloudpickle.

    Args:
        function: what is pickled.
        reduced: what cloudpickle makes of it.
    """
    namespace = function.__globals__
    origin = _origin_of(namespace)
    parts = None if origin is None else _parts(reduced, "_function_setstate")
    if origin is None or parts is None:
        return reduced
    (code, *_, closure), (attributes, members) = parts[1], parts[2]
    taken: dict[str, Any] = members["__globals__"]
    taken.update({name: namespace[name] for name in _IMPLICIT if name in namespace})
    if namespace.get(function.__qualname__) is function:
        taken[function.__qualname__] = function
    names = _Names(origin, {}, {})
    for name, value in taken.items():
        versions = names.definitions if isinstance(value, _DEFINITIONS) else names.values
        versions[name] = main_ledger.version(name, value)
    state = attributes, members, tuple(names)
    return make_function, (code, tuple(names), closure), state, None, None, set_function


def reduce_class(kind: type, reduced: Any) -> Any:
    """Have the attributes of a class that travels by value set once; others are left to cloudpickle."""
    parts = _parts(reduced, "_class_setstate")
    if parts is None:
        return reduced
    attributes: dict[str, Any] = without_members(parts[2][0])
    ledger = _class_ledgers.setdefault(kind, Ledger())
    versions = {name: 1 if name == "_abc_impl" else ledger.version(name, value) for name, value in attributes.items()}
    namespace, name = sys.modules["__main__"].__dict__, kind.__qualname__
    own_name = (name, main_ledger.version(name, kind)) if namespace.get(name) is kind else None
    state = attributes, parts[2][1], _class_origins.get(kind, _OWN), versions, own_name
    return parts[0], with_slots(kind, parts[1]), state, None, None, set_class


def reduce_cached(cached: Any) -> Any:
    """Carry a function of `__main__` with its `functools.cache` or `lru_cache`, which pickle takes to be importable."""
    if getattr(cached, "__module__", None) != "__main__":
        return NotImplemented
    return make_cached, (cached.__wrapped__, cached.cache_parameters())


def _parts(reduced: Any, setter: str) -> tuple[Any, ...] | None:
    """What cloudpickle has made of an object that it carries by value: how to make it, of what, and its state."""
    if type(reduced) is not tuple:
        return None
    parts: tuple[Any, ...] = reduced  # pyright: ignore[reportUnknownVariableType] - whatever they are
    return parts if parts[5:] == (getattr(_cloudpickle(), setter),) else None


def _is_same(last: Any, value: Any) -> bool:
    return last is value or (type(last) is type(value) and type(value) in _SCALARS and last == value)


def _holder(value: Any) -> Callable[[], Any]:
    """Keep the value in mind, and alive only if it cannot be referred to weakly."""
    try:
        ref = weakref.ref(value)
    except TypeError:
        return lambda: value
    return lambda: ref if (alive := ref()) is None else alive  # the reference itself is no value that a name has


def _origin_of(namespace: dict[str, Any]) -> bytes | None:
    """Whose `__main__` this is, or None if it is another module's."""
    world = _main.world_of(namespace)
    if world is not None:
        return world.origin
    return _OWN if namespace is sys.modules["__main__"].__dict__ else None


@functools.cache
def _cloudpickle() -> Any:
    from ray.cloudpickle import cloudpickle

    return cloudpickle


# ---------------------------------------------------------------------------------------------------------------------
# The receiver's side


class _World:
    """One namespace, and which versions its names have."""

    def __init__(self, namespace: dict[str, Any], origin: bytes) -> None:
        self.namespace = namespace
        self.origin = origin
        self.claimed: Versions = {}
        """Versions of values that functions here were made for."""
        self.applied: Versions = {}
        """Versions that names were set to."""

    def suits(self, values: Versions) -> bool:
        """Whether no value here has another version."""
        return all(self.claimed.get(name, version) == version for name, version in values.items())

    def copy_for(self, values: Versions) -> _World:
        """A world with the same contents, but for the values of which other versions come."""
        world = _World(dict(self.namespace), self.origin)
        world.claimed, world.applied = dict(self.claimed), dict(self.applied)
        for name, version in values.items():
            if world.claimed.get(name, version) != version:
                world.namespace.pop(name, None)
                world.applied.pop(name, None)
        return world

    def apply(self, taken: Mapping[str, Any], values: Versions, definitions: Versions) -> None:
        """Set the names that are to be set."""
        for name, version in (*values.items(), *definitions.items()):
            before = self.applied.get(name, 0)
            if version == before or (name in definitions and version < before):
                continue
            self.applied[name] = version
            if before or name not in self.namespace:
                self.namespace[name] = taken[name]


class _Mirror(types.ModuleType):
    """Stands for the caller's `__main__` in `sys.modules`, so that plain pickle finds its classes.

    The caller's script is no attribute of it, though its functions find their `__file__`: multiprocessing would run the
    script in each process that it spawns.
    """

    __file__: Any = property()  # it raises AttributeError


class _Main:
    """The namespaces of callers, in this process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._worlds: list[_World] = []
        self._is_worker = False

    def become_worker(self) -> None:
        """Have the first world that comes stand for `__main__` here."""
        self._is_worker = True

    def world_of(self, namespace: dict[str, Any]) -> _World | None:
        for world in self._worlds:
            if world.namespace is namespace:
                return world
        return None

    def join(self, names: _Names) -> _World:
        """The oldest world in which a function with these names can live."""
        with self._lock:
            mine = [world for world in self._worlds if world.origin == names.origin]
            world = next((world for world in mine if world.suits(names.values)), None)
            if world is None:
                world = mine[0].copy_for(names.values) if mine else self._first(names.origin)
                self._worlds.append(world)
                del self._worlds[1:-KEPT_WORLDS]
            world.claimed.update(names.values)
            return world

    def apply(self, namespace: dict[str, Any], taken: Mapping[str, Any], names: _Names) -> None:
        """Set the names that a function has taken along."""
        with self._lock:
            world = self.world_of(namespace)
            if world is None:  # it has been forgotten meanwhile
                namespace.update(taken)
            else:
                world.apply(taken, names.values, names.definitions)

    def define(self, name: str, version: int, kind: type, origin: bytes) -> None:
        """Set the name of a class that has come by itself."""
        world = self.join(_Names(origin, {}, {name: version}))
        with self._lock:
            world.apply({name: kind}, {}, {name: version})

    def _first(self, origin: bytes) -> _World:
        module = _Mirror("__main__")
        module.__dict__["__builtins__"] = __builtins__
        if self._is_worker and not self._worlds:
            _replaced.append(sys.modules["__main__"])
            sys.modules["__main__"] = module
        return _World(module.__dict__, origin)


_main: Final = _Main()
_replaced: Final[list[types.ModuleType]] = []
"""Ray's own `__main__`, which is still running."""

_class_versions: weakref.WeakKeyDictionary[type, Versions] = weakref.WeakKeyDictionary()


def become_worker() -> None:
    """Say that this process works for a caller, whose `__main__` is to stand for its own."""
    _main.become_worker()


def make_function(code: types.CodeType, names: tuple[Any, ...], closure: Any) -> types.FunctionType:
    """Make a function of `__main__`, whose state is to follow."""
    arrived = _Names(*names)
    namespace = sys.modules["__main__"].__dict__ if arrived.origin == _OWN else _main.join(arrived).namespace
    return types.FunctionType(code, namespace, None, None, closure)


def set_function(function: types.FunctionType, state: tuple[Any, ...]) -> None:
    """Give a function its state, and the namespace what the function has taken along."""
    attributes, members, names = state
    taken = members["__globals__"]
    _cloudpickle()._function_setstate(function, (attributes, {**members, "__globals__": {}}))  # noqa: SLF001
    arrived = _Names(*names)
    if arrived.origin != _OWN:
        _main.apply(function.__globals__, taken, arrived)


def set_class(kind: type, state: tuple[Any, ...]) -> type:
    """Give a class those of its attributes that it has not been given yet."""
    attributes, members, origin, versions, own_name = state
    if origin == _OWN and kind in _class_ledgers:
        return kind  # it has come back to where it was made
    if origin != _OWN:
        _class_origins[kind] = origin
    known = _class_versions.setdefault(kind, {})
    new = {name: value for name, value in attributes.items() if versions[name] > known.get(name, 0)}
    known.update({name: versions[name] for name in new})
    _cloudpickle()._class_setstate(kind, (new, members))  # noqa: SLF001
    if own_name is not None and origin != _OWN:
        name, version = own_name
        _main.define(name, version, kind, origin)
    return kind


def make_cached(function: Any, parameters: dict[str, Any]) -> Any:
    """Give a function its cache, which is empty here."""
    return functools.lru_cache(**parameters)(function)
