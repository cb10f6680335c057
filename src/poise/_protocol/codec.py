"""Payloads: how arguments, results and exceptions travel, and how they fail to.

A packed value is plain `bytes` in the common case. A `Payload` is needed for what bytes cannot hold: big buffers,
which stay outside the pickle, and Ray's own objects (`ObjectRef`, actor handles), which only Ray can count.

No user code can hurt here: whatever `__reduce__`, `__setstate__` or `__str__` raises becomes a `PayloadError` or a
`RemoteError` for that one call. That is why this module catches `BaseException` where it runs such code.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import types
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

from poise._protocol import main_names
from poise._protocol.lifting import LIFTED, STRINGS, Lift, is_long
from poise._protocol.proxies import reduce_proxy
from poise._protocol.traces import drop_frames, format_trace, set_cause
from poise._protocol.words import describe, text_of, type_name
from poise.errors import PayloadError, RemoteError, not_pickled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROTOCOL: Final = 5
FLAT_LIMIT: Final = 64
"""Containers up to this length are looked through for scalars; a longer look would cost more than it saves."""

COPIED_BELOW: Final = 64 * 1024
"""Bytes of a buffer below which it is copied on arrival rather than handed out read-only: that takes microseconds."""

_SCALARS: Final = frozenset({int, float, bool, type(None)})


class Payload(NamedTuple):
    """A packed value that is more than bytes."""

    data: bytes
    buffers: Sequence[Any] = ()
    """Out-of-band buffers, in the order in which the pickle asks for them."""
    nested: Sequence[Any] = ()
    """Ray objects found anywhere inside; they arrive as they are."""
    awaited: Sequence[Any] = ()
    """ObjectRefs given as arguments themselves; the worker's function gets their values, as in Ray."""


Packed: TypeAlias = bytes | Payload


# ---------------------------------------------------------------------------------------------------------------------
# Values


def pack(value: Any, what: str = "the value", *, started: bool = False) -> Packed:
    """Pack one value.

    Args:
        value: anything.
        what: how a `PayloadError` names it.
        started: what a `PayloadError` says of the call.

    Raises:
        PayloadError: the value cannot be pickled.
    """
    try:
        if type(value) in _SCALARS:
            return pickle.dumps(value, PROTOCOL)
        shape = _shape_of(value)
        if shape == _DEEP:
            return _pack_deep(value)
        return pickle.dumps(value, PROTOCOL) if shape == _FLAT else _pack_lifted(Lift().flat(value))
    except BaseException as error:
        drop_frames(error)
        raise not_pickled(what, describe(error), error, started=started) from error


def pack_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Packed:
    """Pack a call's arguments; ObjectRefs among them (not inside them) are to be replaced by their values.

    Raises:
        PayloadError: an argument cannot be pickled; the error names it.
    """
    try:
        is_lifted = False
        for value in args if not kwargs else (*args, *kwargs.values()):
            if type(value) in _SCALARS:
                continue
            shape = _shape_of(value)
            if shape == _DEEP:
                return _pack_deep_arguments(args, kwargs)
            is_lifted |= shape == _LONG
        # Positional arguments alone travel as a tuple, so that the commonest call packs nothing else.
        if not is_lifted:
            return pickle.dumps([args, kwargs] if kwargs else args, PROTOCOL)
        lift = Lift()
        args = tuple(lift.flat(value) for value in args)
        named = {name: lift.flat(value) for name, value in kwargs.items()}
        return _pack_lifted([args, named] if named else args)
    except PayloadError:
        raise
    except BaseException as error:  # there is no memory for them
        drop_frames(error)
        raise PayloadError("the arguments", describe(error), started=False) from error


