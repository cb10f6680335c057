"""The caller's end of a connection: what it is given to write arrives in order, as it was."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from poise._lanes.caller_link import SLICE, CallerLink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Owner:
    """Writes on as soon as the worker reads again, as a lane does."""

    def __init__(self) -> None:
        self.link: CallerLink
        self.waiting: list[Any] = []
        self.ended = asyncio.Event()

    def hear(self, _frames: Any) -> None: ...

    def flush(self) -> None:
        if self.waiting and not self.link.is_paused:
            pieces, self.waiting = self.waiting, []
            self.link.write(pieces)

    def unlink(self, _link: CallerLink, _error: Exception | None) -> None:
        self.ended.set()


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Owner, socket.socket]]:
    owner = Owner()
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    far.setblocking(False)
    near.setblocking(False)
    _, owner.link = await asyncio.get_running_loop().create_unix_connection(lambda: CallerLink(owner), sock=near)
    yield owner, far
    owner.link.transport.abort()
    await owner.ended.wait()
    far.close()


async def read(far: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    came = bytearray()
    while len(came) < count:
        came += await loop.sock_recv(far, count - len(came))
    return bytes(came)


def piece(number: int, size: int) -> bytes:
    return bytes([number]) * size


async def test_large_pieces_and_small_ones_arrive_in_order(ends: tuple[Owner, socket.socket]) -> None:
    owner, far = ends
    sizes = [10, 5 * SLICE + 3, 20, SLICE, 1, 3 * SLICE, 0, 7]
    pieces = [piece(number, size) for number, size in enumerate(sizes)]
    owner.link.write([memoryview(each) if number % 2 else each for number, each in enumerate(pieces)])
    assert owner.link.is_paused
    owner.waiting = [b"last"]
    assert await read(far, sum(sizes) + 4) == b"".join(pieces) + b"last"
    assert not owner.link.is_paused


@pytest.mark.parametrize("size", [100, SLICE, 20 * SLICE])
async def test_what_changes_after_it_was_written_arrives_as_it_was(
    ends: tuple[Owner, socket.socket], size: int
) -> None:
    owner, far = ends
    values = [bytearray(piece(number, size)) for number in range(3)]
    owner.link.write([memoryview(value) for value in values])
    for value in values:
        value[:] = bytes([9]) * size
        value.append(1)  # nothing holds it any more
    assert await read(far, 3 * size) == b"".join(piece(number, size) for number in range(3))


async def test_a_connection_that_ends_meanwhile_lets_go_of_what_was_not_written(
    ends: tuple[Owner, socket.socket],
) -> None:
    owner, far = ends
    owner.link.write([piece(1, 30 * SLICE)])
    assert owner.link.is_paused
    far.close()
    await owner.ended.wait()
    assert not owner.link._unwritten  # noqa: SLF001
