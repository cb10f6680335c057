"""The express lane: a socket from the caller's loop straight into the actor's process.

Same node: a Unix socket in a directory that only this user can enter, and the kernel's word on who is at the other end.
Other node: TCP with mutual TLS 1.3. What only Ray can carry (ObjectRefs, values above `DEPOSIT` bytes) goes by freight
to the same inbox, so that the scheduler's order holds for all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import tempfile
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ray.exceptions import RayError, RayTaskError

from poise._lanes.ahead import SentAhead
from poise._lanes.answers import answer_of, unpack_items
from poise._lanes.caller_link import CallerLink
from poise._lanes.door import Door
from poise._lanes.failures import answer_of_failure
from poise._lanes.freight import FreightLane, FreightLauncher
from poise._lanes.lane import AHEAD_CALLS, UNFENCED_CALLS, Answer, Kind, Parcel, StartFailed, Verdict
from poise._protocol.codec import RAISED, pack_arguments
from poise._protocol.frames import FrameError, Unloaded, pack_frames
from poise._protocol.journal import JournalReader
from poise._protocol.marks import Marks
from poise._protocol.memory import journal_of, make_memory, marks_of, memory_beside
from poise._protocol.messages import (
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
    VERDICTS,
    is_express,
    load,
    seconds,
    unload,
    whole,
    wholes,
)
from poise._protocol.peer import CALLER, peer_uid
from poise._protocol.words import describe
from poise._ray.blocking import outcome_of
from poise._ray.errors import last_words
from poise._worker.host import uncrate
from poise.errors import PayloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from poise._protocol.certificates import Authority

_log = logging.getLogger("poise")

CONNECT_TIMEOUT: Final = 10.0
"""Seconds that the connection to a started worker may take before freight serves it."""
LAST_WORDS: Final = 2.0
"""Seconds that the end of the connection to a dead worker is waited for, so that everything it said has been read."""
DEFINED: Final = 512
"""Functions that are taken to be known to the worker; it keeps twice as many."""


class Unreachable(Exception):
    """The express lane cannot reach this worker; the text says why."""


class ExpressLauncher(FreightLauncher):
    """Starts host actors and reaches them by sockets of their own."""

    def __init__(
        self,
        factory: Callable[[], Any] | Any | None,
        *,
        is_required: bool = False,
        link_timeout: float = 5.0,
        always_tls: bool = False,
        **options: Any,
    ) -> None:
        """Start nothing yet.

        Args:
            factory: as `FreightLauncher` takes it.
            is_required: whether a worker that cannot be reached so has failed to start; else freight serves it.
            link_timeout: seconds after which a dead host or a cut link between nodes is noticed.
            always_tls: whether to use TLS on this node too.
            options: as `FreightLauncher` takes them.
        """
        super().__init__(factory, **options)
        self._is_required = is_required
        self._link_timeout = link_timeout
        self._always_tls = always_tls
        self._authority: Authority | None = None
        self._reported: set[str] = set()

    def _reach(self, worker_id: int, host: Any, serving: Any) -> FreightLane:
        assert self._listener is not None
        return ExpressLane(worker_id, self._listener, host, serving, writable=self._writable)

    async def _start(self, lane: FreightLane, placed: Callable[[], None]) -> None:
        await super()._start(lane, placed)
        assert isinstance(lane, ExpressLane)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                if lane.origin.node == self._node and not self._always_tls:
                    await lane.connect_unix()
                else:
                    await lane.connect_tls(self._certify(), self._link_timeout)
        except (Unreachable, OSError, TimeoutError, RayTaskError) as error:
            reason = describe(error) if not isinstance(error, Unreachable) else str(error)
            if self._is_required:
                raise StartFailed(f"the express lane cannot reach it: {reason}") from None
            if reason not in self._reported:
                self._reported.add(reason)
                _log.warning("worker %d is served by freight, which is slower: %s", lane.worker_id, reason)
        except RayError as error:
            raise StartFailed(f"the worker died while it started: {describe(error)}") from None

    def _certify(self) -> Authority:
        if self._authority is None:
            try:
                from poise._protocol.certificates import Authority
            except ImportError:
                raise Unreachable("TLS between nodes needs cryptography: pip install 'poise[tls]'") from None
            self._authority = Authority()
        return self._authority


class ExpressLane(FreightLane):
    """The way to one host actor by a socket, and by freight for what a socket cannot carry."""

    def __init__(self, worker_id: int, listener: Any, host: Any, serving: Any, *, writable: bool = False) -> None:
        """Reach a host; `connect_unix` or `connect_tls` makes it express."""
        super().__init__(worker_id, listener, host, serving, writable=writable)
        self._link: CallerLink | None = None
        self._unloaded: list[Unloaded] = []
        """What is to be written."""
        self._is_flushing = False
        self._defined: set[bytes] = set()
        self._behind: dict[int, deque[_Slot | Answer | Any]] = {}
        """What streams have produced since an item that Ray still brings, by call."""
        self._failures_of_streams: dict[int, Exception] = {}
        self._items_by_ray: Door[tuple[_Slot, Future[Any]]] = Door(self._loop, self._deliver_items, self._fail)
        self._ahead = SentAhead()
        self._journal: JournalReader | None = None
        self._heard = 0
        """Messages that have come over the connection."""
        self._heard_early = 0
        """The number of the first message that was not read in the journal before it came."""
        self._last_words: str | None = None
        self._unlinked = asyncio.Event()

    async def connect_unix(self) -> None:
        """Connect on this node.

        Raises:
            Unreachable: whoever listens there is not of this user.
            OSError: nobody is reached.
        """
        with tempfile.TemporaryDirectory(prefix="poise-") as directory:  # mode 0700
            path = os.path.join(directory, "worker")
            memory = make_memory(memory_beside(path))
            await outcome_of(self._host.listen_unix.remote(path))
            _, link = await self._loop.create_unix_connection(lambda: CallerLink(self), path)
        uid = peer_uid(link.endpoint)
        if uid is not None and uid != os.geteuid():
            link.transport.abort()
            raise Unreachable(f"the worker's socket belongs to user {uid}, and this is user {os.geteuid()}")
        self._ahead = SentAhead(Marks(marks_of(memory)))
        self._journal = JournalReader(journal_of(memory))
        self._use(link)

    async def connect_tls(self, authority: Authority, link_timeout: float) -> None:
        """Connect to another node.

        Raises:
            OSError: nobody is reached, or the peer is not of this pool.
            StartFailed: the connection was made, and has failed.
        """
        from poise._protocol.certificates import tls_context

        name = f"worker-{self.worker_id}.poise.invalid"
        host, port = await outcome_of(self._host.listen_tls.remote(tuple(authority.issue(name)), link_timeout))
        context = tls_context(authority.issue(CALLER), is_server=False)
        _, link = await self._loop.create_connection(
            lambda: CallerLink(self), host, port, ssl=context, server_hostname=name, family=socket.AF_UNSPEC
        )
        try:
            link.watch(link_timeout)
        except OSError as error:  # too late for freight: a worker that has let its caller in ends with the connection
            link.transport.abort()
            raise StartFailed(f"the connection to it cannot be watched: {describe(error)}") from None
        self._use(link)

    def _use(self, link: CallerLink) -> None:
        self._link = link
        self.most_ahead = UNFENCED_CALLS if self._journal is None else AHEAD_CALLS
        self.origin = replace(self.origin, lane="express")

    # -----------------------------------------------------------------------------------------------------------------
    # To the worker

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Give the worker these calls."""
        if self._link is None:
            super().send(parcels)
            return
        for parcel in parcels:
            try:
                target = self._book.target(parcel.function)
                arguments = pack_arguments(parcel.args, parcel.kwargs)
            except PayloadError as error:
                self._failures.put(Answer(parcel.call_id, Verdict.RAISED, error))
                continue
            if not isinstance(target, str):
                if not (target.digest and is_express(arguments) and is_express(target.packed)):
                    super().send([parcel])
                    continue
                named: str | bytes = self._define(target)
            elif is_express(arguments):
                named = target
            else:
                super().send([parcel])
                continue
            credit = parcel.credit if parcel.kind is Kind.STREAM else None
            mark = self._ahead.mark(parcel.call_id) if parcel.is_ahead else None
            message = (CALL, parcel.call_id, named, arguments, credit, mark)
            self._unloaded.append(unload(message))
        if parcels[0].is_ahead:
            self._flush_soon()
        else:
            self.flush()  # a slot is idle, so this is worth a write of its own

    def _define(self, function: Any) -> bytes:
        """Send a function that travels by value, once."""
        if function.digest not in self._defined:
            if len(self._defined) >= DEFINED:
                self._defined.clear()
            self._defined.add(function.digest)
            self._tell_worker((DEFINE, function.digest, function.packed))
        digest: bytes = function.digest
        return digest

    def recall(self, call_ids: Sequence[int]) -> None:
        """Ask for these calls back."""
        if self._link is None:
            super().recall(call_ids)
        else:
            self._ahead.recalled()
            self._tell_worker((RECALL, list(call_ids)))

    def withdraw(self, call_ids: Sequence[int]) -> None:
        """Take back what has not begun, and hear what the worker has said, written or not."""
        taken = self._ahead.withdraw(call_ids)
        if taken:
            self.recall(taken)  # so that the worker lets go of them even while a call runs
            self._listener.on_answers(self.worker_id, [Answer(call_id, Verdict.NOT_BEGUN) for call_id in taken])
        self._hear_unwritten()

    def cancel(self, call_id: int) -> None:
        """Drop the call if it has not begun; stop it if it is a coroutine or a stream."""
        if self._link is None or call_id in self._refs or call_id in self._streams:
            super().cancel(call_id)
        else:
            self._ahead.forbid(call_id)
            self._tell_worker((CANCEL, call_id))

    def grant(self, call_id: int, items: int) -> None:
        """Let the stream send this many more items."""
        if self._link is None or call_id in self._streams:
            super().grant(call_id, items)
        else:
            self._tell_worker((GRANT, call_id, items))

    def _tell_worker(self, message: Sequence[Any]) -> None:
        """Write the message with whatever else is said in this turn of the loop."""
        self._unloaded.append(unload(message))
        self._flush_soon()

    def _flush_soon(self) -> None:
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
        try:
            link.write(pack_frames(unloaded))
        except Exception as error:  # noqa: BLE001 - no memory, say: calls are lost, and only the worker's end settles that
            _log.exception("worker %d cannot be written to, and is given up", self.worker_id)
            link.give_up(error)

    # -----------------------------------------------------------------------------------------------------------------
    # From the worker

    def hear(self, frames: Sequence[tuple[list[Any], list[Any]]]) -> None:
        """Take in what the worker has written, in its order."""
        self._take_in([(self._not_heard_early(messages), buffers) for messages, buffers in frames])

    def _take_in(self, frames: Sequence[tuple[list[Any], list[Any]]]) -> None:
        answers: list[Answer] = []
        try:
            for messages, buffers in frames:
                rest = iter(buffers)
                for message in messages:
                    if message[0] == REPLY and not self._behind:
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
            if news := self._ahead.heard(answers):
                self._listener.on_answers(self.worker_id, news)
            self._tell_recalled()

    def _tell_recalled(self) -> None:
        if self._ahead.has_let_go():
            self._listener.on_recall_done(self.worker_id)

    def _answer(self, message: list[Any], buffers: Iterator[Any]) -> Answer:
        _, call_id, code, packed, service_time = message
        if code not in VERDICTS or (code == RAISED and packed is None):
            raise FrameError(f"verdict {code!r}")
        packed = None if packed is None else load(packed, buffers)
        answer = answer_of((whole(call_id), code, packed, seconds(service_time)), writable=self._writable)
        if self._failures_of_streams and (failure := self._failures_of_streams.pop(call_id, None)) is not None:
            return Answer(call_id, Verdict.RAISED, failure, service_time)
        return answer

    def _hear_other(self, message: list[Any], buffers: Iterator[Any]) -> None:
        operation = message[0]
        if operation == BEGUN:
            self._listener.on_begun(self.worker_id, wholes(message[1]))
        elif operation == RECALL_DONE:
            self._ahead.recall_answered()
            self._tell_recalled()
        elif operation == ITEM:
            self._pass_on(whole(message[1]), load(message[2], buffers))
        elif operation == REPLY:
            self._pass_on(whole(message[1]), self._answer(message, buffers))
        elif operation == COLLECT:
            self._call(whole(message[1]), "collect", message[1])
        elif operation == COLLECT_ITEM:
            self._collect_item(whole(message[1]), whole(message[2]))
        else:
            raise ValueError(f"operation {operation!r}")

    def _pass_on(self, call_id: int, news: Answer | Any) -> None:
        """Tell the engine of an item or an answer, in its turn if Ray still brings an item before it."""
        if (behind := self._behind.get(call_id)) is not None:
            behind.append(news)
        elif isinstance(news, Answer):
            self._hand_over([news])
        else:
            self._hear_item(call_id, news)

    def _collect_item(self, call_id: int, number: int) -> None:
        if not self._may_call():
            return
        slot = _Slot(call_id)
        self._behind.setdefault(call_id, deque()).append(slot)
        ref = self._host.collect_item.remote(number)
        slot.ref = ref  # a reference that is dropped never answers
        tell = self._items_by_ray.way_in()

        def on_ray_done(future: Future[Any]) -> None:  # runs on Ray's thread
            tell((slot, future))

        ref.future().add_done_callback(on_ray_done)

    def _deliver_items(self, events: list[tuple[_Slot, Future[Any]]]) -> None:
        for slot, future in events:
            error = future.exception()
            if error is None:
                (slot.item,) = uncrate(future.result())
            else:
                failed = answer_of_failure(slot.call_id, error)
                if failed is None:
                    self._lose(last_words(error))
                    continue
                self._end_stream(slot.call_id, failed.value)
                slot.item = b""  # never looked at: the stream has failed
            behind = self._behind.get(slot.call_id, deque())
            while behind and not (isinstance(behind[0], _Slot) and behind[0].item is None):
                news = behind.popleft()
                if isinstance(news, Answer):
                    self._hand_over([news])
                else:
                    self._hear_item(slot.call_id, news.item if isinstance(news, _Slot) else news)
            if not behind:
                self._behind.pop(slot.call_id, None)

    def _hear_item(self, call_id: int, packed: Any) -> None:
        if call_id in self._failures_of_streams:
            return
        items, failure = unpack_items([packed], writable=self._writable)
        if failure is not None:
            self._end_stream(call_id, failure)
        else:
            self._listener.on_items(self.worker_id, call_id, items)

    def _end_stream(self, call_id: int, failure: Exception) -> None:
        """An item was lost on the way: the producer is stopped, and the stream ends with this when it has."""
        self._failures_of_streams.setdefault(call_id, failure)
        self.cancel(call_id)

    # -----------------------------------------------------------------------------------------------------------------
    # Death

    def _on_exit(self) -> None:
        super()._on_exit()
        if self._link is not None:
            self._link.read_out()

    def unlink(self, link: CallerLink, error: Exception | None) -> None:
        """The connection has ended, and everything that came over it has been heard."""
        if link is not self._link:
            return
        self._link = None
        self._unlinked.set()
        why = self._how_it_ended() if link.is_read_out else f"the connection to it was lost: {error!r}"
        super()._lose(self._last_words or why, all_in_doubt=not link.is_read_out)

    def _lose(self, reason: str, *, all_in_doubt: bool = False) -> None:
        """Ray, or the kernel, says that the worker is dead: what it said before is still to be read."""
        if self._link is None:
            super()._lose(reason, all_in_doubt=all_in_doubt)
        elif self._last_words is None:
            self._last_words = reason
            self._loop.call_later(LAST_WORDS, self._give_up)

    def _give_up(self) -> None:
        if self._link is not None:
            self._link.transport.abort()

    async def _kill(self) -> None:
        await super()._kill()
        if self._link is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    await self._unlinked.wait()
        if self._link is not None:
            self._give_up()
            await self._unlinked.wait()
        # The shared memory has a descriptor, which must not wait for the collector to come by.
        self._ahead, self._journal = SentAhead(), None


class _Slot:
    """The place of a stream item that Ray brings."""

    __slots__ = ("call_id", "item", "ref")

    def __init__(self, call_id: int) -> None:
        self.call_id = call_id
        self.ref: Any = None
        self.item: Any = None
