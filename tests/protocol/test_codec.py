"""Payloads: what travels, and what fails to."""

from __future__ import annotations

import array
import pickle
import subprocess
import sys
from typing import Any, NoReturn

import numpy as np
import pytest

from poise._protocol.buffers import may_change
from poise._protocol.codec import pack, pack_arguments, unpack, unpack_arguments, unpack_result
from poise._protocol.exceptions import pack_exception, unpack_exception
from poise._protocol.lifting import LIFTED
from poise._protocol.payloads import Payload, detach, for_ray
from poise._protocol.traces import RemoteTraceback
from poise.errors import PayloadError, RemoteError
from tests.protocol.odd import (
    CannotPickle,
    CannotSpeak,
    CannotUnpickle,
    ExitsWhenPickled,
    HoldsALock,
    OddArguments,
    Sealed,
)

SCALARS: list[Any] = [None, True, 7, 1.5, "text", b"bytes"]


def raised(error: BaseException) -> BaseException:
    """The exception as it is after it was raised."""
    with pytest.raises(type(error)) as caught:
        raise_it(error)
    return caught.value


def raise_it(error: BaseException) -> NoReturn:
    raise error


@pytest.mark.parametrize(
    "value", [*SCALARS, SCALARS, tuple(SCALARS), {"key": 1}, [[1], {"k": (2,)}], {1, 2}, 1j, range(3)]
)
def test_a_value_arrives_as_it_was(value: Any) -> None:
    assert unpack(pack(value)) == value


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1, "a"), {}), ((), {"x": 1}), (([1, 2],), {"x": {"y": [1]}}), (((),), {})]
)
def test_arguments_arrive_as_they_were(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert unpack_arguments(pack_arguments(args, kwargs)) == (args, kwargs)


def test_scalars_need_no_ray() -> None:
    code = (
        "import sys; from poise._protocol.codec import *;"
        "unpack_arguments(pack_arguments((1, [2], {'a': b'c'}, b'd' * 10**5), {'k': 1.5}));"
        "sys.exit('ray' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


LONG: list[Any] = [b"b" * LIFTED, bytearray(LIFTED), "c" * LIFTED, "\ud800\N{EURO SIGN}" * LIFTED]


@pytest.mark.parametrize("value", LONG)
def test_a_long_string_travels_outside_the_pickle_and_arrives_as_it_was(value: Any) -> None:
    for whole in (value, [value, 1], (value, "x"), {"key": value}):
        packed = pack(whole)
        assert isinstance(packed, Payload)
        assert len(packed.data) < 1000
        arrived = unpack(packed)
        assert arrived == whole
        assert type(arrived) is type(whole)
    packed = pack_arguments((value, np.arange(3)), {"named": value})
    args, kwargs = unpack_arguments(packed)
    assert (args[0], kwargs["named"]) == (value, value)
    assert type(args[0]) is type(value)


def test_a_long_bytearray_that_arrives_is_the_receivers_own() -> None:
    sent = bytearray(LIFTED)
    arrived = unpack(pack(sent))
    arrived[0] = 1
    assert not sent[0]


def test_what_is_given_twice_arrives_as_one_object() -> None:
    text = bytearray(LIFTED)
    items = [text]
    (first, second, others), kwargs = unpack_arguments(pack_arguments((text, text, items), {"same": items}))
    assert first is second is others[0]
    assert kwargs["same"] is others


def test_a_subclass_of_a_string_arrives_as_itself() -> None:
    class Name(str):
        __slots__ = ()

    arrived = unpack(pack(Name("n" * LIFTED)))
    assert type(arrived).__name__ == "Name"
    assert arrived == "n" * LIFTED


def test_a_long_pickle_is_a_buffer_for_ray() -> None:
    short, long_ = pack({"a": object}), pack({"a": [b"x" * LIFTED, object]})
    assert for_ray(short) is short
    assert isinstance(long_, bytes)
    carried = for_ray(long_)
    assert isinstance(carried, Payload)
    assert type(carried.data) is not bytes
    assert unpack(carried) == unpack(long_)


def test_local_functions_and_classes_travel_by_value() -> None:
    class Local:
        def double(self, x: int) -> int:
            return x * 2

    assert unpack(pack(lambda x: Local().double(x)))(3) == 6


@pytest.mark.parametrize(
    ("length", "asked", "writable"), [(8191, False, True), (8192, False, False), (8192, True, True)]
)
def test_an_array_travels_outside_the_pickle_and_is_copied_if_it_is_small_or_that_is_asked_for(
    length: int, asked: bool, writable: bool
) -> None:
    array = np.arange(length)
    packed = pack({"a": array})
    assert isinstance(packed, Payload)
    assert len(packed.data) < 1000
    arrived = unpack(packed, writable=asked)["a"]
    assert (arrived == array).all()
    assert arrived.flags.writeable is writable


def test_what_was_received_from_a_socket_is_not_copied_again() -> None:
    received = bytearray(np.arange(100_000).tobytes())
    packed = pack(np.arange(100_000))
    assert isinstance(packed, Payload)
    arrived = unpack(packed._replace(buffers=[received]), writable=True)
    arrived[0] = 7
    assert received[0] == 7


def test_a_detached_array_does_not_change_with_the_sender() -> None:
    array = np.zeros(10)
    packed = detach(pack(array))
    array[:] = 1
    assert (unpack(packed) == 0).all()


def test_an_array_that_is_not_contiguous_arrives() -> None:
    array = np.arange(20).reshape(4, 5)[:, ::2]
    assert (unpack(pack(array)) == array).all()


@pytest.mark.parametrize("culprit", [CannotPickle(), ExitsWhenPickled(), (number for number in range(3))])
def test_the_argument_that_cannot_be_pickled_is_named(culprit: object) -> None:
    with pytest.raises(PayloadError) as caught:
        pack_arguments((1, culprit, [2]), {})
    assert caught.value.what == "argument 2"
    assert not caught.value.started
    with pytest.raises(PayloadError) as caught:
        pack_arguments((1,), {"good": 1, "bad": [culprit]})
    assert caught.value.what == "argument 'bad'"


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt, StopIteration, GeneratorExit])
def test_what_unpickling_raises_is_a_payload_error(error: type[BaseException]) -> None:
    packed = pack_arguments((CannotUnpickle(error),), {})
    with pytest.raises(PayloadError, match="no way in") as caught:
        unpack_arguments(packed)
    assert caught.value.what == "the arguments"
    with pytest.raises(PayloadError) as caught:
        unpack_result(pack(CannotUnpickle(error)))
    assert caught.value.started


