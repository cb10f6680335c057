"""Pools for unit tests: workers in this process, failures on demand, and a clock that stands still.

`LocalPool` is a `Pool` whose workers are threads with the same inbox and runner as a real worker's. It starts in a
millisecond and needs no Ray. `Faults` scripts what goes wrong, `ManualClock` decides what time it is, and `local_pools`
makes every `poise.Pool` of the code under test such a pool. The fixtures of `poise.pytest_plugin` wrap them.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import heapq
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, overload
from unittest import mock

from poise._core.placement import AHEAD_CALLS
from poise._engine.call import name_of
from poise._wire.ahead import SentAhead
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
from poise._wire.functions import FunctionBook, FunctionShelf, Target, type_names
from poise._wire.lane import Answer, Kind, Lane, Launcher, Listener, Origin, Parcel, StartFailed, Verdict
from poise._wire.marks import MARKS_SIZE, Marks
from poise._wire.ray_options import unwrap_factory
from poise._wire.redefined import KnownClasses
from poise._wire.words import describe
from poise._worker.inbox import Arrival, Inbox
from poise._worker.keeper import Keeper
from poise._worker.runner import Runner, calls_loop
from poise.errors import PayloadError
from poise.options import check_whole
from poise.pool import Pool, RemoteClass

if TYPE_CHECKING:
    from typing import Unpack

    from poise._core.stats import Stats
    from poise._engine.clock import Clock
    from poise.options import PoolOptions, WorkerArguments

_log = logging.getLogger("poise")

_Event: TypeAlias = Callable[[], None]

ENDING_TIME: Final = 0.2
"""Seconds that `kill` gives the threads of a worker to end. A thread in user code ends when that returns."""

_LOOK_EVERY: Final = 0.001
"""Seconds between two looks at what the threads of workers have done."""

_lane_numbers = itertools.count(1)


T = TypeVar("T")


class ManualClock:
    """A clock that stands still until the test moves it on.

    Hand it to `LocalPool` or `local_pools`: timeouts, backoff, `kill_after`, `start_timeout` and every other time of
    the pool's then pass when the test says so. What workers do takes as long as it takes: wait for that with the call
    itself, or with `LocalPool.until`.
    """

    def __init__(self, now: float = 1000.0) -> None:
        """Start at this moment."""
        self._now = now
        self._timers: list[_ManualTimer] = []  # a heap; cancelled ones are skipped
        self._numbers = itertools.count()

    def time(self) -> float:
        """The moment at which it stands, in seconds."""
        return self._now

    def call_at(self, when: float, callback: Callable[[], object], /) -> _ManualTimer:
        """Call a function when the clock is moved to this moment or past it; what is due already is called soon."""
        timer = _ManualTimer(when, next(self._numbers), callback)
        if when <= self._now:
            asyncio.get_running_loop().call_soon(timer.ring)
        else:
            heapq.heappush(self._timers, timer)
        return timer

    async def advance(self, seconds: float) -> None:
        """Move on by so many seconds, ringing each timer at its own moment and letting the loop react to it.

        Raises:
            ValueError: `seconds` is negative.
        """
        if not seconds >= 0:
            raise ValueError(f"seconds={seconds!r} is not allowed: a clock does not go back")
        end = self._now + seconds
        await _let_react()
        while self._timers and self._timers[0].when <= end:
            timer = heapq.heappop(self._timers)
            self._now = max(self._now, timer.when)
            timer.ring()
            await _let_react()
        self._now = end
        await _let_react()

    def __repr__(self) -> str:
        return f"<ManualClock at {self._now:g} s>"


class _ManualTimer:
    """A function that is to be called at a certain moment."""

    def __init__(self, when: float, number: int, callback: Callable[[], object]) -> None:
        self.when = when
        self._number = number
        self._callback: Callable[[], object] | None = callback

    def __lt__(self, other: _ManualTimer) -> bool:
        return (self.when, self._number) < (other.when, other._number)

    def ring(self) -> None:
        """Do it, unless it was cancelled."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def cancel(self) -> None:
        """Let it not happen."""
        self._callback = None


async def _let_react() -> None:
    """Let the tasks that were woken run, and those that they wake: a chain of a few."""
    for _ in range(10):
        await asyncio.sleep(0)


