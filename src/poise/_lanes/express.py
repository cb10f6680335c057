"""What goes by express: messages on a socket from the caller's loop straight into the actor's process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from poise._answers import NOT_BEGUN, RAISED, Answer
from poise._lanes.ahead import SentAhead
from poise._lanes.answers import unpack_answer, unpack_items
from poise._lanes.in_turn import InTurn
from poise._lanes.lane import AHEAD_CALLS, BY_ITSELF, UNFENCED_CALLS, Listener
from poise._protocol.frames import FrameError, Unloaded
from poise._protocol.journal import JournalReader
from poise._protocol.marks import Marks
from poise._protocol.memory import journal_of, marks_of
from poise._protocol.messages import (
    BEGUN,
    CANCEL,
    COLLECT,
    COLLECT_ITEM,
    CREDIT,
    DEFINE,
    ENDINGS,
    ITEM,
    LOG,
    RECALL,
    RECALL_DONE,
    REPLY,
    RETIRE,
    is_express,
    load,
    log_batch,
    seconds,
    unload,
    whole,
    wholes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from poise._lanes.caller_link import CallerLink
    from poise._protocol.functions import PickledFunction
    from poise._protocol.payloads import Packed
    from poise._protocol.records import LogBatch

_log = logging.getLogger("poise")

DEFINED: Final = 512
"""Functions that are taken to be known to the worker; it keeps twice as many."""


class ExpressOwner(Protocol):
    """The lane that it is a part of."""

    worker_id: int

    def cancel(self, call_id: int) -> None:
        """Stop this stream: an item of it was lost."""

    def fetch(self, call_id: int, method: str, number: int, arrived: Callable[[Any], object]) -> None:
        """Have Ray bring what no frame can carry and waits in the worker; an `Answer` says that it is lost."""

    def on_logs(self, batch: LogBatch) -> None:
        """The worker has logged this."""

    def on_unlinked(self, error: Exception | None, *, is_read_out: bool) -> None:
        """The connection has ended, and everything that came over it has been heard."""


class Express:
    """The caller's end of one socket lane."""

    def __init__(self, owner: ExpressOwner, listener: Listener, *, writable: bool) -> None:
        """Say nothing before `use`.

        Args:
            owner: the lane.
            listener: the engine's ear.
            writable: whether large arrays arrive writable, as small ones do.
        """
        self._owner = owner
        self._worker_id = owner.worker_id
        self._name = f"worker {owner.worker_id}"
        self._listener = listener
        self.unpack_answer: Callable[[Answer], Answer] = partial(unpack_answer, writable=writable)
        self.unpack_items: Callable[[list[Packed]], tuple[list[Any], Exception | None]]
        self.unpack_items = partial(unpack_items, writable=writable)
        self._loop = asyncio.get_running_loop()
        self._link: CallerLink | None = None
        self._unloaded: list[Unloaded] = []
        """What is to be written."""
        self._is_flushing = False
        self._defined: set[bytes] = set()
        self._in_turn = InTurn(self._hear_in_turn)
        self._failures: dict[int, Exception] = {}
        """Streams of which an item was lost on the way, until they have ended."""
        self._ahead = SentAhead()
        self._journal: JournalReader | None = None
        self._heard = 0
        """Messages that have come over the connection."""
        self._heard_early = 0
        """The number of the first message that was not read in the journal before it came."""
        self._unlinked = asyncio.Event()

    def use(self, link: CallerLink, memory: memoryview | None = None) -> None:
        """Speak over this connection, with what both ends see of this memory if they are on one node."""
        self._link = link
        if memory is not None:
            self._ahead = SentAhead(Marks(marks_of(memory)))
            self._journal = JournalReader(journal_of(memory))

    @property
    def most_ahead(self) -> int:
        """How many calls beyond its slots the worker may be sent."""
        return UNFENCED_CALLS if self._journal is None else AHEAD_CALLS

    # -----------------------------------------------------------------------------------------------------------------
    # To the worker

    def define(self, function: PickledFunction) -> bytes | None:
        """Tell the worker of a function, once, and return its digest; None if no frame can carry it."""
        digest, packed = function
        if not digest or not is_express(packed):
            return None
        if digest not in self._defined:
            if len(self._defined) >= DEFINED:
                self._defined.clear()
            self._defined.add(digest)
            self._unloaded.append(unload((DEFINE, digest, packed)))
        return digest

    def mark(self, call_id: int) -> int:
        """Give a call that is to be sent ahead its mark."""
        return self._ahead.mark(call_id)

    def send(self, message: Sequence[Any]) -> None:
        """Write a message, most likely a call, with the next `flush`."""
        self._unloaded.append(unload(message))

    def recall(self, call_ids: Sequence[int]) -> None:
        """Ask for these calls back, whichever way they went."""
        self._ahead.recalled()
        self._say((RECALL, list(call_ids)))

    def withdraw(self, call_ids: Sequence[int]) -> None:
        """Take back what has not begun, and hear what the worker has said, written or not."""
        taken = self._ahead.withdraw(call_ids)
        if taken:
            self.recall(taken)  # so that the worker lets go of them even while a call runs
            self._listener.on_answers(self._worker_id, [Answer(call_id, NOT_BEGUN, None) for call_id in taken])
        self._hear_unwritten()

    def cancel(self, call_id: int) -> None:
        """Drop the call if it has not begun; stop it if it is a coroutine or a stream."""
        self._ahead.forbid(call_id)
        self._say((CANCEL, call_id))

    def credit(self, call_id: int, items: int) -> None:
        """Let the stream send this many more items."""
        self._say((CREDIT, call_id, items))

    def _say(self, message: Sequence[Any]) -> None:
        """Write the message with whatever else is said in this turn of the loop."""
        self._unloaded.append(unload(message))
        self.flush_soon()

    def flush_soon(self) -> None:
        """Write what was said at the end of this turn of the loop."""
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush_turn)

    def _flush_turn(self) -> None:
        self._is_flushing = False
        self.flush()

    def flush(self) -> None:
        """Write what was said, unless the worker does not read: then it waits until it does."""
        link = self._link
        if link is None or link.is_paused or not self._unloaded:
            return
        unloaded, self._unloaded = self._unloaded, []
        link.say(unloaded, self._name)

    # -----------------------------------------------------------------------------------------------------------------
    # From the worker

    def hear(self, frames: Sequence[tuple[list[Any], list[Any]]]) -> None:
        """Take in what the worker has written, in its order."""
        self._take_in([(self._not_heard_early(messages), buffers) for messages, buffers in frames])

    def _take_in(self, frames: Sequence[tuple[list[Any], list[Any]]]) -> None:
        answers: list[Answer] = []
        waiting = self._in_turn.waiting
        try:
            for messages, buffers in frames:
                rest = iter(buffers)
                for message in messages:
                    if message[0] == REPLY and not waiting:
                        answers.append(self._answer(message, rest))
                    else:
                        self._hand_over(answers)
                        answers = []
                        self._hear_other(message, rest)
        except FrameError:
            raise
        except Exception as error:
            raise FrameError(f"this is no message of a worker's: {type(error).__name__}: {error}") from error
        finally:
            self._hand_over(answers)

    def _not_heard_early(self, messages: list[Any]) -> list[Any]:
        known = self._heard_early - self._heard
        self._heard += len(messages)
        return messages if known <= 0 else messages[known:]  # what was in the journal has no buffers

    def _hear_unwritten(self) -> None:
        """Hear what the worker has said and not written, after all that it has written."""
        link, journal = self._link, self._journal
        if link is None or journal is None:
            return
        link.read()
        try:
            said = journal.read()
            if said is None:
                return
            first, messages = said
            known = max(self._heard, self._heard_early)
            if first <= known < first + len(messages):  # else it is no news, or more is on its way before it
                self._heard_early = first + len(messages)
                self._take_in([(messages[known - first :], [])])
        except Exception as error:  # noqa: BLE001 - as with what comes over the connection
            _log.exception("what a worker said could not be heard, and it is given up")
            link.give_up(error)

    def _hand_over(self, answers: list[Answer]) -> None:
        if answers:
            if self._failures:
                answers = [self._failed(answer) or answer for answer in answers]
            if news := self._ahead.heard(answers):
                self._listener.on_answers(self._worker_id, news)
            self._tell_recalled()

    def _tell_recalled(self) -> None:
        if self._ahead.has_let_go():
            self._listener.on_recall_done(self._worker_id)

    def _answer(self, message: list[Any], buffers: Iterator[Any]) -> Answer:
        _, call_id, ending, packed, service_time = message
        if ending not in ENDINGS or (ending == RAISED and packed is None):
            raise FrameError(f"ending {ending!r}")
        packed = None if packed is None else load(packed, buffers)
        answer = Answer(whole(call_id), ending, packed, seconds(service_time))
        return self.unpack_answer(answer)

    def _hear_other(self, message: list[Any], buffers: Iterator[Any]) -> None:
        operation = message[0]
        if operation == BEGUN:
            self._listener.on_begun(self._worker_id, wholes(message[1]))
        elif operation == RECALL_DONE:
            self._ahead.recall_answered()
            self._tell_recalled()
        elif operation == ITEM:
            self._in_turn.add(whole(message[1]), load(message[2], buffers))
        elif operation == REPLY:
            self._in_turn.add(whole(message[1]), self._answer(message, buffers))
        elif operation == RETIRE:
            self._listener.on_retire(self._worker_id, BY_ITSELF)
        elif operation == LOG:
            self._owner.on_logs(log_batch(message[1], message[2]))
        elif operation == COLLECT:
            self._collect(whole(message[1]))
        elif operation == COLLECT_ITEM:
            self._collect_item(whole(message[1]), whole(message[2]))
        else:
            raise ValueError(f"operation {operation!r}")

    def _collect(self, call_id: int) -> None:
        fill = self._in_turn.expect(call_id)

        def arrived(reply: Answer | tuple[Any, ...]) -> None:
            fill(reply if isinstance(reply, Answer) else self.unpack_answer(Answer._make(reply)))

        self._owner.fetch(call_id, "collect", call_id, arrived)

    def _collect_item(self, call_id: int, number: int) -> None:
        fill = self._in_turn.expect(call_id)

        def arrived(contents: Answer | tuple[Any, ...]) -> None:
            if isinstance(contents, Answer):
                self._end_stream(call_id, contents.value)
                contents = (b"",)  # never looked at: the stream has failed
            fill(*contents)

        self._owner.fetch(call_id, "collect_item", number, arrived)

    def _hear_in_turn(self, call_id: int, news: Answer | Packed) -> None:
        if isinstance(news, Answer):
            self._hand_over([news])
        elif call_id not in self._failures:
            items, failure = self.unpack_items([news])
            if failure is not None:
                self._end_stream(call_id, failure)
            else:
                self._listener.on_items(self._worker_id, call_id, items)

    def _end_stream(self, call_id: int, failure: Exception) -> None:
        """An item was lost on the way: the producer is stopped, and the stream ends with this when it has."""
        self._failures.setdefault(call_id, failure)
        self._owner.cancel(call_id)

    def _failed(self, answer: Answer) -> Answer | None:
        """The end of a stream of which an item was lost, or None if it is none."""
        failure = self._failures.pop(answer.call_id, None)
        return None if failure is None else Answer(answer.call_id, RAISED, failure, answer.service_time)

    # -----------------------------------------------------------------------------------------------------------------
    # The end

    def read_out(self) -> None:
        """The worker's process has ended: read what it wrote, as far as it goes."""
        if self._link is not None:
            self._link.read_out()

    def cut(self) -> None:
        """End the connection at once."""
        if self._link is not None:
            self._link.transport.abort()

    async def wind_up(self, timeout: float) -> None:
        """Wait until everything that a dead worker has said was heard, for so many seconds at most, and end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._unlinked.wait()
        self.cut()
        await self._unlinked.wait()

    def unlink(self, link: CallerLink, error: Exception | None) -> None:
        """The connection has ended, and everything that came over it has been heard."""
        if link is not self._link:
            return
        self._link = None
        # The shared memory has a descriptor, which must not wait for the collector to come by.
        self._ahead, self._journal = SentAhead(), None
        self._unlinked.set()
        self._owner.on_unlinked(error, is_read_out=link.is_read_out)