def unpack(packed: Packed, awaited: Sequence[Any] = (), *, writable: bool = False) -> Any:
    """Unpack a value, once: it may take the payload's buffers for its own.

    Args:
        packed: the value.
        awaited: the values of the payload's `awaited` references.
        writable: whether large arrays and other views of out-of-band buffers may be written to, as small ones may;
            else they are read-only, as in Ray.

    Raises:
        BaseException: whatever the pickle raises, which with user-defined classes may be anything.
    """
    if type(packed) is bytes:
        return pickle.loads(packed)
    packed = cast("Payload", packed)
    buffers = [_own(buffer, writable=writable) for buffer in packed.buffers]
    if not packed.nested and not packed.awaited:
        return pickle.loads(packed.data, buffers=buffers)
    return _Unpickler(packed.data, buffers, packed.nested, awaited).load()


def unpack_arguments(
    packed: Packed, awaited: Sequence[Any] = (), *, writable: bool = False
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Unpack a call's arguments; see `unpack`.

    Raises:
        PayloadError: they cannot be unpickled here.
    """
    try:
        loaded = unpack(packed, awaited, writable=writable)
    except BaseException as error:
        drop_frames(error)
        raise PayloadError("the arguments", describe(error), started=False) from error
    if type(loaded) is tuple:
        return loaded, {}  # pyright: ignore[reportUnknownVariableType]
    args, kwargs = loaded
    return args, kwargs


def unpack_result(packed: Packed, what: str = "the result", *, writable: bool = False) -> Any:
    """Unpack what a call returned; see `unpack`.

    Raises:
        PayloadError: it cannot be unpickled here.
    """
    try:
        return unpack(packed, writable=writable)
    except BaseException as error:
        drop_frames(error)
        raise PayloadError(what, describe(error), started=True) from error


def _own(buffer: Any, *, writable: bool) -> bytearray | memoryview:
    """A buffer for what is unpacked: its own to write to if it is small or that is asked for, else read-only."""
    view = memoryview(buffer)
    if view.nbytes >= COPIED_BELOW and not writable:
        return view.toreadonly()
    # A bytearray was received from a socket and belongs to nobody else; all others may be the caller's or Ray's.
    return buffer if type(buffer) is bytearray else bytearray(raw(buffer))


def for_ray(packed: Packed) -> Packed:
    """The same with a long pickle as a buffer, so that Ray, which pickles what it carries, does not pickle it anew."""
    data = packed if isinstance(packed, bytes) else packed.data
    if len(data) < LIFTED:
        return packed
    buffer = cast("bytes", pickle.PickleBuffer(data))
    return Payload(buffer) if isinstance(packed, bytes) else packed._replace(data=buffer)


def detach(packed: Packed) -> Packed:
    """Copy those out-of-band buffers that somebody may still change, so that they may do so."""
    if isinstance(packed, bytes) or not packed.buffers:
        return packed
    return packed._replace(buffers=[raw(each).tobytes() if may_change(each) else each for each in packed.buffers])


def may_change(buffer: Any) -> bool:
    """Whether the bytes of a buffer may still change: unless they are immutable, or nothing else refers to them.

    What cannot be looked through may change. Whoever asks has let go of the object that was packed.
    """
    owner: Any = memoryview(buffer).obj
    is_alone = sys.getrefcount(owner) <= _ALONE
    numpy = sys.modules.get("numpy")
    while isinstance(owner, memoryview) or (numpy is not None and isinstance(owner, numpy.ndarray)):
        below: Any = owner.obj if isinstance(owner, memoryview) else owner.base
        if below is None:
            return not is_alone
        owner = below
        del below
        is_alone = is_alone and sys.getrefcount(owner) <= _ALONE
    if isinstance(owner, bytes) or (type(owner).__module__ == "ray._raylet" and owner.readonly):
        return False  # what Ray's object store holds is sealed
    return not (is_alone and isinstance(owner, bytearray))


def _references_of_one_holder() -> int:
    buffer = pickle.PickleBuffer(bytearray(1))
    owner = memoryview(buffer).obj
    return sys.getrefcount(owner)


_ALONE: Final = _references_of_one_holder()


def nbytes(packed: Packed) -> int:
    """The size of a packed value, without Ray's objects."""
    if isinstance(packed, bytes):
        return len(packed)
    return len(packed.data) + sum(memoryview(buffer).nbytes for buffer in packed.buffers)


def raw(buffer: Any) -> memoryview:
    """The bytes of a contiguous buffer as they lie in memory, whatever its shape."""
    return pickle.PickleBuffer(buffer).raw()


# What has to be done to pack a value; whole numbers, because an enum's members take 40 ns to name.
_FLAT: Final = 0
"""Nothing: it is a scalar or a string, or a small list, tuple or dict of them, in which pickle meets no surprise."""
_LONG: Final = 1
"""Lifting: it is the same with a long string in it."""
_DEEP: Final = 2
"""Cloudpickle's work: it is anything else."""


def _shape_of(value: Any) -> int:
    """Look at a value that is no scalar, and at the items of a small container."""
    kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType] - narrowing would make the items unknown
    if kind in STRINGS:
        return _LONG if is_long(value) else _FLAT
    if kind is list or kind is tuple:
        items = value
    elif kind is dict:
        items = (*value, *value.values())
    else:
        return _DEEP
    if len(value) > FLAT_LIMIT:
        return _DEEP
    shape = _FLAT
    for item in items:
        if type(item) not in _SCALARS:
            if type(item) not in STRINGS:
                return _DEEP
            if is_long(item):
                shape = _LONG
    return shape


