"""Workers in this process: the same inbox and runner as a real worker's, in threads, without Ray.

They start in a millisecond and fail on demand, so that a pool can be tested in every state.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from poise._wire.answers import answer_of, start_failed, unpack_items
from poise._wire.codec import (
    NOT_BEGUN,
    RAISED,
    Packed,
    Payload,
    Reply,
    detach,
    pack_arguments,
    pack_exception,
)
from poise._wire.door import Door
from poise._wire.functions import Absent, FunctionBook, FunctionShelf, type_names
from poise._wire.lane import Answer, Kind, Lane, Launcher, Listener, Origin, Parcel, StartFailed, Verdict
from poise._wire.ray_options import unwrap_factory
from poise._worker.inbox import Arrival, Inbox
from poise._worker.runner import Runner
from poise.errors import PayloadError
from poise.pool import Pool, RemoteClass

if TYPE_CHECKING:
    from poise.options import PoolOptions

_Event: TypeAlias = Callable[[], None]

ENDING_TIME: Final = 0.2
"""Seconds that `kill` gives the threads of a worker to end. A thread in user code ends when that returns."""

_lane_numbers = itertools.count(1)


T = TypeVar("T")


class LocalPool(Pool[T]):
    """A pool whose workers live in threads of this process: a `Pool` in all else.

    `lane` and `ray_options` are checked and have no effect.
    """

    __slots__ = ()

    @property
    def launcher(self) -> LocalLauncher:
        """The levers: crash a worker, refuse a start, hold what a worker says."""
        assert isinstance(self._launcher, LocalLauncher)
        return self._launcher

    def _make_launcher(self, factory: Callable[[], T] | RemoteClass | None, settings: PoolOptions) -> Launcher:
        plain = None if factory is None else unwrap_factory(factory)[0]
        return LocalLauncher(plain, concurrency=settings.concurrency)


class LocalLauncher:
    """Starts workers as threads of this process.

    Attributes:
        lanes: the lanes of the workers that live, by worker id.
        room: how many workers there is room for; further launches wait, and `shortage` says so. None for no limit.
    """

    replaces: bool = True

    def __init__(
        self, factory: Callable[[], Any] | None = None, *, concurrency: int = 1, sends_ahead: bool = True, size: int = 2
    ) -> None:
        """Start nothing yet.

        Args:
            factory: makes the instance, in the worker's thread. It is called as it is, so it may share with the test
                what could not be pickled, such as a `threading.Event`.
            concurrency: how many calls each worker runs at once.
            sends_ahead: whether the lanes take calls beyond their slots.
            size: what `default_size` answers.
        """
        self._factory = factory
        self._name = getattr(factory, "__name__", "functions" if factory is None else "local")
        self._concurrency = concurrency
        self._sends_ahead = sends_ahead
        self._size = size
        self._listener: Listener | None = None
        self._refusals: list[BaseException | None] = []
        self._hold: asyncio.Event | None = None
        self._waiting = 0
        self._changed = asyncio.Event()
        self.lanes: dict[int, LocalLane] = {}
        self.room: int | None = None

    def __repr__(self) -> str:
        return self._name

    async def open(self, listener: Listener) -> None:
        """Get ready to launch."""
        self._listener = listener

    async def default_size(self) -> int:
        """What `size=None` means here."""
        return self._size

    async def launch(self, worker_id: int) -> Lane:
        """Start one worker and return when its instance is constructed.

        Raises:
            StartFailed: the constructor raised, or `refuse` said so.
        """
        assert self._listener is not None
        if self._hold is not None:
            await self._hold.wait()
        await self._wait_for_room()
        if self._refusals:
            raise StartFailed("refused by the test") from self._refusals.pop(0)
        lane = LocalLane(worker_id, self._listener, self._forget, sends_ahead=self._sends_ahead)
        self.lanes[worker_id] = lane
        try:
            await lane.start(self._factory, self._concurrency)
        except BaseException:
            await lane.kill()
            raise
        return lane

    async def shortage(self) -> str | None:
        """Say that there is no room, if launches wait for it."""
        return f"slots: each worker needs 1, 0 of {self.room} are free" if self._waiting else None

    async def aclose(self) -> None:
        """Undo `open`."""
        self._listener = None

    # -----------------------------------------------------------------------------------------------------------------
    # Levers of the test

    def refuse(self, times: int = 1, cause: BaseException | None = None) -> None:
        """Let the next launches fail."""
        self._refusals.extend([cause] * times)

    def hold(self) -> None:
        """Let launches wait until `let_go`."""
        self._hold = asyncio.Event()

    def let_go(self) -> None:
        """Let the launches go on that `hold` keeps."""
        if self._hold is not None:
            self._hold.set()
            self._hold = None

    async def _wait_for_room(self) -> None:
        while self.room is not None and len(self.lanes) >= self.room:
            self._waiting += 1
            try:
                await self._changed.wait()
            finally:
                self._waiting -= 1

    def _forget(self, worker_id: int, lane: LocalLane) -> None:
        if self.lanes.get(worker_id) is lane:
            del self.lanes[worker_id]
        self._changed.set()
        self._changed = asyncio.Event()


class LocalLane:
    """The way to one worker in this process."""

    def __init__(
        self, worker_id: int, listener: Listener, forget: Callable[[int, LocalLane], None], *, sends_ahead: bool
    ) -> None:
        """Reach a worker that `start` is to start."""
        self.origin = Origin(lane="local")
        self.sends_ahead = sends_ahead
        self._worker_id = worker_id
        self._listener = listener
        self._forget = forget
        self._name = f"poise-local-{next(_lane_numbers):05}"
        self._door: Door[_Event] = Door(asyncio.get_running_loop(), self._deliver)
        self._answers: list[Answer] = []
        self._held: list[_Event] | None = None
        self._inbox = Inbox(self._announce)
        self._runner: Runner | None = None
        self._book = FunctionBook(())
        self._failures: dict[int, PayloadError] = {}  # stream items that could not be unpickled
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
            try:
                loop.call_soon_threadsafe(settle, failure)
            except RuntimeError:  # the loop is closed
                return
            if self._runner is not None and not self._is_dead:
                self._runner.run()

        threading.Thread(target=live, name=self._name, daemon=True).start()
        failure = await ready
        if failure is not None:
            raise start_failed(failure)

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Give the worker these calls."""
        for parcel in parcels:
            credit = parcel.credit if parcel.kind is Kind.STREAM else None
            try:
                target = self._book.target(parcel.function)
                arguments = detach(pack_arguments(parcel.args, parcel.kwargs))
            except PayloadError as error:
                self.reply((parcel.call_id, RAISED, pack_exception(error), 0.0))
                continue
            call = Arrival(parcel.call_id, target, arguments, credit)
            if isinstance(arguments, Payload) and arguments.awaited:
                threading.Thread(target=self._fetch, args=(call, arguments), name=self._name, daemon=True).start()
            else:
                self._inbox.put((call,))

    def recall(self, call_ids: Sequence[int]) -> None:
        """Give back those of the calls that have not begun."""
        for call_id in self._inbox.recall(call_ids):
            self.reply((call_id, NOT_BEGUN, None, 0.0))
        self._tell(self._heard_recalled)

    def cancel(self, call_id: int) -> None:
        """Drop the call if it has not begun; stop it if it is a coroutine or a stream."""
        if self._inbox.cancel(call_id):
            self.reply((call_id, NOT_BEGUN, None, 0.0))

    def grant(self, call_id: int, items: int) -> None:
        """Let the stream send this many more items."""
        self._inbox.credit(call_id, items)

    async def kill(self) -> None:
        """End the worker: nothing is heard of it any more, and its threads end as soon as user code lets them."""
        self._is_silent = True
        self._end()
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
            self._tell(lambda: self._heard_lost(reason))
            self._end()

    def hold(self) -> None:
        """Keep to yourself what the worker says until `let_go`."""
        self._held = []

    def let_go(self) -> None:
        """Deliver what `hold` kept."""
        held, self._held = self._held, None
        self._deliver(held or [])

    # -----------------------------------------------------------------------------------------------------------------
    # The runner's outlet: runs on its threads.

    def reply(self, reply: Reply) -> None:
        """An attempt has ended."""
        self._tell(lambda: self._take_reply(reply))

    def item(self, call_id: int, item: Packed) -> None:
        """A stream has produced an item."""
        self._tell(lambda: self._take_item(call_id, item))

    def _announce(self, call_ids: Sequence[int]) -> None:
        self._tell(lambda: self._heard_begun(call_ids))

    def _construct(self, factory: Callable[[], Any] | None, concurrency: int) -> Packed | None:
        try:
            instance = Absent() if factory is None else factory()
        except BaseException as error:  # noqa: BLE001 - a constructor may well call sys.exit()
            return pack_exception(error, skip_frames=1)
        self._book = FunctionBook(type_names(instance))
        self._runner = Runner(self._inbox, FunctionShelf(instance), self, concurrency, self._name)
        return None

    def _fetch(self, call: Arrival, arguments: Payload) -> None:
        import ray

        try:
            call.awaited = [ray.get(ref) for ref in arguments.awaited]
        except BaseException as error:  # noqa: BLE001 - the error of the user's own task may be anything
            self.reply((call.call_id, RAISED, pack_exception(error), 0.0))
        else:
            self._inbox.put((call,))

    # -----------------------------------------------------------------------------------------------------------------
    # On the loop

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

    def _flush(self) -> None:
        answers, self._answers = self._answers, []
        if answers and not self._is_silent:
            self._listener.on_answers(self._worker_id, answers)

    def _take_reply(self, reply: Reply) -> None:
        answer = answer_of(reply)
        failure = self._failures.pop(answer.call_id, None)
        if failure is not None:
            answer = Answer(answer.call_id, Verdict.RAISED, failure, answer.service_time)
        self._answers.append(answer)

    def _take_item(self, call_id: int, item: Packed) -> None:
        self._flush()
        items, failure = unpack_items([item])
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
        self._listener.on_recall_done(self._worker_id)

    def _heard_lost(self, reason: str) -> None:
        self._flush()
        self._listener.on_lost(self._worker_id, reason)

    def _end(self) -> None:
        if not self._is_dead:
            self._is_dead = True
            if self._runner is not None:
                self._runner.close()
            self._forget(self._worker_id, self)
