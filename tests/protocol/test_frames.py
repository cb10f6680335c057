"""Frames survive any way of being cut up, and what is no frame ends in an error and nothing worse."""

import contextlib
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from poise._protocol.frames import DIRECT, MAGIC, MOST_BUFFERS, WINDOW, Frame, FrameError, FrameReader, pack_frame

SIZES = st.sampled_from([0, 1, 7, 8, 9, 1000, DIRECT - 1, DIRECT, DIRECT + 1, WINDOW, WINDOW + 1, 3 * WINDOW])


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    messages = draw(st.lists(st.lists(st.none() | st.integers(0, 2**60) | st.binary(max_size=20)), max_size=5))
    sizes = draw(st.lists(SIZES, min_size=1, max_size=4))
    kind = draw(st.sampled_from([bytes, bytearray]))
    return [*messages, [bytes(sizes[0])]], [kind([size % 251]) * size for size in sizes[1:]]


def read_all(data: bytes, cuts: list[int]) -> tuple[list[Frame], FrameReader]:
    """Feed a reader with pieces of these sizes, over and over."""
    reader = FrameReader()
    found: list[Frame] = []
    position = turn = 0
    while position < len(data):
        room = reader.buffer()
        assert len(room) > 0
        count = min(len(room), cuts[turn % len(cuts)], len(data) - position)
        room[:count] = data[position : position + count]
        room.release()
        position += count
        turn += 1
        found += reader.received(count)
    return found, reader


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_frames_arrive_as_they_were_sent_however_they_are_cut(draw: st.DataObject) -> None:
    sent = [draw.draw(frames()) for _ in range(draw.draw(st.integers(0, 3)))]
    cuts = draw.draw(st.lists(st.integers(997, 400_000), min_size=1, max_size=5))
    data = b"".join(bytes(piece) for frame in sent for piece in pack_frame(*frame))
    found, reader = read_all(data, [max(cuts), *cuts])
    assert found == [(messages, buffers) for messages, buffers in sent]
    assert [[type(each) for each in buffers] for _, buffers in found] == [[*map(type, buffers)] for _, buffers in sent]
    assert reader.is_between_frames


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 50))
@example(MAGIC + b"\0\0\xff\xff\xff\xff", 1)
@example(MAGIC + b"\xff\xff\0\0\0\1", 3)
@example(MAGIC + b"\0\1\0\0\0\1" + b"\xff" * 8, 100)
@example(MAGIC + b"\0\0\0\0\0\1\xc1", 100)
@example(MAGIC + b"\0\0\0\0\0\5\xdd\xff\xff\xff\xff", 100)
def test_garbage_is_refused_or_waited_for_and_takes_no_memory(garbage: bytes, cut: int) -> None:  # G11
    try:
        _, reader = read_all(garbage, [cut])
    except FrameError:
        return
    assert len(reader.buffer()) > 0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_frame_with_flipped_bytes_raises_only_frame_errors(data: st.DataObject) -> None:
    frame = data.draw(frames())
    raw = bytearray(b"".join(bytes(piece) for piece in pack_frame(*frame)))
    for _ in range(3):
        raw[data.draw(st.integers(0, min(len(raw), 200) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(FrameError):
        read_all(bytes(raw), [1 << 20])


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_large_part_is_received_without_a_copy(kind: type[bytes | bytearray]) -> None:
    sent = kind(b"x") * (4 << 20)
    data = b"".join(pack_frame([], [sent]))
    tracemalloc.start()
    try:
        found, _ = read_all(data, [100_000])
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == [([], [sent])]
    assert most < 1.5 * len(sent)


def test_a_reader_whose_buffer_is_still_held_hands_the_bytes_out_all_the_same() -> None:
    sent = bytes(range(256)) * 1000
    data = b"".join(pack_frame([], [sent]))
    reader = FrameReader()
    head = len(data) - len(sent)
    reader.buffer()[: head + 1000] = data[: head + 1000]
    assert reader.received(head + 1000) == []
    room = reader.buffer()
    held = memoryview(room)
    held[:] = data[head + 1000 :]
    ((_, (came,)),) = reader.received(len(held))
    assert came == sent
    assert type(came) is bytes


def test_a_frame_that_claims_too_much_is_refused_before_anything_is_allocated() -> None:
    reader = FrameReader(most_bytes=1000)
    claim = MAGIC + b"\0\1" + (1).to_bytes(4, "big") + (1 << 40).to_bytes(8, "big")
    reader.buffer()[: len(claim)] = claim
    with pytest.raises(FrameError, match="1000 are allowed"):
        reader.received(len(claim))


def test_a_frame_with_too_many_buffers_cannot_be_made() -> None:
    with pytest.raises(FrameError, match="too large"):
        pack_frame([[1]], [b""] * (MOST_BUFFERS + 1))


def test_the_largest_head_still_fits_into_the_window() -> None:
    found, _ = read_all(b"".join(bytes(piece) for piece in pack_frame([[1]], [b"ab"] * MOST_BUFFERS)), [1000])
    assert found == [([[1]], [b"ab"] * MOST_BUFFERS)]
