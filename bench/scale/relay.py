"""What a call costs the owner of a pool that many processes share: the core, and frames over many sockets.

The owner here is the least that could do it: the real scheduler, in which each client is a tenant, the real frames,
asyncio's transports, and nothing else. Another process plays all clients and all workers, which answer at once and
say that it took `service` seconds. Processor is counted in the owner alone. Run as a module it prints figures as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import selectors
import socket
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from poise._answers import RETURNED, Answer
from poise._core.effects import Recall, Resolve, Send, Start
from poise._core.pace import AHEAD_CALLS
from poise._core.scheduler import Scheduler
from poise._protocol.frames import FrameReader, pack_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from poise._core.effects import Effect

ARGUMENT: Final = b"x" * 40
"""What a client packed, and the owner passes on unread."""
SERVICES: Final = (20e-6, 0.1)
"""Seconds that calls are said to take: such as are sent ahead by the dozen, and such as are never sent ahead."""


@dataclass(frozen=True)
class Sample:
    """One run: how it was, and what the owner did in it."""

    clients: int
    workers: int
    in_flight: int
    service: float
    calls: int
    turns: int
    """Times that the owner woke, or went on, to see which sockets have something."""
    frames: int
    """Read and written."""
    processor: float
    """Seconds of the owner's processor."""
    wall: float


