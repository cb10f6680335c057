"""The way to a worker that is some threads of this process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from poise._answers import NOT_BEGUN, RAISED, Answer
from poise._lanes.ahead import SentAhead
from poise._lanes.answers import start_failed, unpack_answer, unpack_items
from poise._lanes.book import FunctionBook
from poise._lanes.door import Door
from poise._lanes.lane import AHEAD_CALLS, BY_ITSELF, Listener, Origin, Parcel
from poise._protocol.codec import pack_arguments
from poise._protocol.exceptions import pack_exception
from poise._protocol.functions import Target, type_names
from poise._protocol.marks import MARKS_SIZE, Marks
from poise._protocol.messages import CALL, CallMessage
from poise._protocol.payloads import Packed, Payload, detach
from poise._protocol.words import describe
from poise._worker.inbox import Arrival, Inbox
from poise._worker.keeper import Keeper
from poise._worker.runner import Runner, calls_loop
from poise._worker.shelf import FunctionShelf
from poise._worker.stacks import stacks
from poise.errors import PayloadError
from poise.testing.faults import Fault

if TYPE_CHECKING:
    from poise._lanes.redefined import KnownClasses
    from poise._worker.loop_thread import CallsLoop
    from poise.testing.faults import Faults

_log = logging.getLogger("poise")

_Event: TypeAlias = Callable[[], None]

ENDING_TIME: Final = 0.2
"""Seconds that `kill` gives the threads of a worker to end. A thread in user code ends when that returns."""

_lane_numbers = itertools.count(1)


class LocalLane:
    """The way to one worker in this process."""

    def __init__(
        self,
        worker_id: int,
        listener: Listener,
        forget: Callable[[int, LocalLane], None],
        faults: Faults,
        *,
        sends_ahead: bool,
        writable: bool = False,
    ) -> None:
        """Reach a worker that `start` is to start."""
        self._writable = writable
        self.origin: Origin = Origin(lane="local")
        self.most_ahead = AHEAD_CALLS if sends_ahead else 0
        self._worker_id = worker_id
        self._listener = listener
        self._forget = forget
        self._name = f"poise-local-{next(_lane_numbers):05}"
        self._door: Door[_Event] = Door(asyncio.get_running_loop(), self._deliver, self._fail)
        self._answers: list[Answer] = []
        self._held: list[_Event] | None = None
        self._inbox = Inbox(self._announce)
        self._inbox.marks = marks = Marks(memoryview(bytearray(MARKS_SIZE)))
        self._inbox.give_back = lambda call_id: self.reply(Answer(call_id, NOT_BEGUN, None))
        self._ahead = SentAhead(marks)
        self._runner: Runner | None = None
        self._book = FunctionBook(())
        self.known: KnownClasses | None = None
        self._failures: dict[int, PayloadError] = {}  # stream items that could not be unpickled
        self._faults = faults
        self._keeper: Keeper | None = None
        self._calls_loop: CallsLoop | None = None
        self._closed: asyncio.Future[list[str]] | None = None
        """Once closing was asked for: what went wrong with it."""
        self._is_started = False
        self._was_given_up = False
        self._ended = threading.Event()
        self._dying = threading.Lock()
        """Held while a call is announced and while the worker dies, so that nothing unannounced begins after that."""
        self._is_dead = False  # says nothing more
        self._is_silent = False  # not even what it had said before

    async def start(self, factory: Callable[[], Any] | None, concurrency: int) -> None:
        """Construct the instance in a thread of the worker's own.

        Raises:
            StartFailed: the constructor raised.
        """
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[Packed | None] = loop.create_future()

        def settle(failure: Packed | None) -> None:
            if not ready.done():
                ready.set_result(failure)

        def live() -> None:
            failure = self._construct(factory, concurrency)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, failure)
            if self._runner is not None:
                if self._is_dead and not self._is_started:
                    self._was_given_up = True  # while it was made: nobody will use it
                    self._inbox.close()
                self._run(self._runner)

        threading.Thread(target=live, name=self._name, daemon=True).start()
        failure = await ready
        if failure is not None:
            raise start_failed(failure)
        self._is_started = True

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Give the worker these calls."""
        for parcel in parcels:
            try:
                target = self._book.target(parcel.function)
                arguments = detach(pack_arguments(parcel.args, parcel.kwargs))
            except PayloadError as error:
                self.reply(Answer(parcel.call_id, RAISED, pack_exception(error)))
                continue
            mark = self._ahead.mark(parcel.call_id) if parcel.is_ahead else None
            call = Arrival(CallMessage(CALL, parcel.call_id, target, arguments, parcel.credit, mark, parcel.headers))
            if isinstance(arguments, Payload) and arguments.awaited:
                threading.Thread(target=self._fetch, args=(call, arguments), name=self._name, daemon=True).start()
            else:
                self._inbox.put((call,))

    def recall(self, call_ids: Sequence[int]) -> None:
        """Give back those of the calls that have not begun."""
        self._ahead.recalled()
        for call_id in self._inbox.recall(call_ids):
            self.reply(Answer(call_id, NOT_BEGUN, None))
        self._tell(self._heard_recalled)

    def withdraw(self, call_ids: Sequence[int]) -> None:
        """Take back what has not begun, even while `hold` keeps what the worker says."""
        taken = self._ahead.withdraw(call_ids)
        if taken:
            self.recall(taken)
            self._listener.on_answers(self._worker_id, [Answer(call_id, NOT_BEGUN, None) for call_id in taken])

    def cancel(self, call_id: int) -> None:
        """Drop the call if it has not begun; stop it if it is a coroutine or a stream."""
        self._ahead.forbid(call_id)
        if self._inbox.cancel(call_id):
            self.reply(Answer(call_id, NOT_BEGUN, None))

    def credit(self, call_id: int, items: int) -> None:
        """Let the stream send this many more items."""
        self._inbox.credit(call_id, items)

    async def stacks(self) -> str:
        """What its threads and tasks are doing."""
        return stacks(self._name, None if self._calls_loop is None else self._calls_loop.turning)

    async def close(self, timeout: float) -> None:
        """Let the worker close what it holds, for so many seconds of real time at most, then end it."""
        if timeout > 0 and not self._is_dead and self._closed is None:
            self._closed = asyncio.get_running_loop().create_future()
            self._inbox.close()
            try:
                async with asyncio.timeout(timeout):
                    failures = await self._closed
            except TimeoutError:
                failures = [f"it was not done with closing after close_timeout={timeout:g} s and is given up"]
            for failure in failures:
                _log.warning("worker %d: %s", self._worker_id, failure)
        await self.kill()

    async def kill(self) -> None:
        """End the worker: nothing is heard of it any more, and its threads end as soon as user code lets them."""
        self._end()
        await asyncio.sleep(0)  # what it has said is still heard, as everywhere
        self._is_silent = True
        deadline = time.monotonic() + ENDING_TIME
        while any(thread.name.startswith(self._name) for thread in threading.enumerate()):
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(0.001)

    # -----------------------------------------------------------------------------------------------------------------
    # Levers of the test

    def crash(self, reason: str = "crashed by the test") -> None:
        """Die, as a process does: what runs is abandoned, and the engine hears of it."""
        if not self._is_dead:
            self._end(lambda: self._heard_lost(reason))

    def hold(self) -> None:
        """Keep to yourself what the worker says until `let_go`."""
        self._held = []

    def let_go(self) -> None:
        """Deliver what `hold` kept."""
        held, self._held = self._held, None
        self._deliver(held or [])

    def grow(self, resident: int) -> None:
        """Say that it has so much memory, more than it is to have."""
        self._listener.on_grown(self._worker_id, resident, is_fresh=False)

    # -----------------------------------------------------------------------------------------------------------------
    # The runner's outlet: runs on its threads.

    def reply(self, answer: Answer) -> None:
        """An attempt has ended."""
        call_id, ending, packed, service_time = answer
        kept = None if packed is None else detach(packed)
        self._tell(lambda: self._take_answer(Answer(call_id, ending, kept, service_time)))

    def item(self, call_id: int, item: Packed) -> None:
        """A stream has produced an item."""
        kept = detach(item)
        self._tell(lambda: self._take_item(call_id, kept))

    def retire(self) -> None:
        """Ask to be replaced."""
        self._tell(self._heard_retire)
        self._inbox.retire()

    def suffer(self, function: Callable[..., Any] | str) -> None:
        """A call of this function begins: go wrong, if that is planned."""
        fault = self._faults.on_begin(function)
        if fault is Fault.DIE:
            self._tell(self.crash)
        if fault is not None:
            self._ended.wait()
            raise SystemExit  # nobody hears of it any more

    def _announce(self, call_ids: Sequence[int]) -> bool:
        with self._dying:
            self._tell(lambda: self._heard_begun(call_ids))
            return not self._is_dead

    def _construct(self, factory: Callable[[], Any] | None, concurrency: int) -> Packed | None:
        self._calls_loop = loop = calls_loop(self._inbox, concurrency, self._name)
        try:
            self._keeper = Keeper(loop)
            instance = self._keeper.make(factory)
        except BaseException as error:  # noqa: BLE001 - a constructor may well call sys.exit()
            loop.wind_up()
            return pack_exception(error, skip_frames=3)
        self._book = FunctionBook(type_names(instance), self.known)
        shelf = _FaultyShelf(instance, self.suffer)
        self._runner = Runner(self._inbox, shelf, self, concurrency, self._name, loop, writable=self._writable)
        return None

    def _run(self, runner: Runner) -> None:
        reason = "it takes no more calls"
        try:
            runner.run(self._leave)
        except BaseException as error:  # noqa: BLE001 - a fault of poise's own: the worker is lost, as a real one would be
            reason = describe(error)
        self._tell(lambda: self.crash(reason))

    def _leave(self) -> None:
        """Close what the factory made, if that was asked for: not after a death."""
        if (self._closed is None and not self._was_given_up) or self._keeper is None:
            return
        failures = self._keeper.leave()
        if self._closed is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._closed.get_loop().call_soon_threadsafe(self._hear_closed, failures)

    def _fetch(self, call: Arrival, arguments: Payload) -> None:
        import ray

        try:
            call.awaited = [ray.get(ref) for ref in arguments.awaited]
        except BaseException as error:  # noqa: BLE001 - the error of the user's own task may be anything
            self.reply(Answer(call.call_id, RAISED, pack_exception(error)))
        else:
            self._inbox.put((call,))
            if self._inbox.has_missed(call.call_id):
                self.cancel(call.call_id)

    # -----------------------------------------------------------------------------------------------------------------
    # On the loop

    def _hear_closed(self, failures: list[str]) -> None:
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(failures)

    def _tell(self, event: _Event) -> None:  # runs on any thread
        if not self._is_dead:
            self._door.put(event)

    def _deliver(self, events: list[_Event]) -> None:
        if self._held is not None:
            self._held.extend(events)
            return
        for event in events:
            if not self._is_silent:
                event()
        self._flush()

    def _fail(self, error: Exception) -> None:
        """What the worker said is lost by a fault of poise's own."""
        self.crash(f"what it said was not understood: {describe(error)}")

    def _flush(self) -> None:
        answers, self._answers = self._answers, []
        if answers and not self._is_silent:
            if news := self._ahead.heard(answers):
                self._listener.on_answers(self._worker_id, news)
            self._tell_recalled()

    def _take_answer(self, packed: Answer) -> None:
        answer = unpack_answer(packed, writable=self._writable)
        failure = self._failures.pop(answer.call_id, None)
        if failure is not None:
            answer = Answer(answer.call_id, RAISED, failure, answer.service_time)
        self._answers.append(answer)

    def _take_item(self, call_id: int, item: Packed) -> None:
        self._flush()
        items, failure = unpack_items([item], writable=self._writable)
        if failure is not None:
            self._failures.setdefault(call_id, failure)
            self.cancel(call_id)
        elif call_id not in self._failures:
            self._listener.on_items(self._worker_id, call_id, items)

    def _heard_begun(self, call_ids: Sequence[int]) -> None:
        self._flush()
        self._listener.on_begun(self._worker_id, call_ids)

    def _heard_recalled(self) -> None:
        self._flush()
        self._ahead.recall_answered()
        self._tell_recalled()

    def _tell_recalled(self) -> None:
        if self._ahead.has_let_go():
            self._listener.on_recall_done(self._worker_id)

    def _heard_retire(self) -> None:
        self._flush()
        self._listener.on_retire(self._worker_id, BY_ITSELF)

    def _heard_lost(self, reason: str) -> None:
        self._flush()
        self._listener.on_lost(self._worker_id, reason)

    def _end(self, last_words: _Event | None = None) -> None:
        with self._dying:
            if last_words is not None:
                self._tell(last_words)
            self._is_dead = True
        if not self._ended.is_set():
            self._ended.set()
            if self._runner is not None:
                self._runner.close()
            self._forget(self._worker_id, self)


class _FaultyShelf(FunctionShelf):
    """A shelf whose calls go wrong on demand."""

    def __init__(self, instance: object, suffer: Callable[[Callable[..., Any] | str], None]) -> None:
        super().__init__(instance)
        self._suffer = suffer

    def find(self, target: Target) -> Callable[..., Any]:
        function = super().find(target)
        self._suffer(target if isinstance(target, str) else function)
        return function
