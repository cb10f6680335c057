"""Long strings beside anything else: they are lifted out of the pickle, and everything is what and where it was."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from poise._protocol.codec import pack, pack_arguments, unpack, unpack_arguments
from poise._protocol.lifting import LIFTED, LOOKED_AT
from poise._protocol.payloads import Payload

LONG: list[Any] = [b"b" * LIFTED, bytearray(LIFTED), "c" * LIFTED, "\ud800\N{EURO SIGN}" * LIFTED]


class Box:
    def __init__(self, *things: Any) -> None:
        self.things = things


def arrived(value: Any, most: int = 2000) -> Any:
    packed = pack(value)
    assert isinstance(packed, Payload)
    assert len(packed.data) < most, "the long strings are not in the pickle"
    return unpack(packed)


@pytest.mark.parametrize("text", LONG)
def test_a_long_string_beside_other_things_is_lifted(text: Any) -> None:
    came = arrived({"text": text, "box": Box(1), "array": np.arange(3)})
    assert came["text"] == text
    assert type(came["text"]) is type(text)
    assert came["box"].things == (1,)
    assert (came["array"] == np.arange(3)).all()
    assert arrived([text, Box(2)])[0] == text
    assert arrived((text, Box(2)))[0] == text


@pytest.mark.parametrize("text", LONG)
def test_the_same_string_elsewhere_is_the_same_object(text: Any) -> None:
    inside = [text]
    came = arrived([text, Box(text, inside), inside, text])
    assert came[0] is came[1].things[0] is came[1].things[1][0] is came[3]
    assert came[1].things[1] is came[2]
    (first, box), kwargs = unpack_arguments(pack_arguments((text, Box(text)), {"named": inside}))
    assert first is box.things[0] is kwargs["named"][0]


def test_what_holds_itself_still_does() -> None:
    ring: list[Any] = [b"b" * LIFTED, Box(1)]
    ring.append(ring)
    came = arrived(ring)
    assert came[2] is came
    assert came[0] == ring[0]


def test_what_comes_behind_the_strings_is_numbered_as_without_them() -> None:
    boxes = [Box(number) for number in range(300)]
    values = [value for box in boxes for value in (box, [box])]
    came = arrived([*LONG, "name", "name", *values, *values], 20_000)
    assert came[:4] == LONG
    for place in range(6, 606, 2):
        assert came[place] is came[place + 1][0] is came[place + 600]
        assert came[place + 601] is came[place + 1]


def test_nothing_is_kept_once_it_is_packed() -> None:
    gc.collect()
    gc.disable()
    try:
        box = Box(1)
        dies = weakref.ref(box)
        pack([b"b" * LIFTED, box])
        del box
        assert dies() is None
    finally:
        gc.enable()


def test_many_long_strings_are_lifted_as_far_as_is_looked() -> None:
    many = [bytes([number % 256]) * LIFTED for number in range(LOOKED_AT + 4)]
    packed = pack(many)
    assert isinstance(packed, Payload)
    assert len(packed.buffers) == LOOKED_AT
    assert unpack(packed) == many


def test_a_bytearray_that_is_given_to_two_arguments_arrives_as_one() -> None:
    text = bytearray(LIFTED)
    packed = pack_arguments((text, Box(text)), {})
    assert len(packed.data if isinstance(packed, Payload) else packed) < 1000
    (first, box), _ = unpack_arguments(packed)
    first[0] = 1
    assert box.things[0][0] == 1