class Faults:
    """What is to go wrong in local workers. Write the script before the calls are made, or before the pool opens.

    Calls are counted as they begin, over all workers, each attempt by itself: the first that begins after a fault was
    added is its number 1.
    """

    def __init__(self) -> None:
        """Let nothing go wrong."""
        self._lock = threading.Lock()  # calls begin on the threads of workers
        self._begun: Counter[str] = Counter()
        self._planned: dict[tuple[str, int], _Fault] = {}
        self._refusals: list[BaseException | None] = []

    def die(self, *, on_call: int = 1, function: Callable[..., Any] | str | None = None) -> None:
        """Let a worker die at the moment at which it begins this call.

        Args:
            on_call: which one, counted from now.
            function: count the calls of this function or method only; all calls if None.

        Raises:
            ConfigError: `on_call` is less than 1.
        """
        self._plan(_Fault.DIE, on_call, function)

    def hang(self, *, on_call: int = 1, function: Callable[..., Any] | str | None = None) -> None:
        """Let this call never end, as if it were stuck in C code: it runs until its worker is killed.

        Args:
            on_call: which one, counted from now.
            function: count the calls of this function or method only; all calls if None.

        Raises:
            ConfigError: `on_call` is less than 1.
        """
        self._plan(_Fault.HANG, on_call, function)

    def refuse_start(self, times: int = 1, *, cause: BaseException | None = None) -> None:
        """Let the next starts of workers fail.

        Args:
            times: how many of them.
            cause: what their constructor raises; None for a start that fails for a reason outside it.

        Raises:
            ConfigError: `times` is less than 1.
        """
        check_whole("times", times, 1)
        self._refusals.extend([cause] * times)

    @property
    def pending(self) -> int:
        """How many faults have not happened yet."""
        return len(self._planned) + len(self._refusals)

    async def happened(self, *, within: float = 10.0) -> None:
        """Wait until everything that was planned has gone wrong: a call that is to hang hangs then.

        Args:
            within: seconds of real time to wait.

        Raises:
            TimeoutError: not all of it happened in time.
        """
        try:
            async with asyncio.timeout(within):
                while self.pending:  # noqa: ASYNC110 - calls begin on threads, which would wake this late too
                    await asyncio.sleep(_LOOK_EVERY)
        except TimeoutError:
            raise TimeoutError(f"{self.pending} faults did not happen within {within:g} s") from None

    def clear(self) -> None:
        """Let nothing more go wrong; what hangs goes on hanging."""
        with self._lock:
            self._planned.clear()
            self._refusals.clear()

    def __repr__(self) -> str:
        planned = [f"{name or 'any call'}, call {number}" for name, number in self._planned]
        planned += ["a start"] * len(self._refusals)
        return f"<Faults, still to happen: {'; '.join(planned) or 'none'}>"

    def _plan(self, fault: _Fault, on_call: int, function: Callable[..., Any] | str | None) -> None:
        check_whole("on_call", on_call, 1)
        name = "" if function is None else _last_name(function)
        with self._lock:
            self._planned[name, self._begun[name] + on_call] = fault

    def on_begin(self, function: Callable[..., Any] | str) -> _Fault | None:  # runs on the threads of workers
        """Asked by a worker before it begins a call: what goes wrong with it."""
        name = _last_name(function)
        with self._lock:
            self._begun.update((name, ""))
            faults = [self._planned.pop((each, self._begun[each]), None) for each in (name, "")]
        return faults[0] or faults[1]

    def on_start(self) -> None:
        """Asked by a worker that starts.

        Raises:
            StartFailed: it is to fail.
        """
        if self._refusals:
            cause = self._refusals.pop(0)
            raise StartFailed("refused by the test" if cause is None else _constructor_raised(cause)) from cause


class _Fault(enum.Enum):
    """What goes wrong with a call."""

    DIE = "die"
    HANG = "hang"


def _last_name(function: Callable[..., Any] | str) -> str:
    return name_of(function).rpartition(".")[2]


def _constructor_raised(cause: BaseException) -> str:
    return f"the constructor raised {type(cause).__name__}: {cause}"


