"""The worker's end of the express lane: one connection, a thread that reads it, and runners that write to it.

The reading thread puts calls into the inbox and answers recalls and cancellations while user code runs. Replies are
collected and written together: when the inbox is empty, after a call that was not short, with the next announcement,
whenever the caller asks for something, and after `KEPT_FOR` by a thread of its own, since the call that has begun
meanwhile may be a long one. If that one keeps the interpreter to itself, they wait until it lets go.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from itertools import count
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from poise._wire.codec import NOT_BEGUN, Packed, Reply, detach, nbytes
from poise._wire.frames import DIRECT, Frame, FrameError, FrameReader, Unloaded, pack_frames
from poise._wire.functions import FunctionShelf, PickledFunction
from poise._wire.messages import (
    BEGUN,
    CALL,
    CANCEL,
    COLLECT,
    COLLECT_ITEM,
    DEFINE,
    GRANT,
    ITEM,
    RECALL,
    RECALL_DONE,
    REPLY,
    is_express,
    load,
    unload,
    whole,
    wholes,
)
from poise._worker.inbox import Arrival, Inbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from poise._worker.connections import Connection

_log = logging.getLogger("poise")

SHORT: Final = 100e-6
"""Seconds: the reply of a longer call is not kept back for company."""
KEPT_FOR: Final = 1e-3
"""Seconds for which a reply is kept back at most."""


class Link:
    """One connection with the pool's caller."""

    def __init__(
        self,
        connection: Connection,
        inbox: Inbox,
        shelf: FunctionShelf,
        settle: Callable[[Reply], None],
    ) -> None:
        """Serve this connection.

        Args:
            connection: an authenticated peer.
            inbox: where its calls go.
            shelf: where its functions go.
            settle: ends a call, whichever way it came.
        """
        self._connection = connection
        self._inbox = inbox
        self._settle = settle
        self.kept: dict[int, Reply] = {}
        """Replies that only Ray can carry, until the caller collects them."""
        self.kept_items: dict[int, Packed] = {}
        """Stream items, likewise, each under a number of its own."""
        self._item_numbers = count()
        self._out: deque[tuple[Any, ...]] = deque()
        """Messages to be written. Appended to by any thread, emptied under the lock."""
        self._writing = threading.Lock()
        self._is_open = True
        self._shelf = shelf
        self._flushes = 0
        self._wake: SimpleQueue[None] = SimpleQueue()
        # Invariant: when a reply is kept back, this is set, or becomes so at once, until somebody has looked after it.
        self._is_watched = False

    # Runner threads

    def reply(self, reply: Reply) -> None:
        """An attempt has ended."""
        call_id, code, packed, service_time = reply
        fits = packed is None or is_express(packed)
        is_big = False
        if packed is not None and type(packed) is not bytes:
            # The buffers are the user's own memory, which the next call may change.
            is_big = fits and nbytes(packed) > DIRECT
            if not is_big:
                packed = detach(packed)
        if fits:
            self._out.append((REPLY, call_id, code, packed, service_time))
        else:
            self.kept[call_id] = (call_id, code, packed, service_time)
            self._out.append((COLLECT, call_id))
        if is_big or not len(self._inbox) or (service_time > SHORT and not self._inbox.is_to_announce()):
            self.flush()
        elif not self._is_watched:
            self._is_watched = True
            self._wake.put(None)

    def item(self, call_id: int, item: Packed) -> None:
        """A stream has produced an item."""
        if is_express(item):
            self._out.append((ITEM, call_id, item))
        else:
            number = next(self._item_numbers)
            self.kept_items[number] = detach(item)
            self._out.append((COLLECT_ITEM, call_id, number))
        self.flush()

    def announce(self, call_ids: Sequence[int]) -> bool:
        """Say that these calls may begin; return whether this has been written."""
        self._out.append((BEGUN, list(call_ids)))
        self.flush()
        return self._is_open

    def flush(self) -> None:
        """Write what was collected; waits for as long as the caller does not read."""
        with self._writing:
            self._flushes += 1
            unloaded: list[Unloaded] = []
            try:
                while self._out:
                    unloaded.append(unload(self._out.popleft()))
                if unloaded and self._is_open:
                    self._connection.send([memoryview(piece) for piece in pack_frames(unloaded)])
            except OSError:
                self._is_open = False  # the reading thread hears of it too
            except BaseException:  # noqa: BLE001 - no memory, say: replies are lost, and only the worker's end settles that
                _log.exception("a worker could not write to its caller, and ends")
                self._is_open = False
                self._connection.close()

    # A thread of its own

    def _flush_late(self) -> None:
        """Write what was kept back and has met no other occasion."""
        while self._is_open:
            self._wake.get()
            while self._is_open:
                flushes = self._flushes
                time.sleep(KEPT_FOR)
                if flushes == self._flushes:  # else there is traffic, and most likely another occasion
                    break
            self._is_watched = False  # before the write: what is kept back from now on wakes this again
            self.flush()

    # The reading thread

    def run(self) -> None:
        """Read until the caller is gone; then nothing more begins here."""
        threading.Thread(target=self._flush_late, name="poise-express-flush", daemon=True).start()
        reader = FrameReader()
        try:
            while count := self._connection.receive_into(reader.buffer()):
                self._hear(reader.received(count))
        except (OSError, FrameError) as error:
            _log.info("the connection to the caller is lost: %s", error)
        except Exception:  # noqa: BLE001 - no memory for what comes, or a fault of poise's own
            _log.exception("what the caller sent could not be heard, and the connection is given up")
        finally:
            self._is_open = False
            self._wake.put(None)
            self._inbox.close()
            self._connection.close()

    def _hear(self, frames: list[Frame]) -> None:
        """Take in what came, in a frame of its own: while the thread waits it keeps no argument alive."""
        for messages, buffers in frames:
            self._take(messages, iter(buffers))

    def _take(self, messages: list[Any], buffers: Iterator[bytes | bytearray]) -> None:
        arrivals: list[Arrival] = []
        try:
            for message in messages:
                if message[0] == CALL:
                    arrivals.append(_arrival(message, buffers))
                elif message[0] == DEFINE:
                    self._shelf.define(_function(message[1], load(message[2], buffers)))
                else:
                    self._inbox.put(arrivals)  # first: a recall may ask for them
                    arrivals = []
                    self._obey(message)
        except FrameError:
            raise
        except Exception as error:
            raise FrameError(f"this is no message of the caller's: {type(error).__name__}: {error}") from error
        self._inbox.put(arrivals)

    def _obey(self, message: list[Any]) -> None:
        operation = message[0]
        if operation == RECALL:
            self._give_back(self._inbox.recall(wholes(message[1])))
            self._out.append((RECALL_DONE,))
            self.flush()
        elif operation == CANCEL:
            if self._inbox.cancel(whole(message[1])):
                self._give_back([message[1]])
            self.flush()
        elif operation == GRANT:
            self._inbox.credit(whole(message[1]), whole(message[2]))
        else:
            raise ValueError(f"operation {operation!r}")

    def _give_back(self, call_ids: Sequence[int]) -> None:
        for call_id in call_ids:
            self._settle((call_id, NOT_BEGUN, None, 0.0))


def _arrival(message: list[Any], buffers: Iterator[bytes | bytearray]) -> Arrival:
    _, call_id, target, arguments, credit, is_ahead = message
    function = target if type(target) is str else _function(target, b"")
    call = Arrival(whole(call_id), function, load(arguments, buffers), None if credit is None else whole(credit))
    call.announced = not is_ahead  # the caller takes what it gave a slot to have begun
    return call


def _function(digest: Any, packed: Packed) -> PickledFunction:
    if type(digest) is not bytes:
        raise FrameError(f"a digest is bytes, and this is {type(digest).__name__}")
    return PickledFunction(digest, packed)
