"""A drop-in for `ray.util.ActorPool`, whose `submit` returns a call that can be awaited.

It is for actors that exist already, with or without an event loop. One lock guards all state; granting an actor and
recording that are one step under it; Ray's completion of a call, not its collection, frees the actor.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections import OrderedDict, deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar, cast

from poise._wire.forks import refuse_forked
from poise.errors import PoolBroken

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

V = TypeVar("V")
R = TypeVar("R")


class ActorCall(Future[R]):
    """One call of an `ActorPool`: await it from an event loop, or ask it for its `result()` from any thread.

    It is a `concurrent.futures.Future`. `cancel()` works until an actor is given to the call. Whoever awaits a call, or
    asks it for its result or exception, takes it out of what `get_next` and `get_next_unordered` hand out.
    """

    def __init__(self, pool: ActorPool, index: int, fn: Callable[[Any, Any], Any], value: Any) -> None:
        """Made by `ActorPool.submit`; not for users."""
        super().__init__()
        self._pool = pool
        self.index = index
        """How many calls the pool was given before this one."""
        self.work: tuple[Callable[[Any, Any], Any], Any] | None = (fn, value)
        """What is to be done, until it is begun."""
        self.refs: Any = None
        """What `fn` returned. Kept until the end: a reference that is dropped never answers."""

    def result(self, timeout: float | None = None) -> R:
        """Wait for the result; from now on the call is the caller's and is not collected.

        Args:
            timeout: seconds to wait; None waits for ever.

        Raises:
            TimeoutError: it has not come in time.
            CancelledError: the call was cancelled.
            PoolBroken: the last actor died before the call was given one.
            Exception: whatever the actor's method raised, as `ray.get` raises it.
        """
        self._pool.release(self)
        try:
            return super().result(timeout)
        finally:
            del self  # an error that is raised here must not hold the call that holds it

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end and return what was raised, if anything; otherwise like `result`."""
        self._pool.release(self)
        return super().exception(timeout)

    def __await__(self) -> Generator[Any, None, R]:
        """Wait without blocking the running event loop; otherwise like `result`.

        Cancelling the wait cancels the call if it has no actor yet.
        """
        self._pool.release(self)
        return asyncio.wrap_future(self).__await__()


class _NothingLeft(StopIteration):
    """There is nothing to collect."""


