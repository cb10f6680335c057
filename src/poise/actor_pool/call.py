"""One call of an `ActorPool`, and which of them are to be collected."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from poise._protocol.outcomes import result_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from poise.actor_pool.pool import ActorPool

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
            return result_of(self, timeout)
        finally:
            del self  # as in `result_of`

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


class Collection:
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
        """One that was submitted."""
        self._coming[call.index] = call

    def ended(self, call: ActorCall[Any]) -> None:
        """One has ended, which may be the caller's own by now."""
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