class LocalPool(Pool[T]):
    """A pool whose workers live in threads of this process: a `Pool` in all else.

    Attributes:
        faults: what is to go wrong.
        clock: the clock that it was given, or None if it lives in real time.
    """

    __slots__ = ("clock", "faults")

    @overload
    def __init__(
        self: LocalPool[None],
        factory: None = None,
        /,
        *,
        size: int | None = 2,
        clock: ManualClock | None = None,
        faults: Faults | None = None,
        **options: Unpack[WorkerArguments],
    ) -> None: ...
    @overload
    def __init__(
        self,
        factory: Callable[[], T],
        /,
        *,
        size: int | None = 2,
        clock: ManualClock | None = None,
        faults: Faults | None = None,
        **options: Unpack[WorkerArguments],
    ) -> None: ...
    @overload
    def __init__(
        self: LocalPool[Any],
        factory: RemoteClass,
        /,
        *,
        size: int | None = 2,
        clock: ManualClock | None = None,
        faults: Faults | None = None,
        **options: Unpack[WorkerArguments],
    ) -> None: ...
    def __init__(
        self,
        factory: Any = None,
        /,
        *,
        size: int | None = 2,
        clock: ManualClock | None = None,
        faults: Faults | None = None,
        **options: Unpack[WorkerArguments],
    ) -> None:
        """Describe a pool as `Pool` does; `lane`, `link_timeout`, `ray_options` and `ray_init` are checked only.

        Args:
            factory: makes what a worker holds. It is called as it is, so it may share with the test what could not
                be pickled, such as a `threading.Event`.
            size: how many workers; 2 if None.
            clock: what tells the pool the time, for tests that move it on. Nothing is sent ahead then, so that where a
                call runs does not hang on how fast the last one was.
            faults: what is to go wrong, if it is written before the pool is made.
            options: the rest, as `Pool` takes it.

        Raises:
            ConfigError: an option is outside its range.
        """
        self.clock: ManualClock | None = clock
        self.faults: Faults = Faults() if faults is None else faults
        super().__init__(factory, size=size, **options)

    @property
    def launcher(self) -> LocalLauncher:
        """Finer levers: hold a start, hold what a worker says, leave no room."""
        assert isinstance(self._launcher, LocalLauncher)
        return self._launcher

    def crash(self, worker_id: int, reason: str = "crashed by the test") -> None:
        """Let a worker die now. `stats().workers` has the numbers of those that live.

        Raises:
            KeyError: there is no such worker.
        """
        self.launcher.lanes[worker_id].crash(reason)

    async def until(self, predicate: Callable[[Stats], bool], *, within: float = 10.0) -> Stats:
        """Wait until the pool is in a certain state, for example until a call runs.

        Args:
            predicate: asked again and again, about every millisecond.
            within: seconds of real time to wait, also with a manual clock.

        Returns:
            The first snapshot for which it was true.

        Raises:
            TimeoutError: it was not true in time; shows the last snapshot.
        """
        try:
            async with asyncio.timeout(within):
                while not predicate(stats := self.stats()):  # noqa: ASYNC110 - a look at what is no event
                    await asyncio.sleep(_LOOK_EVERY)
        except TimeoutError:
            raise TimeoutError(f"this was not reached within {within:g} s; the pool is at {self.stats()}") from None
        return stats

    def _make_launcher(self, factory: Callable[[], T] | RemoteClass | None, settings: PoolOptions) -> Launcher:
        return _local_launcher(factory, settings, self.faults, self.clock)

    def _make_clock(self, loop: asyncio.AbstractEventLoop) -> Clock:
        return loop if self.clock is None else self.clock


def _local_launcher(
    factory: Callable[[], Any] | RemoteClass | None, settings: PoolOptions, faults: Faults, clock: ManualClock | None
) -> LocalLauncher:
    plain = None if factory is None else unwrap_factory(factory)[0]
    return LocalLauncher(
        plain,
        concurrency=settings.concurrency,
        sends_ahead=clock is None,
        writable=settings.writable,
        faults=faults,
    )


@contextmanager
def local_pools(*, clock: ManualClock | None = None) -> Generator[Faults]:
    """Within the block every `poise.Pool` that is made has its workers in this process, as a `LocalPool` has.

    For code that makes its own pool, such as the lifespan of a web application.

    Args:
        clock: what tells these pools the time.

    Yields:
        What is to go wrong in them.
    """
    faults = Faults()

    def make_launcher(_: Pool[Any], factory: Any, settings: PoolOptions) -> Launcher:
        return _local_launcher(factory, settings, faults, clock)

    def make_clock(_: Pool[Any], loop: asyncio.AbstractEventLoop) -> Clock:
        return loop if clock is None else clock

    with mock.patch.multiple(Pool, _make_launcher=make_launcher, _make_clock=make_clock):
        yield faults


