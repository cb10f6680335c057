"""The limit: one byte back and forth between two processes on a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from bench.contenders.contender import Contender, Missing

if TYPE_CHECKING:
    from collections.abc import Sequence

_PEER: Final = """
import socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
while data := peer.recv(1):
    peer.sendall(data)
"""


class PingPong(Contender):
    """Both ends block: the least that a call to another process can take in Python."""

    key = "ping-pong"
    label = "limit: bare ping-pong, blocking"
    needs_ray = False

    def __init__(self) -> None:
        self._peer: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    async def open(self, workers: int) -> None:  # noqa: ARG002 (Contender's shape)
        """Start the other process."""
        self._socket = await asyncio.to_thread(self._connect)

    def _connect(self) -> socket.socket:
        with tempfile.TemporaryDirectory(prefix="poise-bench-") as directory:
            path = os.path.join(directory, "peer")
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen(1)
                listener.settimeout(10)
                self._peer = subprocess.Popen([sys.executable, "-S", "-c", _PEER, path], cwd=Path.cwd())
                peer, _ = listener.accept()
                peer.settimeout(None)
                return peer

    async def call(self, method: str, *args: Any) -> Any:  # noqa: ARG002 (it only knows echo)
        """One byte there and back, on this thread."""
        assert self._socket is not None
        self._socket.sendall(b"x")
        self._socket.recv(1)
        return args[0]

    async def together(self, method: str, values: Sequence[Any]) -> Sequence[Any]:  # noqa: ARG002 (Contender's shape)
        """There is no pool here."""
        raise Missing("it has one call at a time")

    async def close(self) -> None:
        """End the other process."""
        if self._socket is not None:
            self._socket.close()
        if self._peer is not None:
            with contextlib.suppress(ProcessLookupError):
                self._peer.terminate()
            await asyncio.to_thread(self._peer.wait)


class AsyncPingPong(PingPong):
    """The caller's end is an asyncio protocol: the least that a call from a loop can take."""

    key = "ping-pong-asyncio"
    label = "limit: bare ping-pong, from asyncio"

    places: ClassVar[tuple[int, ...]] = ()
    """Which of the processors that there are the caller and its peer are kept on; none: where the kernel puts them."""

    def __init__(self) -> None:
        super().__init__()
        self._transport: asyncio.Transport | None = None
        self._allowed: set[int] = set()

    async def open(self, workers: int) -> None:
        """Start the other process, and hand the socket to the loop."""
        await super().open(workers)
        self._keep_in_place()
        loop = asyncio.get_running_loop()
        self._protocol = _Pong()
        self._transport, _ = await loop.create_unix_connection(lambda: self._protocol, sock=self._socket)

    async def call(self, method: str, *args: Any) -> Any:  # noqa: ARG002 (it only knows echo)
        """One byte there and back."""
        assert self._transport is not None
        self._protocol.came = asyncio.get_running_loop().create_future()
        self._transport.write(b"x")
        await self._protocol.came
        return args[0]

    def _keep_in_place(self) -> None:
        if not self.places:
            return
        allowed = sorted(os.sched_getaffinity(0))
        if max(self.places) >= len(allowed):
            raise Missing(f"it takes {max(self.places) + 1} processors")
        assert self._peer is not None
        self._allowed = set(allowed)
        for process, place in zip((0, self._peer.pid), self.places, strict=True):  # 0 is this thread
            os.sched_setaffinity(process, {allowed[place]})

    async def close(self) -> None:
        """Close the transport too, and let this thread go where it likes."""
        if self._allowed:
            os.sched_setaffinity(0, self._allowed)
        if self._transport is not None:
            self._transport.close()
        await super().close()


class OneProcessor(AsyncPingPong):
    """Both ends on one processor: no other has to be woken, and nothing is done at the same time."""

    key = "ping-pong-one"
    label = "limit: the same, both ends on one processor"
    places = (0, 0)


class TwoProcessors(AsyncPingPong):
    """The ends on two processors, of which the other is woken each time."""

    key = "ping-pong-two"
    label = "limit: the same, each end on its own"
    places = (0, 1)


class _Pong(asyncio.Protocol):
    came: asyncio.Future[None]

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 (asyncio's shape)
        if not self.came.done():
            self.came.set_result(None)