def _pack_lifted(value: Any) -> Payload:
    buffers: list[Any] = []
    return Payload(pickle.dumps(value, PROTOCOL, buffer_callback=buffers.append), buffers)


class _Awaited:
    """Stands in a pickle for an ObjectRef whose value the function is to get."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


def _pack_deep_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Packed:
    awaited: list[Any] = []
    ref_type = _object_ref_type()
    lift = Lift()

    def placeholder(value: Any) -> Any:
        if ref_type is not None and issubclass(type(value), ref_type):
            awaited.append(value)
            return _Awaited(len(awaited) - 1)
        # Not a bytearray: another argument may hold the same one, and both must arrive as one.
        return value if type(value) is bytearray else lift.string(value)

    args = tuple(placeholder(value) for value in args)
    named = {name: placeholder(value) for name, value in kwargs.items()}
    try:
        return _pack_deep([args, named] if named else args, awaited)
    except BaseException as error:
        what, reason = _culprit(args, named, error)
        drop_frames(error)
        raise not_pickled(what, reason, error, started=False) from error


def _culprit(args: tuple[Any, ...], kwargs: dict[str, Any], error: BaseException) -> tuple[str, str]:
    """Say which argument alone cannot be pickled, and why."""
    names = [(f"argument {position}", value) for position, value in enumerate(args, 1)]
    names += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for what, value in names:
        try:
            _pack_deep(value)
        except BaseException as alone:  # noqa: BLE001 - a user's __reduce__ may raise anything
            return what, describe(alone)
    return "the arguments", describe(error)


def _pack_deep(value: Any, awaited: Sequence[Any] = ()) -> Packed:
    data, buffers, nested = _deep_pickler()(value)
    if buffers or nested or awaited:
        return Payload(data, buffers, nested, awaited)
    return data


# ---------------------------------------------------------------------------------------------------------------------
# Ray's objects inside pickles. A pickle made outside Ray must not contain them: Ray could not count the reference
# and would keep the object for ever.


def _nested(_index: int) -> Any:
    """Never called: the name under which a lifted Ray object is pickled."""
    raise pickle.UnpicklingError("a reference to a Ray object was unpickled without its payload")


def _awaited(_index: int) -> Any:
    """Never called: the name under which an awaited argument is pickled."""
    raise pickle.UnpicklingError("an ObjectRef argument was unpickled without its payload")


class _Unpickler(pickle.Unpickler):
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


def _object_ref_type() -> type[Any] | None:
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
        nested: list[Any]

        def reducer_override(self, obj: Any) -> Any:
            if issubclass(type(obj), lifted):
                self.nested.append(obj)
                return _nested, (len(self.nested) - 1,)
            if type(obj) is _Awaited:
                return _awaited, (obj.index,)
            if _is_small_and_sealed(obj):  # so that it arrives writable: the pickle says what may not be written to
                return obj.copy().__reduce_ex__(PROTOCOL)
            if type(obj) is cached:
                return main_names.reduce_cached(obj)
            reduced = inherited(self, obj)
            if reduced is NotImplemented:
                return reduce_proxy(obj)
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


# ---------------------------------------------------------------------------------------------------------------------
# Exceptions


def pack_exception(error: BaseException, *, skip_frames: int = 0) -> Packed:
    """Pack an exception that is to arrive as itself, together with the text that stands in if it cannot. Never raises.

    Args:
        error: what the user's code raised, or an error of ours.
        skip_frames: how many frames of the worker's own code begin the traceback.
    """
    try:
        return _pack_exception(error, skip_frames)
    except BaseException:  # noqa: BLE001 - no memory, or what nobody has thought of: the call must end all the same
        return _UNTOLD


def unpack_exception(packed: Packed) -> Exception:
    """Unpack an exception: the user's own with the remote traceback as its cause, or a `RemoteError`. Never raises."""
    try:
        return _unpack_exception(packed)
    except BaseException as failure:  # noqa: BLE001 - as above, and what is no packed exception at all
        return RemoteError("an exception", "it could not be read", "", describe(failure))


