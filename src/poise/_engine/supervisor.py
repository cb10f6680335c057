"""The supervisor: starts workers and ends them, when the scheduler says so."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol

from poise._engine.clock import alarm
from poise._lanes.lane import StartFailed, undo_start

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from poise._engine.checks import Checks
    from poise._engine.clock import Clock
    from poise._lanes.lane import Lane, Launcher

logger = logging.getLogger("poise")

SHORTAGE_AFTER = 3.0
"""Seconds after which a worker that still waits for a place is worth a warning."""


class Owner(Protocol):
    """What the supervisor tells of its workers: the dispatcher's side."""

    loop: asyncio.AbstractEventLoop
    clock: Clock
    lanes: dict[int, Lane]
    checks: Checks | None

    def worker_ready(self, worker_id: int, lane: Lane) -> bool:
        """A worker has started; False if it is not wanted any more."""
        ...

    def worker_lost(self, worker_id: int, reason: str, cause: BaseException | None = None) -> None:
        """A worker is dead, or could not start."""

    def no_room(self, worker_id: int, shortage: str) -> None:
        """A spare one waits for room; nothing is to be done if it is none any more."""


class Supervisor:
    """Performs `Start` and `Kill`. Every asyncio task of a pool is one of its own, and it waits for all of them."""

    def __init__(self, launcher: Launcher, owner: Owner, start_timeout: float, close_timeout: float) -> None:
        self.launchers: dict[int, Launcher] = {0: launcher}
        """What starts the workers of each generation."""
        self._owner = owner
        self._start_timeout = start_timeout
        self._close_timeout = close_timeout
        self._starting: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._given_up: set[asyncio.Task[None]] = set()
        """Starts that were told to end and have not."""
        self._is_closing = False
        self._last_warning = ""

    def use(self, launcher: Launcher, generation: int, kept: set[int]) -> None:
        """Start the workers of a new generation by this; of the others these may still be asked for."""
        self.launchers = {number: each for number, each in self.launchers.items() if number in kept}
        self.launchers[generation] = launcher

    def start(self, worker_id: int, *, generation: int = 0, is_spare: bool = False) -> None:
        """Start a worker; its owner hears of the outcome, and of a lack of room for a spare one."""
        launcher = self.launchers[generation]
        work = self._start_spare(worker_id, launcher) if is_spare else self._start(worker_id, launcher)
        task = self._spawn(work)
        self._starting[worker_id] = task
        task.add_done_callback(lambda _: self._starting.pop(worker_id, None))

    def end(self, worker_id: int, reason: str, *, gently: bool) -> None:
        """End a worker, in whatever state it is; its owner hears that it is lost once it is gone.

        Args:
            worker_id: which.
            reason: why, for its owner.
            gently: let it close what it holds before.
        """
        start = self._starting.pop(worker_id, None)
        if start is not None:
            start.cancel()
            self._given_up.add(start)
            start.add_done_callback(self._given_up.discard)
        lane = self._owner.lanes.pop(worker_id, None)
        if lane is not None:
            ending = lane.close(self._close_timeout) if gently else lane.kill()
            self._spawn(self._end(worker_id, ending, reason))

    def bury(self, lane: Lane) -> None:
        """Clear up what a dead worker has left."""
        self._spawn(lane.kill())

    def watch_shortage(self) -> None:
        """Warn, once it is clear, of a resource that workers wait for."""
        self._spawn(self._watch_shortage())

    async def aclose(self, until: float) -> None:
        """Wait until every worker that was told to end is gone, or until this time of the loop."""
        for task in self._starting.values():
            task.cancel()
        self._is_closing = True
        began = self._owner.loop.time()
        while self._tasks and (remaining := until - self._owner.loop.time()) > 0:
            await asyncio.wait(self._tasks, timeout=remaining)
            await asyncio.sleep(0)  # lets the callbacks that take finished tasks out of the set run
        if self._tasks:
            left = len(self._tasks)
            logger.warning("%d workers have not ended within %.1f s and are left behind", left, until - began)
            for task in self._tasks:
                task.cancel()

    async def _start(self, worker_id: int, launcher: Launcher) -> None:
        owner = self._owner
        try:
            lane = await self._launch_in_time(worker_id, launcher)
        except StartFailed as failure:
            owner.worker_lost(worker_id, str(failure), failure.__cause__)
        except Exception as error:
            # Whatever else a launcher meets (Ray went away, a bug): the pool must hear of it, or its callers hang.
            logger.exception("worker %d could not be started", worker_id)
            owner.worker_lost(worker_id, f"{type(error).__name__}: {error}", error)
        else:
            if not owner.worker_ready(worker_id, lane):
                self._spawn(lane.close(self._close_timeout))

    async def _start_spare(self, worker_id: int, launcher: Launcher) -> None:
        """Start a worker beside the one that it is to replace, and notice if there is no room for both.

        What Ray says is free is a moment old, and does not count what it has just given to this very worker. So nothing
        follows from it before the worker has had a while.
        """
        if await launcher.has_room():
            await self._start(worker_id, launcher)
            return
        watch = self._spawn(self._watch_spare(worker_id, launcher))
        try:
            await self._start(worker_id, launcher)
        finally:
            watch.cancel()

    async def _watch_spare(self, worker_id: int, launcher: Launcher) -> None:
        await asyncio.sleep(SHORTAGE_AFTER)
        if shortage := await launcher.shortage():
            self._owner.no_room(worker_id, shortage)

    async def _launch_in_time(self, worker_id: int, launcher: Launcher) -> Lane:
        launch = self._owner.loop.create_task(self._launch(worker_id, launcher))
        late: asyncio.Future[None] = self._owner.loop.create_future()
        timer = alarm(self._owner.clock, self._start_timeout, late, None)
        try:
            both: set[asyncio.Future[Any]] = {launch, late}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if launch.cancelled():
                raise StartFailed("its start was cancelled")  # noqa: TRY301 (the handler below clears up)
            if launch.done():
                return launch.result()
            reason = f"it was not ready after start_timeout={self._start_timeout:g} s"
            shortage = await launcher.shortage()
            if self._owner.checks is not None and self._owner.checks.is_first(worker_id):
                reason += ", because its first check had not ended"
            if shortage:
                self._warn(shortage)
                self._owner.no_room(worker_id, shortage)
            raise StartFailed(f"{reason}: {shortage}" if shortage else reason)  # noqa: TRY301
        except BaseException:
            # In a task of its own: the pool may be closed meanwhile, which cancels this one.
            await asyncio.shield(self._spawn(self._give_up(launch)))
            raise
        finally:
            timer.cancel()

    async def _launch(self, worker_id: int, launcher: Launcher) -> Lane:
        """Start a worker, and see whether it is well."""
        lane = await launcher.launch(worker_id)
        if (checks := self._owner.checks) is None:
            return lane
        try:
            await checks.first(worker_id, lane)
        except BaseException:
            await undo_start(lane, self._close_timeout)
            raise
        finally:
            checks.forget(worker_id)
        return lane

    async def _give_up(self, launch: asyncio.Task[Lane]) -> None:
        launch.cancel()
        await asyncio.wait({launch})
        if not launch.cancelled() and launch.exception() is None:
            await launch.result().close(self._close_timeout)  # it was ready at the very moment of giving it up

    async def _end(self, worker_id: int, ending: Coroutine[None, None, None], reason: str) -> None:
        try:
            if self._is_closing and self._given_up:
                # Room that comes free now would be given to them, when they are about to be ended themselves.
                await asyncio.wait(list(self._given_up))
            await ending
        finally:
            self._owner.worker_lost(worker_id, reason)

    async def _watch_shortage(self) -> None:
        starts = list(self._starting.values())
        if not starts:
            return
        _, late = await asyncio.wait(starts, timeout=SHORTAGE_AFTER)
        if late:
            for launcher in list(self.launchers.values()):
                if shortage := await launcher.shortage():
                    self._warn(shortage)

    def _warn(self, shortage: str) -> None:
        """Say what is missing, once for each different message."""
        if shortage != self._last_warning:
            self._last_warning = shortage
            ready = len(self._owner.lanes)
            logger.warning("the pool runs with %d workers, and the others cannot start: %s", ready, shortage)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._owner.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
