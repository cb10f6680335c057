"""A drop-in for `ray.util.ActorPool`, whose `submit` returns a call that can be awaited.

It is for actors that exist already, with or without an event loop. One lock guards all state; granting an actor and
recording that are one step under it; Ray's completion of a call, not its collection, frees the actor.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import OrderedDict, deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from poise._ray.forks import refuse_forked
from poise.actor_pool.call import ActorCall, Collection
from poise.actor_pool.references import is_death_of, last_words, references, when_done
from poise.errors import PoolBroken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

V = TypeVar("V")
R = TypeVar("R")


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
        self._collection = Collection()
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
            when_done(references(call.refs), functools.partial(self._end, call))
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
            deaths = [error for error in errors if is_death_of(actor, error)]
            if deaths:
                self._idle = deque(other for other in self._idle if other != actor)  # it may be there twice
                self._deaths += 1
                if not self._idle and not self._busy:
                    self._last_death = last_words(deaths[0])
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
