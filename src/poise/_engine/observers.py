"""Who observes a pool, and the way there: events as they happen go in, and out to those who want them, in order."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from poise import events
from poise._core.effects import Crowded, Grown, Lost, Replacing, Shrunk, Struck
from poise._core.observed import CALL_EVENTS, Telling, observe
from poise._engine.journal import Journal
from poise.events import Counting, Observer, check_observer

if TYPE_CHECKING:
    import asyncio
    import os
    from collections.abc import Callable, Iterable, Sequence

    from poise._core.effects import News
    from poise._core.shares import Shares
    from poise._engine.clock import Clock
    from poise._engine.tracing import Tracing
    from poise._lanes.lane import Origin
    from poise.errors import PoolBroken
    from poise.events import Cause, Event
    from poise.recording import Recording

logger = logging.getLogger("poise")

METHODS: Final[dict[type[Any], str]] = {
    events.CallAdmitted: "call_admitted",
    events.CallRefused: "call_refused",
    events.CallGranted: "call_granted",
    events.CallBegun: "call_begun",
    events.CallPutBack: "call_put_back",
    events.CallEnded: "call_ended",
    events.CallReleased: "call_released",
    events.WorkerStarting: "worker_starting",
    events.WorkerReady: "worker_ready",
    events.WorkerDied: "worker_died",
    events.WorkerReplacing: "worker_replacing",
    events.WorkerRetired: "worker_retired",
    events.PoolOpening: "pool_opening",
    events.PoolWhole: "pool_whole",
    events.PoolResized: "pool_resized",
    events.PoolBroke: "pool_broke",
    events.PoolEnded: "pool_ended",
}
"""What an observer is told each event by."""


class Observers:
    """Tells the observers of one pool.

    They hear of an event in a callback of the loop, and so never within a step of the pool, before whoever awaits its
    outcome goes on.
    """

    def __init__(self, pool: str, observers: Iterable[Observer], record: str | os.PathLike[str] | None) -> None:
        """Know of these; nothing happens before `begin`."""
        self._pool = pool
        self._lock = threading.Lock()
        """Held while the observers change, which any thread may ask for."""
        self._observers: tuple[Observer, ...] = tuple(observers)
        self._recording: Recording | None = None
        if record is not None:
            from poise.recording import Recording

            self._recording = Recording(record)
            self._observers = (*self._observers, self._recording)
        self._listeners: dict[type[Event], tuple[tuple[Observer, Callable[[Any], object]], ...]] = {}
        """Whom to tell of each kind of event. Replaced as a whole."""
        # Below: once the pool is being opened, and on its loop alone.
        self._loop: asyncio.AbstractEventLoop
        self._clock: Clock
        self._journal: Journal
        self._shares: Shares | None = None
        self._telling: Telling | None = None
        self._untold: deque[Event] = deque()
        self._pids: dict[int, int | None] = {}
        """Workers that have been started and have not ended, with their processes."""
        self._is_whole = False
        self._is_broken = False

    # ---------------------------------------------------------------- any thread

    def add(self, observer: Observer) -> None:
        """Tell this one too, of what happens from now on; nothing is to be done if it is told already.

        Raises:
            ConfigError: it is no observer.
        """
        check_observer("observer", observer)
        with self._lock:
            if not any(each is observer for each in self._observers):
                self._observers = (*self._observers, observer)
                self._arrange()

    def add_tracing(self, tracing: Tracing) -> None:
        """Tell this one too, after the recording, which asks it for the trace of a call that has just ended."""
        if self._recording is not None:
            self._recording.trace_of = tracing.said_of
        self.add(tracing)

    def remove(self, observer: Observer) -> None:
        """Tell this one nothing more; nothing is to be done if it is not told anything."""
        with self._lock:
            self._observers = tuple(each for each in self._observers if each is not observer)
            self._arrange()

    def _arrange(self) -> None:
        """Sort them by what they want, and have calls observed if anybody wants to hear of those."""
        listeners: dict[type[Event], tuple[tuple[Observer, Callable[[Any], object]], ...]] = {}
        for event, name in METHODS.items():
            wanting = [each for each in self._observers if _overrides(each, name)]
            if wanting:
                listeners[event] = tuple((each, getattr(each, name)) for each in wanting)
        self._listeners = listeners
        if self._shares is not None and self._telling is not None:
            count = _all_of([each.count for each in self._observers if isinstance(each, Counting)])
            self._telling.listen(listeners, count)
            is_wanted = count is not None or not CALL_EVENTS.isdisjoint(listeners)
            observe(self._shares, self._telling if is_wanted else None)

    # ---------------------------------------------------------------- the pool

    def begin(self, loop: asyncio.AbstractEventLoop, clock: Clock, shares: Shares) -> None:
        """The pool is being opened on this loop. Its journal is told first of whatever happens."""
        self._loop, self._clock, self._shares = loop, clock, shares
        self._journal = Journal(self._pool, clock)
        self._telling = Telling(self._pool, clock.time, self._tell, self._take_back)
        with self._lock:
            self._observers = (self._journal, *self._observers)
            self._arrange()
        if events.PoolOpening in self._listeners:
            self._tell(events.PoolOpening(clock.time(), self._pool))

    def _broke(self, error: PoolBroken, *, is_final: bool) -> None:
        self._is_broken = True
        if events.PoolBroke in self._listeners:
            self._tell(events.PoolBroke(self._clock.time(), self._pool, str(error), is_final))

    def end(self) -> None:
        """The pool is closed: tell what is left at once."""
        if events.PoolEnded in self._listeners:
            self._tell(events.PoolEnded(self._clock.time(), self._pool))
        self._flush()

    # ---------------------------------------------------------------- workers

    def starting(self, worker_id: int, generation: int, *, is_spare: bool) -> None:
        """A worker is being started."""
        self._pids[worker_id] = None
        self._is_whole &= is_spare
        if events.WorkerStarting in self._listeners:
            self._tell(events.WorkerStarting(self._clock.time(), self._pool, worker_id, generation, is_spare))

    @property
    def place(self) -> int:
        """Where what happens now stands among what is still to be told."""
        return len(self._untold)

    def ready(self, worker_id: int, origin: Origin, ready: int, size: int, now: float, place: int) -> None:
        """A worker has started, so that `ready` of `size` are ready; it was then, and at that place."""
        self._is_broken = False
        self._pids[worker_id] = origin.pid
        if events.WorkerReady in self._listeners:
            where = origin.pid, origin.node, origin.lane
            self._tell(events.WorkerReady(now, self._pool, worker_id, *where, ready, size))
            self._untold.insert(place, self._untold.pop())  # before the calls that it was given at once
        was_whole, self._is_whole = self._is_whole, ready >= size
        if self._is_whole and not was_whole and events.PoolWhole in self._listeners:
            self._tell(events.PoolWhole(now, self._pool, size))

    def news(self, news: News, broken: PoolBroken | None) -> bool:
        """Something has befallen a worker; if no worker can start, `broken` says why.

        Returns:
            Whether more workers start, which may wait for room that there is not.
        """
        if isinstance(news, Lost):
            self._lost(news)
            if broken is not None and not self._is_broken:
                self._broke(broken, is_final=news.replaced_in is None)
        elif isinstance(news, Replacing):
            self._replacing(news)
        elif isinstance(news, Crowded):
            self._journal.crowded(news)
        elif isinstance(news, Struck):
            self._journal.struck(news)
        elif isinstance(news, Grown):
            self._journal.grown(news)
            self._resized(news.before, news.size, None)
        elif isinstance(news, Shrunk):
            self._journal.shrunk(news)
            self._resized(news.size + 1, news.size, news.worker_id)
        else:
            self._journal.oversized(news)
        return isinstance(news, Grown)

    def _resized(self, before: int, size: int, worker_id: int | None) -> None:
        self._is_whole &= size <= before
        if events.PoolResized in self._listeners:
            self._tell(events.PoolResized(self._clock.time(), self._pool, before, size, worker_id))

    def _lost(self, loss: Lost) -> None:
        pid, self._is_whole = self._pids.pop(loss.worker_id, None), False
        if events.WorkerDied in self._listeners:
            cause: Cause = "start" if not loss.has_started else "kill" if loss.was_killed else "crash"
            calls, fate = tuple(loss.calls), loss.replaced_in
            now = self._clock.time()
            self._tell(events.WorkerDied(now, self._pool, loss.worker_id, pid, cause, loss.reason, calls, fate))

    def _replacing(self, news: Replacing) -> None:
        if events.WorkerReplacing in self._listeners:
            pid, now = self._pids.get(news.worker_id), self._clock.time()
            change = news.heir_id, news.reason, news.is_gentle, news.is_sick
            self._tell(events.WorkerReplacing(now, self._pool, news.worker_id, pid, *change))

    def retired(self, worker_id: int) -> None:
        """A worker has ended as it was to, or has been told of before."""
        if worker_id not in self._pids:
            return
        pid = self._pids.pop(worker_id)
        if events.WorkerRetired in self._listeners:
            self._tell(events.WorkerRetired(self._clock.time(), self._pool, worker_id, pid))

    # ---------------------------------------------------------------- telling

    def _tell(self, event: Event) -> None:
        if not self._untold:
            with contextlib.suppress(RuntimeError):  # the loop is closed; `end` may still come
                self._loop.call_soon(self._flush)
        self._untold.append(event)

    def _take_back(self, event: Event) -> None:
        assert self._untold[-1] is event, "it was told in this very step"
        self._untold.pop()

    def _flush(self) -> None:
        untold = self._untold
        try:
            while untold:
                event = untold.popleft()
                for observer, hear in self._listeners.get(type(event), ()):
                    try:
                        hear(event)
                    except Exception:
                        logger.exception("pool of %s: %r has failed, and observes it no more", self._pool, observer)
                        self.remove(observer)
        finally:
            if untold:  # somebody is being interrupted
                self._loop.call_soon(self._flush)


def _all_of(counts: Sequence[Callable[..., object]]) -> Callable[..., object] | None:
    if len(counts) < 2:
        return counts[0] if counts else None

    def count(*figures: Any) -> None:
        for each in counts:
            each(*figures)

    return count


def _overrides(observer: Observer, name: str) -> bool:
    return getattr(type(observer), name) is not getattr(Observer, name)