def test_deep_recursion_is_a_payload_error() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    try:
        with pytest.raises(PayloadError):
            pack(deep)
    finally:
        while deep:
            deep = deep.pop()


# ---------------------------------------------------------------------------------------------------------------------
# Exceptions


def test_an_exception_arrives_as_itself_with_the_remote_traceback() -> None:  # G10
    def chain() -> None:
        try:
            raise_it(KeyError("first"))
        except KeyError as first:
            raise ValueError("second", 7) from first

    with pytest.raises(ValueError, match="second") as caught:
        chain()
    arrived = unpack_exception(pack_exception(caught.value))
    assert type(arrived) is ValueError
    assert arrived.args == ("second", 7)
    assert isinstance(arrived.__cause__, RemoteTraceback)
    text = str(arrived.__cause__)
    assert "KeyError: 'first'" in text
    assert "The above exception was the direct cause" in text
    assert "test_codec.py" in text


def test_a_local_exception_class_arrives_as_the_same_class() -> None:
    class Local(Exception):
        pass

    assert type(unpack_exception(pack_exception(raised(Local("x"))))) is Local


def test_an_exception_that_refuses_attributes_arrives_as_itself() -> None:
    arrived = unpack_exception(pack_exception(raised(Sealed(3))))
    assert isinstance(arrived, Sealed)
    assert arrived.args == (3,)
    assert isinstance(arrived.__cause__, RemoteTraceback)