_ENDERS: Final = frozenset({SystemExit, KeyboardInterrupt})
"""What ends programs arrives as a `RemoteError`, which ends none; it is the cause of that."""

_UNTOLD: Final = pickle.dumps(("an exception", "it could not be told", "", None, "to pack it failed"), PROTOCOL)
"""Made beforehand: it is for when nothing can be made any more."""


def _pack_exception(error: BaseException, skip_frames: int) -> Packed:
    text = format_trace(error, skip_frames)
    inner: Packed | None = None
    why = ""
    if _may_arrive(error) or type(error) in _ENDERS:
        try:
            inner = pack_in_band(error)
        except BaseException as failure:  # noqa: BLE001 - a user's __reduce__ may raise anything
            why = f"it could not be pickled: {describe(failure)}"
    data = inner.data if isinstance(inner, Payload) else inner
    outer = pickle.dumps((type_name(error), text_of(error), text, data, why), PROTOCOL)
    return Payload(outer, (), inner.nested) if isinstance(inner, Payload) else outer


def _unpack_exception(packed: Packed) -> Exception:
    nested = packed.nested if isinstance(packed, Payload) else ()
    name, text, trace, data, why = pickle.loads(packed.data if isinstance(packed, Payload) else packed)
    if data is not None:
        try:
            error = unpack(Payload(data, (), nested) if nested else data)
            if _may_arrive(error):
                set_cause(error, trace)
                return cast("Exception", error)
            if type(error) in _ENDERS:
                set_cause(error, trace)
                remote = RemoteError(name, text, trace)
                remote.__cause__ = error
                return remote
            why = f"it was unpickled as {type_name(error)}"
        except BaseException as failure:  # noqa: BLE001 - a user's __setstate__ may raise anything
            why = f"it could not be unpickled: {describe(failure)}"
    return RemoteError(name, text, trace, why)


def _may_arrive(error: object) -> bool:
    """Whether the exception can be raised to a caller as itself; its class is asked, and not what it says of that."""
    kind = type(error)
    return issubclass(kind, Exception) and not issubclass(kind, StopIteration | StopAsyncIteration)


def pack_in_band(value: Any) -> Packed:
    """Pack a value without out-of-band buffers, for what is kept or wrapped. Raises whatever pickling raises."""
    data, _, nested = _deep_pickler()(value, in_band=True)
    return Payload(data, (), nested) if nested else data
