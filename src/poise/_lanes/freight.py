"""The freight lane: calls as ordinary Ray calls to a host actor.

The slower of the lanes, and the one that always works: Ray carries big values through its object store and counts the
ObjectRefs that it sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import ray
from ray.exceptions import RayError

from poise._lanes.answers import answer_of, start_failed, unpack_items
from poise._lanes.book import FunctionBook
from poise._lanes.creation import Creation, kill_actor, kill_forgotten, refuse_another_ray
from poise._lanes.culprits import culprit
from poise._lanes.death import ProcessWatch
from poise._lanes.door import Door
from poise._lanes.failures import answer_of_failure
from poise._lanes.lane import Answer, Kind, Lane, Listener, Origin, Parcel, StartFailed, Verdict
from poise._lanes.redefined import KnownClasses
from poise._protocol.codec import Packed, for_ray, nbytes, pack, pack_arguments, pack_in_band
from poise._protocol.paths import own_paths
from poise._protocol.words import describe
from poise._ray.blocking import in_thread, in_thread_within, outcome_of
from poise._ray.errors import CONNECTION_ENDED, last_words
from poise._ray.init import check_ray_init
from poise._ray.options import check_ray_options, label_of, needs_of, room_for, shortage_of, unwrap_factory
from poise._ray.quiet import tell_of
from poise._ray.session import LETTING_GO, RaySession
from poise._worker.host import Crate, Host, crate, uncrate
from poise.errors import ConfigError, PayloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

_ray: Any = ray  # its own types leave out some of what it takes and gives

_log = logging.getLogger("poise")

SPARE_THREADS: Final = 2
"""Freight threads of a host beyond its slots: a stream's last `pull` may be answered after its slot is free."""

DEPOSITED: Final = 100_000
"""Bytes of a pickled factory from which on it is put into Ray's object store once, and not into each start."""

TOLD_BY_RAY: Final = 0.5
"""Seconds after the end of a process in which Ray may still say why."""

TOLD_OF_SHORTAGE: Final = 2.0
"""Seconds in which Ray may say what it has free."""

PLACED_WITHIN: Final = 10.0
"""Seconds after which an actor that has not been heard of is taken to wait for room, and for no process any more."""

KILLED_BY_RAY: Final = 2.0
"""Seconds after which a process that Ray was to kill is killed directly."""