class LocalLauncher:
    """Starts workers as threads of this process.

    Attributes:
        lanes: the lanes of the workers that live, by worker id.
        room: how many workers there is room for; further launches wait, and `shortage` says so. None for no limit.
    """

    replaces: bool = True

    def __init__(
        self,
        factory: Callable[[], Any] | None = None,
        *,
        concurrency: int = 1,
        sends_ahead: bool = True,
        writable: bool = False,
        size: int = 2,
        faults: Faults | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            factory: makes the instance, in the worker's thread. It is called as it is, so it may share with the test
                what could not be pickled, such as a `threading.Event`.
            concurrency: how many calls each worker runs at once.
            sends_ahead: whether the lanes take calls beyond their slots.
            writable: whether large arrays arrive writable, as small ones do.
            size: what `default_size` answers.
            faults: what is to go wrong.
        """
        self._factory = factory
        self._known = KnownClasses(factory)
        self._name = getattr(factory, "__name__", "functions" if factory is None else "local")
        self._concurrency = concurrency
        self._sends_ahead = sends_ahead
        self._writable = writable
        self._size = size
        self._listener: Listener | None = None
        self._faults = Faults() if faults is None else faults
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
        self._faults.on_start()
        lane = LocalLane(
            worker_id,
            self._listener,
            self._forget,
            self._faults,
            sends_ahead=self._sends_ahead,
            writable=self._writable,
        )
        lane.known = self._known
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
        self._faults.refuse_start(times, cause=cause)

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
        self._inbox.give_back = lambda call_id: self.reply((call_id, NOT_BEGUN, None, 0.0))
        self._ahead = SentAhead(marks)
        self._runner: Runner | None = None
        self._book = FunctionBook(())
        self.known: KnownClasses | None = None
        self._failures: dict[int, PayloadError] = {}  # stream items that could not be unpickled
        self._faults = faults
        self._keeper: Keeper | None = None
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
            credit = parcel.credit if parcel.kind is Kind.STREAM else None
            try:
                target = self._book.target(parcel.function)
                arguments = detach(pack_arguments(parcel.args, parcel.kwargs))
            except PayloadError as error:
                self.reply((parcel.call_id, RAISED, pack_exception(error), 0.0))
                continue
            call = Arrival(parcel.call_id, target, arguments, credit)
            if parcel.is_ahead:
                call.mark = self._ahead.mark(parcel.call_id)
            if isinstance(arguments, Payload) and arguments.awaited:
                threading.Thread(target=self._fetch, args=(call, arguments), name=self._name, daemon=True).start()
            else:
                self._inbox.put((call,))

    def recall(self, call_ids: Sequence[int]) -> None:
        """Give back those of the calls that have not begun."""
        self._ahead.recalled()
        for call_id in self._inbox.recall(call_ids):
            self.reply((call_id, NOT_BEGUN, None, 0.0))
        self._tell(self._heard_recalled)

    def withdraw(self, call_ids: Sequence[int]) -> None:
        """Take back what has not begun, even while `hold` keeps what the worker says."""
        taken = self._ahead.withdraw(call_ids)
        if taken:
            self.recall(taken)
            self._listener.on_answers(self._worker_id, [Answer(call_id, Verdict.NOT_BEGUN) for call_id in taken])

    def cancel(self, call_id: int) -> None:
        """Drop the call if it has not begun; stop it if it is a coroutine or a stream."""
        self._ahead.forbid(call_id)
        if self._inbox.cancel(call_id):
            self.reply((call_id, NOT_BEGUN, None, 0.0))

    def grant(self, call_id: int, items: int) -> None:
        """Let the stream send this many more items."""
        self._inbox.credit(call_id, items)

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

    # -----------------------------------------------------------------------------------------------------------------
    # The runner's outlet: runs on its threads.

    def reply(self, reply: Reply) -> None:
        """An attempt has ended."""
        call_id, code, packed, service_time = reply
        kept = None if packed is None else detach(packed)
        self._tell(lambda: self._take_reply((call_id, code, kept, service_time)))

    def item(self, call_id: int, item: Packed) -> None:
        """A stream has produced an item."""
        kept = detach(item)
        self._tell(lambda: self._take_item(call_id, kept))

    def suffer(self, function: Callable[..., Any] | str) -> None:
        """A call of this function begins: go wrong, if that is planned."""
        fault = self._faults.on_begin(function)
        if fault is _Fault.DIE:
            self._tell(self.crash)
        if fault is not None:
            self._ended.wait()
            raise SystemExit  # nobody hears of it any more

    def _announce(self, call_ids: Sequence[int]) -> bool:
        with self._dying:
            self._tell(lambda: self._heard_begun(call_ids))
            return not self._is_dead

    def _construct(self, factory: Callable[[], Any] | None, concurrency: int) -> Packed | None:
        loop = calls_loop(self._inbox, concurrency, self._name)
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
            self.reply((call.call_id, RAISED, pack_exception(error), 0.0))
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

    def _take_reply(self, reply: Reply) -> None:
        answer = answer_of(reply, writable=self._writable)
        failure = self._failures.pop(answer.call_id, None)
        if failure is not None:
            answer = Answer(answer.call_id, Verdict.RAISED, failure, answer.service_time)
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
