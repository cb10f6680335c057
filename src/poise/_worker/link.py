"""The worker's end of the express lane: one connection, and the threads that read it and write to it.

A thread puts calls into the inbox and answers recalls and cancellations while user code runs; a worker that runs one
call at a time reads by itself while it has none (`Turns`). Replies are
collected in a journal and written together: when the inbox is empty, after a call that was not short, with the next
announcement, whenever the caller asks for something, and after `KEPT_FOR` by a thread of its own, since the call that
has begun meanwhile may be a long one. If that one keeps the interpreter to itself, a caller on the same node takes them
from the journal; one on another node waits until it lets go.
"""

from __future__ import annotations

import logging
import threading
import time
from itertools import count
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from poise._answers import NOT_BEGUN, Answer
from poise._protocol.frames import Frame, FrameError, FrameReader, pack_frames
from poise._protocol.journal import JOURNAL_SIZE, Journal
from poise._protocol.messages import (
    BEGUN,
    CALL,
    CANCEL,
    COLLECT,
    COLLECT_ITEM,
    CREDIT,
    DEFINE,
    ITEM,
    LOG,
    RECALL,
    RECALL_DONE,
    REPLY,
    RETIRE,
    is_express,
    load,
    load_call,
    load_function,
    unload,
    whole,
    wholes,
)
from poise._protocol.payloads import Packed, detach
from poise._worker.connections import PlainConnection
from poise._worker.inbox import Arrival, Inbox
from poise._worker.reading import CAN_TAKE_TURNS, Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from poise._worker.connections import Connection
    from poise._worker.shelf import FunctionShelf

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
        settle: Callable[[Answer], None],
        journal: memoryview | None = None,
        *,
        is_alone: bool = False,
    ) -> None:
        """Serve this connection.

        Args:
            connection: an authenticated peer.
            inbox: where its calls go.
            shelf: where its functions go.
            settle: ends a call, whichever way it came.
            journal: memory for what is said and not written yet, if the caller can read it there.
            is_alone: whether one thread alone runs the calls, so that it may read by itself while it has none.
        """
        self._connection = connection
        self._inbox = inbox
        self._settle = settle
        self.kept: dict[int, Answer] = {}
        """Answers that only Ray can carry, until the caller collects them."""
        self.kept_items: dict[int, Packed] = {}
        """Stream items, likewise, each under a number of its own."""
        self._item_numbers = count()
        self._journal = Journal(memoryview(bytearray(JOURNAL_SIZE)) if journal is None else journal)
        """What was said and not written. Used under the lock."""
        self._writing = threading.Lock()
        self._is_open = True
        self._shelf = shelf
        self._flushes = 0
        self._wake: SimpleQueue[None] = SimpleQueue()
        # Invariant: when a reply is kept back, this is set, or becomes so at once, until somebody has looked after it.
        self._is_watched = False
        self._is_alone = is_alone

    # Runner threads

    def reply(self, answer: Answer) -> None:
        """An attempt has ended."""
        call_id, ending, packed, service_time = answer
        message: tuple[Any, ...] = (REPLY, *answer)
        if packed is not None and not is_express(packed):
            # The buffers are the user's own memory, which the next call may change.
            self.kept[call_id] = Answer(call_id, ending, detach(packed), service_time)
            message = (COLLECT, call_id)
        inbox = self._inbox
        is_awaited = not len(inbox) or (service_time > SHORT and not inbox.is_to_announce())
        self._say(message, at_once=is_awaited)
        if not is_awaited and not self._is_watched:
            self._is_watched = True
            self._wake.put(None)

    def item(self, call_id: int, item: Packed) -> None:
        """A stream has produced an item."""
        if is_express(item):
            self._say((ITEM, call_id, item), at_once=True)
        else:
            number = next(self._item_numbers)
            self.kept_items[number] = detach(item)
            self._say((COLLECT_ITEM, call_id, number), at_once=True)

    def announce(self, call_ids: Sequence[int]) -> bool:
        """Say that these calls may begin; return whether this has been written."""
        self._say((BEGUN, list(call_ids)), at_once=True)
        return self._is_open

    def retire(self) -> None:
        """Ask to be replaced."""
        self._say((RETIRE,), at_once=True)

    def log(self, rows: list[bytes], dropped: int) -> None:
        """Pass on what was logged."""
        self._say((LOG, rows, dropped), at_once=True)

    def log_at_once(self, rows: list[bytes]) -> bool:
        """Pass on what was logged if that waits for nobody; return whether it did."""
        if not self._writing.acquire(blocking=False):  # perhaps by this very thread, interrupted by a signal
            return False
        try:
            if not self._connection.takes_now():
                return False
            self._write()
            self._send(pack_frames([((LOG, rows, 0), ())]))
            self._journal.written(1)
        finally:
            self._writing.release()
        return True

    @property
    def is_open(self) -> bool:
        """Whether what is said is written."""
        return self._is_open

    def flush(self) -> None:
        """Write what was collected; waits for as long as the caller does not read."""
        with self._writing:
            self._write()

    def _say(self, message: tuple[Any, ...], *, at_once: bool) -> None:
        """Write a message after what was said before it, or keep it back; one with buffers is never kept."""
        unloaded = unload(message)
        with self._writing:
            if unloaded[1] or not self._journal.append(unloaded[0]):
                pieces = pack_frames([unloaded])
                self._write()
                self._send(pieces)
                self._journal.written(1)
            elif at_once:
                self._write()

    def _write(self) -> None:
        self._flushes += 1
        if len(self._journal):
            self._send([self._journal.frame()])
            self._journal.written()

    def _send(self, pieces: Sequence[bytes | memoryview]) -> None:
        if not self._is_open:
            return
        try:
            self._connection.send([memoryview(piece) for piece in pieces])
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
        try:
            self._read()
        except (OSError, FrameError) as error:
            _log.info("the connection to the caller is lost: %s", error)
        except Exception:  # noqa: BLE001 - no memory for what comes, or a fault of poise's own
            _log.exception("what the caller sent could not be heard, and the connection is given up")
        finally:
            self._is_open = False
            self._wake.put(None)
            self._inbox.close()
            self._connection.close()

    def _read(self) -> None:
        connection = self._connection
        if CAN_TAKE_TURNS and self._is_alone and isinstance(connection, PlainConnection):
            turns = Turns(connection, self._inbox, self._hear)
            self._inbox.lead = turns.lead
            turns.follow()
            return
        reader = FrameReader()
        while count := connection.receive_into(reader.buffer()):
            self._hear(reader.received(count))

    def _hear(self, frames: list[Frame]) -> None:
        """Take in what came, in a frame of its own: while the thread waits it keeps no argument alive."""
        for messages, buffers in frames:
            self._take(messages, iter(buffers))

    def _take(self, messages: list[Any], buffers: Iterator[bytes | bytearray]) -> None:
        arrivals: list[Arrival] = []
        try:
            for message in messages:
                if message[0] == CALL:
                    arrivals.append(call := Arrival(load_call(message, buffers)))
                    call.announced = call.mark is None  # the caller takes what it gave a slot to have begun
                elif message[0] == DEFINE:
                    self._shelf.define(load_function(message[1], load(message[2], buffers)))
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
            self._say((RECALL_DONE,), at_once=True)
        elif operation == CANCEL:
            if self._inbox.cancel(whole(message[1])):
                self._give_back([message[1]])
            self.flush()
        elif operation == CREDIT:
            self._inbox.credit(whole(message[1]), whole(message[2]))
        else:
            raise ValueError(f"operation {operation!r}")

    def _give_back(self, call_ids: Sequence[int]) -> None:
        for call_id in call_ids:
            self._settle(Answer(call_id, NOT_BEGUN, None))