class FreightLauncher:
    """Starts host actors and reaches them by Ray calls."""

    replaces: bool = True

    def __init__(
        self,
        factory: Callable[[], Any] | Any | None,
        *,
        concurrency: int = 1,
        close_timeout: float = 0.0,
        writable: bool = False,
        ray_options: Mapping[str, Any] | None = None,
        ray_init: Mapping[str, Any] | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            factory: makes the instance, in the worker; also a class decorated with `@ray.remote`. None for workers
                that run plain functions.
            concurrency: how many calls each worker runs at once.
            close_timeout: seconds that a worker that is given up while it starts has to close what it holds already.
            writable: whether large arrays arrive writable, as small ones do.
            ray_options: for Ray's `.options()`, unchanged.
            ray_init: for `ray.init()`, if Ray is to be joined or started.

        Raises:
            ConfigError: `factory` cannot be called, `ray_options` has what Ray does not know or the pool sets, or
                `ray_init` has what Ray does not know.
        """
        check_ray_options(ray_options or {})
        check_ray_init(ray_init or {})
        self._factory: Callable[[], Any] | None = None
        defaults: dict[str, Any] = {}
        if factory is not None:
            self._factory, defaults = unwrap_factory(factory)
        self._options = {**defaults, **(ray_options or {})}
        self._concurrency = concurrency
        self._close_timeout = close_timeout
        self._writable = writable
        self._label = label_of(self._factory)
        self._known = KnownClasses(self._factory)
        # `perform` of a call that was sent ahead waits for its turn, so what others need is not on its threads.
        threads = concurrency + SPARE_THREADS
        groups = {"control": 2, "signals": 1, "freight": threads, "pull": threads, "collect": SPARE_THREADS}
        try:
            actor_class: Any = _ray.remote(concurrency_groups=groups)(Host)
            self._actor_class = actor_class.options(**self._options, max_restarts=0, max_task_retries=0)
        except (ValueError, TypeError) as error:
            raise ConfigError("ray_options", dict(ray_options or {}), str(error)) from error
        self._session = RaySession(ray_init)
        self._listener: Listener | None = None
        self._packed: Any = None  # the factory, or an ObjectRef to it
        self._node = ""
        self._placing: set[int] = set()

    def __repr__(self) -> str:
        return self._label if self._factory is not None else "functions"

    async def open(self, listener: Listener) -> None:
        """Join or start Ray, and pack the factory.

        Raises:
            PoiseError: there is no Ray to be had, or the factory cannot be pickled.
        """
        self._listener = listener
        await self._session.open()
        try:
            self._packed, self._node = await in_thread(self._prepare)
        except BaseException:
            await self.aclose()
            raise

    async def default_size(self) -> int:
        """How many workers Ray has room for at most."""
        return room_for(needs_of(self._options), await in_thread(_ray.cluster_resources))

    async def launch(self, worker_id: int) -> Lane:
        """Start one worker and return when its instance is constructed.

        Raises:
            StartFailed: the worker could not be started. Nothing of it is left.

        Cancelling ends the half-started worker and leaves nothing.
        """
        assert self._listener is not None
        creation = Creation(self._create)
        self._placing.add(worker_id)
        try:
            host, serving = await creation.outcome()
        except asyncio.CancelledError:
            self._placing.discard(worker_id)
            made = await creation.give_up()
            if made is not None:
                await self._reach(worker_id, *made).kill()
            raise
        except Exception as error:
            self._placing.discard(worker_id)
            raise StartFailed(describe(error)) from error
        lane = self._reach(worker_id, host, serving)
        lane.known = self._known
        try:
            await self._start(lane, lambda: self._placing.discard(worker_id))
        except BaseException:
            try:
                await lane.close(self._close_timeout)
            finally:
                await lane.kill()  # waits for that same end, if the start is given up meanwhile
            raise
        finally:
            self._placing.discard(worker_id)
        return lane

    def _reach(self, worker_id: int, host: Any, serving: Any) -> FreightLane:
        assert self._listener is not None
        return FreightLane(worker_id, self._listener, host, serving, writable=self._writable)

    async def _start(self, lane: FreightLane, placed: Callable[[], None]) -> None:
        await lane.start(self._node, placed)

    async def shortage(self) -> str | None:
        """Say which resource the launches under way wait for a place with, or None if none waits for one."""
        if not self._placing:
            return None
        try:
            async with asyncio.timeout(TOLD_OF_SHORTAGE):
                free, total = await in_thread(lambda: (_ray.available_resources(), _ray.cluster_resources()))
        except TimeoutError:
            return f"Ray has not answered within {TOLD_OF_SHORTAGE:g} s"
        return shortage_of(needs_of(self._options), free, total)

    async def aclose(self, within: float = LETTING_GO) -> None:
        """Let go of Ray, in so many seconds at most."""
        self._packed = None
        await self._session.aclose(within)

    def _prepare(self) -> tuple[Any, str]:
        refuse_another_ray()
        packed: Any = None
        if self._factory is not None:
            packed = _pack_factory(self._factory)
            if nbytes(packed) > DEPOSITED:
                packed = _ray.put(packed)
        return packed, ray.get_runtime_context().get_node_id()

    def _create(self) -> tuple[Any, Any]:
        refuse_another_ray()
        host = self._actor_class.remote(self._label)
        return host, host.serve.remote(self._packed, self._concurrency, own_paths(), self._writable)


def _pack_factory(factory: Callable[[], Any]) -> Packed:
    try:
        return pack(factory, "the factory")
    except PayloadError as whole:
        error = _failing_part(factory) or whole
        reason = error.reason + culprit(factory, pack_in_band)
        raise PayloadError(error.what, reason, started=False) from error.__cause__


def _failing_part(factory: Callable[[], Any]) -> PayloadError | None:
    """Which part of a factory that is made of some cannot travel, as an executor's with an initializer."""
    for what, part in getattr(factory, "__poise_parts__", tuple)():
        try:
            pack(part, what)
        except PayloadError as error:
            return error
    return None


class FreightLane:
    """The way to one host actor."""

    def __init__(self, worker_id: int, listener: Listener, host: Any, serving: Any, *, writable: bool = False) -> None:
        """Reach a host.

        Args:
            worker_id: the worker's number in the pool.
            listener: the engine's ear.
            host: the handle of the actor.
            serving: the reference of its `serve` call, which fails when the actor dies.
            writable: whether large arrays arrive writable, as small ones do.
        """
        self._writable = writable
        self.origin = Origin(lane="freight")
        self.most_ahead = 0
        self.worker_id = worker_id
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._door: Door[tuple[int | None, Future[Any]]] = Door(self._loop, self._deliver, self._fail)
        self._failures: Door[Answer] = Door(self._loop, partial(listener.on_answers, worker_id), self._fail)
        self._host: Any = host
        self._book = FunctionBook(())
        self.known: KnownClasses | None = None
        """The classes of the pool's workers."""
        self._streams: dict[int, _Stream] = {}
        self._refs: dict[int | None, Any] = {}  # a reference that is dropped never answers
        self._signals: Any = None
        self._signal_door: Door[Future[Any]] = Door(self._loop, self._told_to_end, self._fail)
        self._process: ProcessWatch | None = None
        self._fate: str | None = None
        """How the process ended, if the kernel has told."""
        self._dead = asyncio.Event()
        self._asked_at = self._loop.time()
        self._is_started = False
        self._is_lost = False
        self._killing: asyncio.Task[None] | None = None
        self._listen(None, serving)
        # A pool that is forgotten unclosed leaves no actor: `serve` keeps one alive that has lost its last handle.
        self._forgotten = weakref.finalize(self, kill_forgotten, host)
        self._forgotten.atexit = False

    async def start(self, node: str, placed: Callable[[], None]) -> None:
        """Wait until the instance is constructed.

        Args:
            node: Ray's id of the node that this process is on.
            placed: called when the actor's process is there.

        Raises:
            StartFailed: it will not be.
        """
        ready = self._host.ready.remote()
        try:
            pid, where = await outcome_of(self._host.hello.remote())
            placed()
            self.origin = Origin(pid, where, "freight")
            tell_of(where, pid)
            if where == node:
                with contextlib.suppress(OSError, NotImplementedError):
                    self._process = ProcessWatch(pid, self._loop, self._on_exit)
            classes, failure = await outcome_of(ready)
        except RayError as error:
            raise StartFailed(f"the worker died while it started: {last_words(error)}") from None
        if failure is not None:
            raise start_failed(failure)
        self._book = FunctionBook(classes, self.known)
        self._is_started = True
        self._hear_signals()

    def _hear_signals(self) -> None:
        self._signals = self._host.told_to_end.remote()  # a reference that is dropped never answers
        self._signals.future().add_done_callback(self._signal_door.way_in())  # runs on Ray's thread

    def _told_to_end(self, futures: list[Future[Any]]) -> None:
        if any(future.exception() is None and future.result() for future in futures) and self._killing is None:
            self._listener.on_retire(self.worker_id)

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Give the worker these calls."""
        for parcel in parcels:
            try:
                crated = self._pack(parcel)
            except PayloadError as error:
                self._failures.put(Answer(parcel.call_id, Verdict.RAISED, error))
                continue
            if parcel.kind is Kind.STREAM:
                self._streams[parcel.call_id] = _Stream(parcel.credit)
            self._call(parcel.call_id, "perform", crated)

    def recall(self, call_ids: Sequence[int]) -> None:  # noqa: ARG002 - nothing is sent ahead, so nothing comes back
        """Give nothing back: on this lane every call that was sent may have begun."""
        self._loop.call_soon(self._listener.on_recall_done, self.worker_id)

    def withdraw(self, call_ids: Sequence[int]) -> None:
        """Nothing: on this lane nothing is sent ahead."""

    def cancel(self, call_id: int) -> None:
        """Drop the call if it has not begun; stop it if it is a coroutine or a stream."""
        self._tell("cancel", call_id)
        stream = self._streams.get(call_id)
        if stream is not None:
            stream.is_cancelled = True
            self._pull(call_id, stream)

    def grant(self, call_id: int, items: int) -> None:
        """Let the stream send this many more items."""
        stream = self._streams.get(call_id)
        if stream is None:
            return
        stream.owed += items
        if stream.is_asked:
            self._tell("grant", call_id, items)
        else:
            self._pull(call_id, stream, items)

    async def close(self, timeout: float) -> None:
        """Let an idle worker close what it holds, for so many seconds at most, then end it as `kill` does."""
        if self._killing is None:
            self._killing = asyncio.ensure_future(self._close(timeout))
        await asyncio.shield(self._killing)

    async def kill(self) -> None:
        """End the worker at once and return when it is gone. Safe to call again, and after the worker's death."""
        if self._killing is None:
            self._killing = asyncio.ensure_future(self._kill())
        await asyncio.shield(self._killing)

    # -----------------------------------------------------------------------------------------------------------------
    # To the host

    def _pack(self, parcel: Parcel) -> Crate:
        target: Any = self._book.target(parcel.function)
        arguments = for_ray(pack_arguments(parcel.args, parcel.kwargs))
        plain = type(arguments) is bytes
        if type(target) is not str:
            plain = plain and type(target.packed) is bytes
            target = tuple(target)
        return crate(
            parcel.call_id, target, arguments, parcel.credit if parcel.kind is Kind.STREAM else None, plain=plain
        )

    def _pull(self, call_id: int, stream: _Stream, credit: int = 0) -> None:
        if not stream.is_asked:
            stream.is_asked = True
            self._call(call_id, "pull", call_id, credit)

    def _call(self, call_id: int, method: str, *args: Any) -> None:
        """Call the host and hear of the outcome."""
        if not self._may_call():
            return
        try:
            ref = getattr(self._host, method).remote(*args)
        except Exception as error:  # noqa: BLE001 - Ray has no room for the arguments, or what else it may raise
            if method == "perform":
                self._streams.pop(call_id, None)
                failure = PayloadError("the arguments", f"Ray does not take them: {describe(error)}", started=False)
                self._failures.put(Answer(call_id, Verdict.RAISED, failure))
            else:
                self._loop.call_soon(self._lose, f"it cannot be called: {describe(error)}")
            return
        self._listen(call_id, ref)

    def _tell(self, method: str, *args: Any) -> None:
        """Call the host; if it does not hear it, it is dead, and that is heard elsewhere."""
        if self._may_call():
            with contextlib.suppress(Exception):
                getattr(self._host, method).remote(*args)

    def _may_call(self) -> bool:
        if self._host is None or self._is_lost:
            return False
        if not _ray.is_initialized():  # a call would start another Ray
            self._loop.call_soon(self._lose, "Ray has been shut down")
            return False
        return True

    # -----------------------------------------------------------------------------------------------------------------
    # From the host

    def _listen(self, call_id: int | None, ref: Any) -> None:
        self._refs[call_id] = ref
        tell = self._door.way_in()

        def on_ray_done(future: Future[Any]) -> None:  # runs on Ray's thread
            tell((call_id, future))

        ref.future().add_done_callback(on_ray_done)

    def _deliver(self, events: list[tuple[int | None, Future[Any]]]) -> None:
        if self._is_lost:
            return
        answers: list[Answer] = []
        loss: BaseException | None = None
        for call_id, future in events:
            self._refs.pop(call_id, None)
            error = future.exception()
            if call_id is None:  # `serve` ends by itself when the constructor or the connection has failed
                loss = error or (RuntimeError("it takes no more calls") if self._is_started else None)
            elif error is not None:
                answer = answer_of_failure(call_id, error)
                if answer is None:
                    loss = error
                else:
                    self._streams.pop(call_id, None)
                    answers.append(answer)
            elif call_id in self._streams:
                self._unload(call_id, uncrate(future.result()), answers)
            else:
                answers.append(answer_of(uncrate(future.result()), writable=self._writable))
        if answers:
            self._listener.on_answers(self.worker_id, answers)
        if loss is not None:
            self._lose(self._why(last_words(loss)))

    def _unload(self, call_id: int, contents: Any, answers: list[Answer]) -> None:
        """Pass a stream's items on, then its end or the next question."""
        packed, end = contents
        stream = self._streams[call_id]
        stream.is_asked = False
        stream.owed -= len(packed)
        items, failure = ([], None) if stream.failure is not None else unpack_items(packed, writable=self._writable)
        if items:
            self._listener.on_items(self.worker_id, call_id, items)
        if failure is not None:
            stream.failure = failure
            if end is None:  # else nothing is left to be stopped, and nobody to answer the question for more
                self.cancel(call_id)
        if end is not None:
            self._streams.pop(call_id, None)
            answer = answer_of(end)
            if stream.failure is not None:
                answer = Answer(call_id, Verdict.RAISED, stream.failure, answer.service_time)
            answers.append(answer)
        elif stream.owed > 0 or stream.is_cancelled:
            self._pull(call_id, stream)

    # -----------------------------------------------------------------------------------------------------------------
    # Death

    def _on_exit(self) -> None:
        """The process has ended. Ray hears of it a moment later, and may know why."""
        why = self._how_it_ended()
        self._process = None
        self._dead.set()
        self._loop.call_later(TOLD_BY_RAY, self._lose, why)

    def _how_it_ended(self) -> str:
        if self._process is not None:
            self._fate = self._process.look()
        return self._fate or "its process ended"

    def _why(self, words: str) -> str:
        """Why the worker is lost: what Ray says, what the kernel says, or both."""
        fate = self._how_it_ended()
        if self._fate is None:
            return words
        return fate if CONNECTION_ENDED in words else f"{fate}; Ray says: {words}"

    def _lose(self, reason: str, *, all_in_doubt: bool = False) -> None:
        if self._process is None:
            self._dead.set()
        if not self._is_lost:
            self._is_lost = True
            if self._killing is None:
                self._listener.on_lost(self.worker_id, reason, all_in_doubt=all_in_doubt)

    def _fail(self, error: Exception) -> None:
        """What the worker said is lost by a fault of poise's own."""
        self._lose(f"what it said was not understood: {describe(error)}", all_in_doubt=True)

    async def _close(self, timeout: float) -> None:
        if timeout > 0 and self.origin.pid is not None and self._may_call():  # else it has no process yet, or no more
            try:
                async with asyncio.timeout(timeout):
                    await self._leave()
            except TimeoutError:
                _log.warning(
                    "worker %d was not done with closing after close_timeout=%g s and is killed",
                    self.worker_id,
                    timeout,
                )
        await self._kill()

    async def _leave(self) -> None:
        """Have the host close what it holds, and its process end in good order."""
        try:
            failures: list[str] | None = await outcome_of(self._host.close.remote())
            if failures is None:
                return
            for failure in failures:
                _log.warning("worker %d: %s", self.worker_id, failure)
            self._tell("end")
        except RayError:
            return  # it has died of itself
        await self._dead.wait()

    async def _kill(self) -> None:
        if self.origin.pid is None:
            await self._let_arrive()
        host, self._host = self._host, None
        self._forgotten.detach()
        await in_thread_within(KILLED_BY_RAY, "for Ray to kill an actor", kill_actor, host)
        if not await self._is_gone_within(KILLED_BY_RAY) and self._process is not None:
            self._process.kill()
            await self._is_gone_within(KILLED_BY_RAY)
        if not self._dead.is_set():
            _log.warning("worker %d (process %s) was killed and has not ended yet", self.worker_id, self.origin.pid)
        self._is_lost = True
        self._streams.clear()
        self._refs.clear()
        self._signals = None
        if self._process is not None:
            self._process.close()
            self._process = None

    async def _let_arrive(self) -> None:
        """Wait for an actor that has not been heard of, if Ray may be starting a process for it.

        Ray does not get back the room of an actor that it kills just then: its GCS ignores the lease that is granted to
        an actor that has been killed meanwhile, and nobody returns it.
        """
        if self._may_call():
            with contextlib.suppress(RayError, TimeoutError):  # it is dead; it waits for room
                async with asyncio.timeout_at(self._asked_at + PLACED_WITHIN):
                    await outcome_of(self._host.hello.remote())

    async def _is_gone_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._dead.wait()
        except TimeoutError:
            return False
        return True


class _Stream:
    """A stream on its way."""

    __slots__ = ("failure", "is_asked", "is_cancelled", "owed")

    def __init__(self, credit: int) -> None:
        self.owed = credit  # items that were granted and have not come
        self.is_asked = True  # whether a call to the host is under way that brings the next items
        self.is_cancelled = False
        self.failure: PayloadError | None = None
