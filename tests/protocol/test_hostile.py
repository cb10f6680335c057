"""Exceptions whose classes do their worst: packing and unpacking them never raises (G1, G10)."""

from __future__ import annotations

import pickle
from typing import Any, NoReturn

import pytest

from poise._lanes.book import FunctionBook
from poise._protocol import codec, exceptions, words
from poise._protocol.codec import pack_arguments
from poise._protocol.exceptions import pack_exception, unpack_exception
from poise._protocol.functions import names_like
from poise._protocol.payloads import Payload
from poise.errors import PayloadError, RemoteError
from tests.protocol.hostile import HOSTILE, HidesItself, Nameless, OddNames, Silent, causes


@pytest.mark.parametrize("kind", HOSTILE, ids=words.class_name)
@pytest.mark.parametrize("is_behind", [False, True])
def test_a_hostile_exception_arrives_somehow(kind: type[BaseException], is_behind: bool) -> None:
    error = causes(kind()) if is_behind else kind()
    arrived = unpack_exception(pack_exception(error))
    assert issubclass(type(arrived), ValueError if is_behind else Exception)


def test_names_are_told_whatever_a_metaclass_says() -> None:
    assert words.type_name(Nameless()) == "tests.protocol.hostile.Nameless"
    assert words.describe(OddNames("text")) == "OddNames: text"


@pytest.mark.parametrize("failure", [MemoryError, RecursionError, SystemExit])
@pytest.mark.parametrize("step", ["format_trace", "pack_in_band", "type_name", "text_of", "_pack_exception"])
def test_whatever_fails_while_an_exception_is_packed_it_is_answered(
    step: str, failure: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise failure

    monkeypatch.setattr(exceptions, step, fail)
    packed = pack_exception(ValueError("no"))
    monkeypatch.undo()
    assert isinstance(unpack_exception(packed), RemoteError)


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"garbage",
        pickle.dumps(None),
        pickle.dumps((1, 2, 3, 4, 5)),
        pickle.dumps(("name", "text", "trace", 7, "")),
        pickle.dumps(("name", "text", "trace", b"garbage", "")),
        pickle.dumps(("name", "text", "trace", pickle.dumps(ValueError), "")),
        Payload(b"", (), ()),
        Payload(b"garbage", (), (1,)),
        None,
        7,
    ],
)
def test_what_is_no_packed_exception_is_unpacked_as_one_all_the_same(packed: Any) -> None:
    assert isinstance(unpack_exception(packed), RemoteError)


def test_an_argument_that_will_not_say_what_it_is_cannot_be_packed() -> None:
    with pytest.raises(PayloadError, match="argument 2"):
        pack_arguments((1, HidesItself()), {})


def test_no_memory_for_arguments_is_an_error_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(pickle, "dumps", fail)
    for kwargs in ({}, {"x": 1}):
        with pytest.raises(PayloadError, match="MemoryError"):
            pack_arguments((1,), kwargs)
    with pytest.raises(PayloadError, match="MemoryError"):
        codec.pack(1)


class Shy:
    """A callable whose attributes are nobody's business."""

    def __getattribute__(self, name: str) -> NoReturn:
        raise ValueError(name)

    def __call__(self) -> None: ...


def test_a_callable_that_hides_everything_has_a_name_and_is_refused_by_it() -> None:
    assert words.callable_name(Shy()) == "Shy"
    with pytest.raises(PayloadError, match="the function Shy"):
        FunctionBook(()).target(Shy())


def test_hints_are_left_out_where_an_object_does_not_list_its_names() -> None:
    class Odd:
        def __dir__(self) -> Any:
            return [1, Silent()]

    assert names_like("predict", Odd()) == ""