def test_an_exception_group_arrives_as_itself() -> None:
    arrived = unpack_exception(pack_exception(raised(ExceptionGroup("both", [ValueError(1), KeyError(2)]))))
    assert isinstance(arrived, ExceptionGroup)
    assert [type(each) for each in arrived.exceptions] == [ValueError, KeyError]


def test_notes_arrive_too() -> None:
    error = ValueError("x")
    error.add_note("remember")
    arrived = unpack_exception(pack_exception(raised(error)))
    assert arrived.__notes__ == ["remember"]


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (OddArguments(3, where="here"), "tests.protocol.odd.OddArguments"),
        (HoldsALock(), "tests.protocol.odd.HoldsALock"),
        (CannotSpeak(), "tests.protocol.odd.CannotSpeak"),
        (ValueError(CannotPickle()), "ValueError"),
        (ValueError(ExitsWhenPickled()), "ValueError"),
        (ValueError(CannotUnpickle(SystemExit)), "ValueError"),
        (SystemExit(3), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (StopIteration(5), "StopIteration"),
        (StopAsyncIteration(), "StopAsyncIteration"),
        (BaseExceptionGroup("all", [SystemExit(1)]), "BaseExceptionGroup"),
    ],
)
def test_an_exception_that_cannot_travel_arrives_as_its_text(error: BaseException, name: str) -> None:  # G10
    arrived = unpack_exception(pack_exception(raised(error)))
    if isinstance(error, CannotSpeak):  # it travels as itself; only its text is missing
        assert type(arrived) is CannotSpeak
        return
    assert type(arrived) is RemoteError
    assert arrived.type_name == name
    assert "Traceback" in arrived.traceback_text


# ---------------------------------------------------------------------------------------------------------------------
# Buffers that may still change


def buffer_of(value: Any) -> Any:
    buffers: list[Any] = []
    pickle.dumps(value, 5, buffer_callback=buffers.append)
    (buffer,) = buffers
    return buffer


def test_a_fresh_array_that_nobody_else_holds_does_not_change() -> None:
    whole = may_change(buffer_of(np.zeros(3)))  # outside of `assert`, which holds what it shows
    inside = may_change(buffer_of([np.zeros((3, 2))]))
    part = may_change(buffer_of(np.zeros((3, 2))[1:]))
    bare = may_change(pickle.PickleBuffer(bytearray(3)))
    assert (whole, inside, part, bare) == (False, False, False, False)


def test_an_array_that_somebody_holds_may_change() -> None:
    held = np.zeros((4, 2))
    assert may_change(buffer_of(held))
    assert may_change(buffer_of({"part": held[1:]}))
    assert may_change(buffer_of(held.reshape(8)))
    fixed = held.view()
    fixed.flags.writeable = False
    assert may_change(buffer_of(fixed))
    bare = bytearray(3)
    assert may_change(pickle.PickleBuffer(bare))
    assert may_change(pickle.PickleBuffer(memoryview(bare).toreadonly()))


def test_an_array_over_immutable_bytes_does_not_change() -> None:
    held = np.frombuffer(b"abc", dtype=np.uint8)
    assert not may_change(buffer_of(held))
    assert not may_change(pickle.PickleBuffer(memoryview(b"abc")))


def test_what_cannot_be_looked_through_may_change() -> None:
    assert may_change(pickle.PickleBuffer(array.array("d", [1.0])))


def test_detaching_copies_what_may_change_alone() -> None:
    held = np.arange(6.0).reshape(2, 3).T
    packed = pack([held, np.frombuffer(bytes(8), dtype=np.uint8)])
    assert isinstance(packed, Payload)
    detached = detach(packed)
    assert isinstance(detached, Payload)
    assert type(detached.buffers[0]) is bytearray
    assert detached.buffers[1] is packed.buffers[1]
    before = held.copy()
    held += 1
    assert (unpack(detached)[0] == before).all()