class Link(asyncio.BufferedProtocol):
    """One connection of the owner's."""

    def __init__(self, number: int, hear: Callable[[int, list[Any]], None]) -> None:
        """Tell `hear` of what comes."""
        self._number = number
        self._hear = hear
        self._reader = FrameReader()
        self.out: list[Any] = []
        """Messages for the next frame."""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's."""
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 (asyncio's shape)
        """Asyncio's."""
        return self._reader.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Asyncio's."""
        for messages, _ in self._reader.received(nbytes):
            self._hear(self._number, messages)


class Owner:
    """Passes calls from clients to workers, and answers back."""

    def __init__(self, clients: list[socket.socket], workers: list[socket.socket], service: float) -> None:
        """Have all workers ready."""
        self._sockets = clients, workers
        self._service = service
        self._scheduler = Scheduler(size=len(workers), backlog=None)
        self._new = [self._scheduler.shares.new_record(number, 1.0) for number in range(len(clients))]
        self._clients: list[Link] = []
        self._workers: dict[int, Link] = {}
        self._calls: dict[int, tuple[int, int, Any]] = {}
        """Whose each call is, its number there, and what the client packed."""
        self._next_id = 0
        self._written: set[Link] = set()
        self.ended = self.turns = self.frames = 0
        self._wanted = 0
        self._reached = asyncio.Event()

    async def open(self) -> None:
        """Connect everybody."""
        loop = asyncio.get_running_loop()
        clients, workers = self._sockets
        for number, end in enumerate(clients):
            link = Link(number, self._from_client)
            await loop.create_unix_connection(lambda link=link: link, sock=end)  # type: ignore[misc]
            self._clients.append(link)
        starts = [effect.worker_id for effect in self._scheduler.open(time.monotonic()) if isinstance(effect, Start)]
        for number, end in zip(starts, workers, strict=True):
            link = self._workers[number] = Link(number, self._from_worker)
            await loop.create_unix_connection(lambda link=link: link, sock=end)  # type: ignore[misc]
            self._perform(self._scheduler.worker_ready(number, time.monotonic(), most_ahead=AHEAD_CALLS))

    async def until(self, more: int) -> None:
        """Until so many more calls have ended."""
        self._wanted = self.ended + more
        self._reached.clear()
        async with asyncio.timeout(300):
            await self._reached.wait()

    def _from_client(self, client: int, messages: list[Any]) -> None:
        self.frames += 1
        for number, argument in messages:
            self._next_id += 1
            self._calls[self._next_id] = client, number, argument
            record = self._new[client](self._next_id, "f", name="f")
            self._perform(self._scheduler.submit(record, time.monotonic()))

    def _from_worker(self, worker: int, messages: list[Any]) -> None:
        self.frames += 1
        answers = [Answer(number, RETURNED, value, self._service) for number, value in messages if number > 0]
        if answers:
            self._perform(self._scheduler.finished(worker, answers, time.monotonic()))
        if len(answers) < len(messages):  # a recall, after everything that it came too late for
            self._perform(self._scheduler.recall_done(worker, time.monotonic()))

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if type(effect) is Send:
                for call in effect.calls:
                    self._write(self._workers[effect.worker_id], (call.id, self._calls[call.id][2]))
            elif type(effect) is Resolve:
                client, number, _ = self._calls.pop(effect.call.id)
                self._write(self._clients[client], (number, effect.answer.value))
                self.ended += 1
                if self.ended == self._wanted:
                    self._reached.set()
            elif type(effect) is Recall:
                self._write(self._workers[effect.worker_id], (0, b""))

    def _write(self, link: Link, message: Any) -> None:
        if not self._written:
            asyncio.get_running_loop().call_soon(self._flush)
        if not link.out:
            self._written.add(link)
        link.out.append(message)

    def _flush(self) -> None:
        self.turns += 1
        self.frames += len(self._written)
        for link in self._written:
            for piece in pack_frame(link.out):
                link.transport.write(piece)
            link.out = []
        self._written.clear()


def play(clients: list[socket.socket], workers: list[socket.socket], in_flight: int) -> None:
    """Be all clients, each of which keeps as many calls under way, and all workers; until the owner is gone."""
    selector = selectors.DefaultSelector()
    for end in clients + workers:
        selector.register(end, selectors.EVENT_READ, FrameReader())
    callers = set(clients)
    for number in range(in_flight):
        clients[number % len(clients)].sendall(b"".join(map(bytes, pack_frame([(number, ARGUMENT)]))))
    while True:
        for key, _ in selector.select():
            peer: Any = key.fileobj
            count = peer.recv_into(key.data.buffer())
            if not count:
                return
            for messages, _ in key.data.received(count):
                answers = [(number, ARGUMENT if peer in callers else b"done") for number, _ in messages]
                peer.sendall(b"".join(map(bytes, pack_frame(answers))))


async def sample(clients: int, workers: int, in_flight: int, service: float, calls: int) -> Sample:
    """Run so many calls, after half as many that do not count."""
    pairs = [socket.socketpair() for _ in range(clients + workers)]
    ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if not (child := os.fork()):
        for end in ours:
            end.close()
        with suppress(OSError):
            play(theirs[:clients], theirs[clients:], in_flight)
        os._exit(0)
    for end in theirs:
        end.close()
    owner = Owner(ours[:clients], ours[clients:], service)
    try:
        await owner.open()
        await owner.until(calls // 2)
        gc.collect()
        before = owner.ended, owner.turns, owner.frames, time.process_time(), time.monotonic()
        await owner.until(calls)
        after = owner.ended, owner.turns, owner.frames, time.process_time(), time.monotonic()
    finally:
        for link in (*owner._clients, *owner._workers.values()):  # noqa: SLF001
            link.transport.abort()
        await asyncio.sleep(0)
        os.waitpid(child, 0)  # noqa: ASYNC222 - nothing else is to go on meanwhile
    ended, turns, frames, processor, wall = (late - early for late, early in zip(after, before, strict=True))
    return Sample(clients, workers, in_flight, service, int(ended), int(turns), int(frames), processor, wall)


def fit(samples: Iterable[dict[str, Any]]) -> tuple[float, float]:
    """Seconds of processor of a call and of a frame, by least squares over what each sample did for one call.

    A turn of the loop has no share of its own: those that are short are those that have a frame or two.
    """
    import numpy as np

    weighed = [[each["calls"] / each["processor"], each["frames"] / each["processor"]] for each in samples]
    call, frame = np.linalg.lstsq(np.array(weighed), np.ones(len(weighed)), rcond=None)[0]
    return float(call), float(frame)


def main() -> None:
    """Print samples from one client with one call under way to a throng of many over many links."""
    calls = 2_000 if "--quick" in sys.argv else 20_000
    most = 100 if "--quick" in sys.argv else 1_000
    found = [
        asyncio.run(sample(clients, workers, in_flight, service, calls))
        for service in SERVICES
        for clients, workers in ((1, 2), (4, 4), (64, most))
        for in_flight in (1, 8, 64, 1000)
        if in_flight >= clients
    ]
    print(json.dumps([asdict(each) for each in found]))


if __name__ == "__main__":
    main()
