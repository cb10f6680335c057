"""What workers log, as it comes to the caller: it reaches the loggers of the same names here."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final

from poise._lanes.door import Door
from poise._protocol.records import unpack_record
from poise._protocol.words import describe

if TYPE_CHECKING:
    from concurrent.futures import Future

    from poise._lanes.actor import Actor
    from poise._protocol.records import Levels, LogBatch

_log = logging.getLogger("poise")

LEVELS_EVERY: Final = 1.0
"""Seconds after which workers are told of levels that have changed, and the log how many records were dropped."""

AT_ONCE: Final = 50
"""Records that are handled in one turn of the loop: a millisecond or two, if the handlers are quick."""

MOST_RECORDS: Final = 10_000
"""That wait for their turn."""


def levels_here() -> Levels:
    """The levels of this process, but those of Ray's own loggers, which its processes have for themselves."""
    manager = logging.Logger.manager
    levels = {"": logging.getLogger().level}
    for name, logger in list(manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and logger.level and name.partition(".")[0] != "ray":
            levels[name] = logger.level
    return manager.disable, levels


class Logs:
    """The logs of one pool's workers."""

    def __init__(self) -> None:
        self._actors: weakref.WeakSet[Actor] = weakref.WeakSet()
        """Those that are to hear of other levels; a pool that is forgotten unclosed is not kept by its timer."""
        self._levels: Levels = (0, {})
        self._timer: asyncio.TimerHandle | None = None
        # Invariant: there is a timer if there are actors; one that finds none is the last.
        self._waiting: deque[tuple[int, bytes]] = deque()
        """Records that have come, each with its worker: more of them than are handled in one turn of the loop."""
        self._allowed = AT_ONCE
        """How many may be handled in this turn. Invariant: it is `AT_ONCE` if no turn of `_go_on` is to come."""
        self._dropped: Counter[int] = Counter()
        """How many were dropped of each worker and not spoken of."""

    def add(self, actor: Actor) -> None:
        """Tell this worker, too, when levels change; it knows those that were there when it was asked for."""
        self._actors.add(actor)
        if self._timer is None:
            self._levels = levels_here()
            self._look_later()
        actor.tell("set_levels", levels_here())

    def remove(self, actor: Actor) -> None:
        """Tell it nothing more."""
        self._actors.discard(actor)
        if not self._actors and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def hear(self, worker_id: int, batch: LogBatch) -> None:
        """Handle these records, as if they were logged here, at once if they are few. Never raises."""
        rows, dropped = batch
        room = MOST_RECORDS - len(self._waiting)
        self._waiting.extend((worker_id, row) for row in rows[:room])
        if dropped or len(rows) > room:
            self._dropped[worker_id] += dropped + max(0, len(rows) - room)
        if self._allowed == AT_ONCE:
            asyncio.get_running_loop().call_soon(self._go_on)
        self._handle_some()

    async def settle(self) -> None:
        """Handle all that has come by now: a worker has ended. Answers are heard in between."""
        for number in range(len(self._waiting)):
            if number % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
            if self._waiting:
                self._handle_next()
        self._say_dropped()

    def _go_on(self) -> None:
        self._allowed = AT_ONCE
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._go_on)
            self._handle_some()
        else:
            self._say_dropped()

    def _handle_some(self) -> None:
        """Handle as many as this turn may, so that answers are heard in between."""
        while self._waiting and self._allowed > 0:
            self._allowed -= 1
            self._handle_next()

    def _handle_next(self) -> None:
        worker_id, row = self._waiting.popleft()
        try:
            _handle(row, worker_id)
        except Exception as error:  # noqa: BLE001 - a filter of the user's may raise anything
            _log.warning("what worker %d has logged could not be handled: %s", worker_id, describe(error))

    def _say_dropped(self) -> None:
        dropped, self._dropped = self._dropped, Counter()
        for worker_id, count in dropped.items():
            text = "worker %d logged faster than it could be heard: %d of its records were dropped"
            _log.warning(text, worker_id, count)

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LEVELS_EVERY, self._look)

    def _look(self) -> None:
        self._timer = None
        self._say_dropped()
        if not self._actors:
            return
        levels = levels_here()
        if levels != self._levels:
            self._levels = levels
            for actor in list(self._actors):
                actor.tell("set_levels", levels)
        self._look_later()


def _handle(row: bytes, worker_id: int) -> None:
    record = unpack_record(row)
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):  # it may have changed since the worker was told
        record.__dict__.setdefault("worker", worker_id)  # one that came through a pool in that worker has its own
        logger.handle(record)


class Pull:
    """Brings by Ray what a worker logs while it has no connection."""

    def __init__(self, actor: Actor, logs: Logs) -> None:
        """Ask for nothing yet."""
        self._actor = actor
        self._logs = logs
        self._door: Door[Future[Any]] = Door(asyncio.get_running_loop(), self._hear)
        self._under_way: Any = None
        """A reference that is dropped never answers."""
        self.over: asyncio.Event = asyncio.Event()
        """Set when nothing more will come so."""

    def ask(self) -> None:
        """Have the next records brought when there are some."""
        if not self._actor.may_call():
            self.over.set()
            return
        self._under_way = self._actor.call("logs")
        self._under_way.future().add_done_callback(self._door.way_in())

    def _hear(self, futures: list[Future[Any]]) -> None:
        for future in futures:
            if future.exception() is not None or (batch := future.result()) is None:
                self.over.set()
            else:
                self.ask()
                self._logs.hear(self._actor.worker_id, batch)
