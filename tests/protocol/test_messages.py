"""A call on its way: over a socket and through Ray it is the same message."""

from __future__ import annotations

import numpy as np
import pytest

from poise._protocol.codec import pack_arguments
from poise._protocol.crates import crate_call, uncrate_call
from poise._protocol.frames import FrameError, FrameReader, pack_frames
from poise._protocol.functions import PickledFunction
from poise._protocol.messages import CALL, CallMessage, load_call, unload

ARGUMENTS = pack_arguments((1, "two"), {})
CALLS = [
    CallMessage(CALL, 1, "method", ARGUMENTS),
    CallMessage(CALL, 2, b"digest", ARGUMENTS, 16),
    CallMessage(CALL, 3, "method", ARGUMENTS, None, 4),
    CallMessage(CALL, 4, "method", ARGUMENTS, headers={"traceparent": b"00-ab-cd-01"}),
    CallMessage(CALL, 5, "method", pack_arguments((np.zeros(100_000),), {}), 1, 2, {"tenant": b"t", "key": b"k"}),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_call_arrives_over_a_socket_as_it_was(call: CallMessage) -> None:
    reader = FrameReader()
    frames = []
    for piece in pack_frames([unload(call)]):
        left = memoryview(piece)
        while left:
            room = reader.buffer()
            count = min(len(room), len(left))
            room[:count] = left[:count]
            left = left[count:]
            frames += reader.received(count)
    (([message], buffers),) = frames
    arrived = load_call(message, iter(buffers))
    target = PickledFunction(b"digest", b"") if call.target == b"digest" else call.target
    assert arrived._replace(arguments=b"") == call._replace(target=target, arguments=b"")
    assert (arrived.arguments == call.arguments) == (type(call.arguments) is bytes)


@pytest.mark.parametrize("call", CALLS)
def test_a_call_arrives_through_ray_as_it_was(call: CallMessage) -> None:
    if call.target == b"digest":
        call = call._replace(target=PickledFunction(b"digest", b"pickle"))
    assert uncrate_call(crate_call(call))._replace(arguments=b"") == call._replace(arguments=b"")


def test_headers_that_are_not_there_cost_a_byte() -> None:
    empty, some = (b"".join(pack_frames([unload(call)])) for call in (CALLS[0], CALLS[0]._replace(headers={"k": b"v"})))
    assert len(some) - len(empty) == len(b"\x81\xa1k\xc4\x01v") - 1


@pytest.mark.parametrize("headers", [[], {1: b"x"}, {"a": "text"}, {"a": None}, b"a"])
def test_what_is_no_headers_is_refused(headers: object) -> None:  # G11
    with pytest.raises(FrameError):
        load_call([CALL, 1, "method", ARGUMENTS, None, None, headers], iter(()))
