"""Pickles of anything, as cloudpickle makes them: with Ray's objects and big buffers beside them."""

from __future__ import annotations

import functools
import io
import pickle
import sys
import types
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from poise._protocol import main_names
from poise._protocol.buffers import COPIED_BELOW
from poise._protocol.lifting import Lifted
from poise._protocol.payloads import PROTOCOL, Packed, Payload
from poise._protocol.proxies import reduce_proxy
from poise._protocol.tensors import reduce_tensor
from poise._protocol.variables import reduce_variable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def pack_deep(value: Any, awaited: Sequence[Any] = (), long: Sequence[Any] = ()) -> Packed:
    """Pack a value. Raises whatever pickling raises.

    Args:
        value: anything; an `Awaited` in it stands for an ObjectRef.
        awaited: these ObjectRefs.
        long: long strings that are somewhere in the value, and are to be lifted out of the pickle.
    """
    data, buffers, nested = _deep_pickler()(_Whole(value, long) if long else value)
    if buffers or nested or awaited:
        return Payload(data, buffers, nested, awaited)
    return data


def pack_in_band(value: Any) -> Packed:
    """Pack a value without out-of-band buffers, for what is kept or wrapped. Raises whatever pickling raises."""
    data, _, nested = _deep_pickler()(value, in_band=True)
    return Payload(data, (), nested) if nested else data


class _StandIn:
    """Stands in a pickle for something else."""

    __slots__ = ()

    def reduced(self, pickler: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """What the pickler is to pickle."""
        raise NotImplementedError


class _Whole(_StandIn):
    """A value behind the long strings in it, each lifted; wherever the pickler then meets one, it knows it already."""

    __slots__ = ("known", "lifted", "value")

    def __init__(self, value: Any, long: Sequence[Any]) -> None:
        self.value = value
        self.lifted = [(string, Lifted(string)) for string in {id(string): string for string in long}.values()]
        self.known = _Known(self.lifted)

    def reduced(self, pickler: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:  # noqa: ARG002 (its shape)
        return _last, (*(lifted for _, lifted in self.lifted), self.known, self.value)


class _Known(_StandIn):
    """Stands between the two: here the pickler is told what it knows."""

    __slots__ = ("lifted",)

    def __init__(self, lifted: Sequence[tuple[Any, Lifted]]) -> None:
        self.lifted = lifted

    def reduced(self, pickler: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # One entry takes the place of another: the pickler numbers new ones by how many there are.
        memo = pickler.memo.copy()
        for string, lifted in self.lifted:
            number, _ = memo.pop(id(lifted))
            memo[id(string)] = number, string
        pickler.memo = memo
        return _last, (None,)


def _last(*parts: Any) -> Any:
    return parts[-1]


# ---------------------------------------------------------------------------------------------------------------------
# Ray's objects inside pickles. A pickle made outside Ray must not contain them: Ray could not count the reference
# and would keep the object for ever.


class Awaited(_StandIn):
    """Stands in a pickle for an ObjectRef whose value the function is to get."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def reduced(self, pickler: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:  # noqa: ARG002 (its shape)
        return _awaited, (self.index,)


def _nested(_index: int) -> Any:
    """Never called: the name under which a lifted Ray object is pickled."""
    raise pickle.UnpicklingError("a reference to a Ray object was unpickled without its payload")


def _awaited(_index: int) -> Any:
    """Never called: the name under which an awaited argument is pickled."""
    raise pickle.UnpicklingError("an ObjectRef argument was unpickled without its payload")


class Unpickler(pickle.Unpickler):
    """Puts lifted Ray objects and awaited values back in their places."""

    def __init__(
        self, data: bytes, buffers: list[bytearray | memoryview], nested: Sequence[Any], awaited: Sequence[Any]
    ) -> None:
        super().__init__(io.BytesIO(data), buffers=buffers)
        self._lifted = {"_nested": nested.__getitem__, "_awaited": awaited.__getitem__}

    def find_class(self, module: str, name: str) -> Any:
        if module == __name__ and name in self._lifted:
            return self._lifted[name]
        return super().find_class(module, name)


def is_object_ref(value: object) -> bool:
    """Whether it is a reference to an object of Ray's."""
    return (ref_type := object_ref_type()) is not None and issubclass(type(value), ref_type)


def object_ref_type() -> type[Any] | None:
    """Ray's ObjectRef, or None while this process has not imported Ray and so can have none."""
    ray = sys.modules.get("ray")
    return getattr(ray, "ObjectRef", None)


def _is_small_and_sealed(value: object) -> bool:
    """Whether it is a small array that cannot be written to, such as a part of a large one that has arrived."""
    numpy = sys.modules.get("numpy")
    if numpy is None or type(value) is not numpy.ndarray:
        return False
    array: Any = value
    return bool(not array.flags.writeable and array.nbytes < COPIED_BELOW)


def _reduce_other(obj: Any, registered: Any) -> Any:
    """How to pickle what cloudpickle leaves to pickle itself, except what has a function `registered` for that."""
    reduced = NotImplemented if type(obj) in registered else reduce_tensor(obj)
    return reduce_proxy(obj) if reduced is NotImplemented else reduced


@functools.cache
def _deep_pickler() -> Callable[..., tuple[bytes, list[Any], list[Any]]]:
    """Make the pickler for anything but scalars, on first use: it needs Ray, whose import takes a second."""
    import ray
    from ray import cloudpickle
    from ray.actor import ActorHandle

    base: Any = cloudpickle.Pickler
    inherited: Any = base.reducer_override
    lifted = (ray.ObjectRef, ActorHandle)
    cached = type(functools.lru_cache(len))

    # `reducer_override` and not `persistent_id`: pickle asks it about classes it does not know, not about every object.
    class DeepPickler(base):  # type: ignore[misc]
        dispatch_table = base.dispatch_table.new_child({ContextVar: reduce_variable})
        nested: list[Any]

        def reducer_override(self, obj: Any) -> Any:
            if issubclass(type(obj), lifted):
                self.nested.append(obj)
                return _nested, (len(self.nested) - 1,)
            if issubclass(type(obj), _StandIn):
                return obj.reduced(self)
            if _is_small_and_sealed(obj):  # so that it arrives writable: the pickle says what may not be written to
                return obj.copy().__reduce_ex__(PROTOCOL)
            if type(obj) is cached:
                return main_names.reduce_cached(obj)
            reduced = inherited(self, obj)
            if reduced is NotImplemented:
                return _reduce_other(obj, self.dispatch_table)
            own: Any = main_names.reduce_function if type(obj) is types.FunctionType else main_names.reduce_class
            return own(obj, reduced)

    def pickle_deep(value: Any, *, in_band: bool = False) -> tuple[bytes, list[Any], list[Any]]:
        file = io.BytesIO()
        buffers: list[Any] = []

        # Not a method: a pickler that holds itself would keep buffers and references until the next garbage collection.
        def take_buffer(buffer: pickle.PickleBuffer) -> bool:
            try:
                buffer.raw()
            except BufferError:  # not contiguous: it can only travel inside the pickle
                return True
            buffers.append(buffer)
            return False

        pickler: Any = DeepPickler(file, protocol=PROTOCOL, buffer_callback=None if in_band else take_buffer)
        nested: list[Any] = []
        pickler.nested = nested
        pickler.dump(value)
        return file.getvalue(), buffers, nested

    return pickle_deep