class ActorPool:
    """Gives each call to whichever of some Ray actors is free. Drop-in for `ray.util.ActorPool`, and thread-safe.

    `submit` returns a call that can be awaited, or the results are collected with `get_next` and `get_next_unordered`;
    both can be done with the same pool. An actor is free as soon as its call has ended, collected or not. One that has
    died fails its own call and leaves the pool.
    """

    def __init__(self, actors: Iterable[Any]) -> None:
        """Take the actors over; they are neither made nor ended here.

        Args:
            actors: handles of Ray actors.

        Raises:
            WrongLoop: this process was forked from one whose Ray was connected, as it is when there are actors; every
                method that waits or makes a call raises it there too.
        """
        refuse_forked()
        self._changed = threading.Condition()
        """Guards everything below; notified when a call has ended or been given an actor."""
        self._idle = deque(actors)
        """The one that has been idle for longest first: they take turns, and one that fails at once gets no more."""
        self._busy: dict[ActorCall[Any], Any] = {}
        """The actor of each call that has begun and not ended."""
        self._waiting: OrderedDict[ActorCall[Any], None] = OrderedDict()  # the first of it in O(1), unlike a dict
        """Calls without an actor, in order. Invariant: empty if an actor is idle."""
        self._granted: deque[tuple[ActorCall[Any], Any]] = deque()
        """Calls that waited and were given an actor, for the starter to begin. All of them are in `_busy`."""
        self._starter: threading.Thread | None = None
        """Invariant: there is one while a call is granted."""
        self._collection = _Collection()
        self._submitted = 0
        self._deaths = 0
        self._last_death: str | None = None
        """How the last actor died, if that is why there is none."""

    # ---------------------------------------------------------------- submitting

    def submit(self, fn: Callable[[Any, V], Any], value: V) -> ActorCall[Any]:
        """Call `fn(actor, value)` with an actor that is free, now or as soon as one is.

        Args:
            fn: makes the call and returns its ObjectRef, or a list of them, with which the actor is busy until all have
                ended. It runs at once in this thread if an actor is free, else later in another one.
            value: its second argument.

        Returns:
            The call. It need not be kept: its result can be collected with `get_next` or `get_next_unordered`.

        Raises:
            Exception: what `fn` itself raised, if it ran at once; else that comes with the call.
        """
        refuse_forked()
        with self._changed:
            call: ActorCall[Any] = ActorCall(self, self._submitted, fn, value)
            self._submitted += 1
            self._collection.add(call)
            call.add_done_callback(self._on_done)
            self._waiting[call] = None
            grants = self._grant()  # of this call alone, as nothing waits beside an idle actor
            failed = self._fail_if_all_dead()
        _fail(failed)
        if not grants:
            return call
        del call
        ((granted, actor),) = grants
        grants.clear()
        try:
            self._begin(granted, actor)
        except BaseException:
            self.release(granted)
            del granted, actor  # an error that is raised here must not hold the call that holds it
            raise
        return granted

    def map(self, fn: Callable[[Any, V], Any], values: Iterable[V]) -> Iterator[Any]:
        """Call `fn(actor, value)` for each value; results come in the order of the values.

        Results of earlier submissions that were not collected are given up; the calls themselves go on.

        Args:
            fn: as in `submit`.
            values: all of them are submitted now.

        Returns:
            An iterator over the results, which ends when nothing is left to collect.
        """
        return self._map(fn, values, self.get_next)

    def map_unordered(self, fn: Callable[[Any, V], Any], values: Iterable[V]) -> Iterator[Any]:
        """Call `fn(actor, value)` for each value; results come as they are ready. Otherwise like `map`."""
        return self._map(fn, values, self.get_next_unordered)

    def _map(self, fn: Callable[[Any, V], Any], values: Iterable[V], get_next: Callable[[], Any]) -> Iterator[Any]:
        with self._changed:
            self._collection.clear()
        for value in values:
            self.submit(fn, value)
        return self._collect(get_next)

    def _collect(self, get_next: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            try:
                yield get_next()
            except _NothingLeft:  # another thread has taken the last one
                return

    # ---------------------------------------------------------------- collecting

    def has_next(self) -> bool:
        """Whether there is a result to collect, now or later."""
        with self._changed:
            return self._collection.has_next(can_begin=bool(self._idle or self._busy))

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:  # noqa: FBT001, FBT002
        """Wait for the next result in the order of submission.

        Args:
            timeout: seconds to wait; None waits for ever.
            ignore_if_timedout: if it times out, never hand that result out. The call itself goes on, and its actor is
                free when it has ended.

        Raises:
            StopIteration: there is nothing to collect.
            TimeoutError: the result has not come in time.
            ValueError: `get_next_unordered` has handed out later results, and only earlier ones are left.
            Exception: what the call raised, which takes its turn like a result.
        """
        return self._next(self._collection.first, timeout, ignore_if_timedout)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:  # noqa: FBT001, FBT002
        """Wait for whichever result comes next; `ignore_if_timedout` gives the oldest up. Otherwise like `get_next`."""
        return self._next(self._collection.first_ended, timeout, ignore_if_timedout)

    def _next(self, choose: Callable[[], ActorCall[Any]], timeout: float | None, ignore_if_timedout: bool) -> Any:  # noqa: FBT001
        refuse_forked()
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                if not self.has_next():
                    raise _NothingLeft("No more results to get")
                call = choose()
                if call.done():
                    break
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    message = "Timed out waiting for result"
                    if ignore_if_timedout:
                        self._collection.take(call)
                        message += f". The task {call if call.refs is None else call.refs} has been ignored."
                    raise TimeoutError(message)
                self._changed.wait(remaining)
            self._collection.take(call)
        try:
            return call.result()
        finally:
            del call  # an exception that is raised here must not hold the call that holds it

    def release(self, call: ActorCall[Any]) -> None:
        """The call is its caller's own from now on: it is not collected."""
        if not call.done():
            refuse_forked()  # it will never be
        with self._changed:
            self._collection.drop(call)

    # ---------------------------------------------------------------- actors

    def __repr__(self) -> str:
        """Give the number of actors and what they do."""
        with self._changed:
            idle, busy, waiting = len(self._idle), len(self._busy), len(self._waiting)
        return f"<ActorPool, {idle} actors idle, {busy} busy, {waiting} calls waiting>"

    def has_free(self) -> bool:
        """Whether an actor is idle."""
        with self._changed:
            return bool(self._idle)

    def pop_idle(self) -> Any:
        """Take an idle actor out of the pool; None if there is none."""
        with self._changed:
            return self._idle.pop() if self._idle else None

    def push(self, actor: Any) -> None:
        """Put an actor into the pool.

        Raises:
            ValueError: it is there already.
        """
        with self._changed:
            if actor in self._idle or actor in self._busy.values():
                raise ValueError("Actor already belongs to current ActorPool")
            self._idle.append(actor)
            self._last_death = None
            self._grant_to_waiting()
            self._changed.notify_all()

    # ---------------------------------------------------------------- inside, with the lock held

    def _grant(self) -> list[tuple[ActorCall[Any], Any]]:
        """Give idle actors to the calls that wait, in order, and record it."""
        grants: list[tuple[ActorCall[Any], Any]] = []
        while self._idle and self._waiting:
            call, _ = self._waiting.popitem(last=False)
            if call.set_running_or_notify_cancel():
                actor = self._busy[call] = self._idle.popleft()
                grants.append((call, actor))
        return grants

    def _grant_to_waiting(self) -> None:
        """Grant, and have a thread begin what was granted.

        It cannot be Ray's thread, which tells of completions: there `fn` would hold up all of Ray if it waited for
        anything, and to store a large argument is enough for that. Nor that of whoever collects, since nobody may.
        """
        self._granted.extend(self._grant())
        if self._granted and self._starter is None:
            self._starter = threading.Thread(target=self._start, name="poise-actor-pool", daemon=True)
            self._starter.start()

    def _fail_if_all_dead(self) -> list[tuple[ActorCall[Any], PoolBroken]]:
        """Take out the calls that wait if the last actor has died: they are to be failed."""
        if self._last_death is None:
            return []
        failed: list[tuple[ActorCall[Any], PoolBroken]] = []
        for call in self._waiting:
            error = PoolBroken(self._last_death, self._deaths)
            error.args = (f"no actor is left ({self._deaths} died), push() another one: {self._last_death}",)
            failed.append((call, error))
            self._collection.ended(call)
        self._waiting.clear()
        return failed

    # ---------------------------------------------------------------- inside, on any thread

    def _begin(self, call: ActorCall[Any], actor: Any) -> None:
        assert call.work is not None
        (fn, value), call.work = call.work, None
        try:
            call.refs = fn(actor, value)
            _when_done(_references(call.refs), functools.partial(self._end, call))
        except BaseException as error:
            self._end(call, [_failed(error)])
            raise
        finally:
            del call  # as in `submit`

    def _start(self) -> None:  # the starter's thread
        while True:
            with self._changed:
                while not self._granted:
                    if not (self._waiting and self._busy):  # nothing will be granted before something is submitted
                        self._starter = None
                        return
                    self._changed.wait()
                call, actor = self._granted.popleft()
            with contextlib.suppress(BaseException):  # it has ended the call, and is raised where that is awaited
                self._begin(call, actor)
            del call, actor

    def _end(self, call: ActorCall[Any], futures: Sequence[Future[Any]]) -> None:  # mostly on Ray's thread
        """What `fn` began has ended: the actor is free, or dead."""
        errors = [error for future in futures if (error := future.exception()) is not None]
        with self._changed:
            if call not in self._busy:
                return  # a callback of the call's own has raised what only ends programs
            actor = self._busy.pop(call)
            deaths = [error for error in errors if _is_death_of(actor, error)]
            if deaths:
                self._idle = deque(other for other in self._idle if other != actor)  # it may be there twice
                self._deaths += 1
                if not self._idle and not self._busy:
                    self._last_death = _last_words(deaths[0])
            else:
                self._idle.append(actor)
                self._grant_to_waiting()
            self._collection.ended(call)
            failed = self._fail_if_all_dead()
            self._changed.notify_all()
        results = call.refs
        call.refs = None
        if errors:
            call.set_exception(errors[0])
        else:
            values = [future.result() for future in futures]
            call.set_result(values if isinstance(results, list) else values[0])
        _fail(failed)

    def _on_done(self, call: Future[Any]) -> None:
        """The call has its outcome; this is the first of its callbacks."""
        assert isinstance(call, ActorCall)
        with self._changed:
            if call.cancelled():
                call.work = None
                self._collection.drop(call)
                if call in self._waiting:
                    del self._waiting[call]
                    call.set_running_or_notify_cancel()
            self._changed.notify_all()


class _Collection:
    """The calls whose results are to be handed out by `get_next` and `get_next_unordered`."""

    def __init__(self) -> None:
        self._coming: OrderedDict[int, ActorCall[Any]] = OrderedDict()
        """By index, in order: those that `get_next` can hand out."""
        self._passed: OrderedDict[int, ActorCall[Any]] = OrderedDict()
        """Those before one that was handed out already: `get_next` cannot go back to them."""
        self._ended: OrderedDict[int, ActorCall[Any]] = OrderedDict()
        """Of both, those that have ended, in the order in which they did."""

    def has_next(self, *, can_begin: bool) -> bool:
        """Whether there is anything to wait for; calls that wait count only if there is an actor."""
        return bool(self._ended or (can_begin and (self._coming or self._passed)))

    def first(self) -> ActorCall[Any]:
        """The next in order.

        Raises:
            ValueError: only earlier ones are left.
        """
        if not self._coming:
            raise ValueError("It is not allowed to call get_next() after get_next_unordered().")
        return next(iter(self._coming.values()))

    def first_ended(self) -> ActorCall[Any]:
        """The one that ended first, or the oldest if none has."""
        return next(iter((self._ended or self._passed or self._coming).values()))

    def add(self, call: ActorCall[Any]) -> None:
        self._coming[call.index] = call

    def ended(self, call: ActorCall[Any]) -> None:
        if call.index in self._coming or call.index in self._passed:
            self._ended[call.index] = call

    def take(self, call: ActorCall[Any]) -> None:
        """Hand this one out, or give it up."""
        while self._coming and (index := next(iter(self._coming))) < call.index:
            self._passed[index] = self._coming.pop(index)
        self.drop(call)

    def drop(self, call: ActorCall[Any]) -> None:
        """Leave this one to its caller."""
        self._coming.pop(call.index, None)
        self._passed.pop(call.index, None)
        self._ended.pop(call.index, None)

    def clear(self) -> None:
        """Give up all of them."""
        self._coming.clear()
        self._passed.clear()
        self._ended.clear()


def _references(refs: Any) -> Sequence[Any]:
    """An ObjectRef, or a list of them, as a sequence.

    Raises:
        ValueError, TypeError: they are none, as `ray.get` would raise.
    """
    from ray import ObjectRef

    if not isinstance(refs, ObjectRef | list):
        raise ValueError(  # noqa: TRY004 - as `ray.get`
            f"fn must return an ObjectRef or a list of them, and returned {type(refs).__name__}"
        )
    each: Sequence[Any] = [refs] if isinstance(refs, ObjectRef) else tuple(cast("Iterable[Any]", refs))
    for ref in each:
        if not isinstance(ref, ObjectRef):
            raise TypeError(f"fn must return an ObjectRef or a list of them; the list has a {type(ref).__name__}")
    return each


def _when_done(refs: Sequence[Any], tell: Callable[[Sequence[Future[Any]]], None]) -> None:
    """Tell, once, when all of these ObjectRefs are ready; on Ray's thread, or now if they are already."""
    if not refs:
        tell([])
        return
    futures: list[Future[Any]] = [ref.future() for ref in refs]
    lock = threading.Lock()
    left = len(futures)

    def on_done(_: Future[Any]) -> None:
        nonlocal left
        with lock:
            left -= 1
            if left:
                return
        done = list(futures)
        futures.clear()  # they hold this function, which must not hold them and their results
        tell(done)

    for future in list(futures):
        future.add_done_callback(on_done)


def _is_death_of(actor: Any, error: BaseException) -> bool:
    """Whether this actor is dead for good, and not another that was to produce an argument."""
    from ray.exceptions import ActorDiedError

    return isinstance(error, ActorDiedError) and error.actor_id in {None, actor._actor_id.hex()}  # noqa: SLF001


def _last_words(error: BaseException) -> str:
    from poise._wire.ray_errors import last_words

    return last_words(error)


def _fail(calls: Iterable[tuple[ActorCall[Any], PoolBroken]]) -> None:
    """End calls that no actor is left for."""
    for call, error in calls:
        if call.set_running_or_notify_cancel():
            call.work = None
            call.set_exception(error)


def _failed(error: BaseException) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future
