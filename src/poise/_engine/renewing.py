"""Having other workers, or more or fewer of them, on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poise.checks import check_whole
from poise.errors import ConfigError, PoolClosed, ReplaceFailed
from poise.policies import check_size

if TYPE_CHECKING:
    from poise._engine.dispatcher import Dispatcher
    from poise._lanes.lane import Launcher
    from poise.policies import Size


def resize(dispatcher: Dispatcher, size: Size) -> None:
    """Ask for another number of workers.

    Raises:
        ConfigError, PoolClosed: see `Pool.resize`.
    """
    wanted = check_size("size", size)
    _check_may_change(dispatcher, "size", size)
    dispatcher.resize(wanted)
    dispatcher.supervisor.watch_shortage()


async def replace(dispatcher: Dispatcher, worker_id: int) -> int:
    """Have a worker replaced; returns the number of the new one once that works.

    Raises:
        ConfigError, PoolClosed, ReplaceFailed: see `Pool.replace`.
    """
    _check_may_change(dispatcher, "worker_id", worker_id)
    scheduler = dispatcher.scheduler
    renewal = dispatcher.replace(worker_id)
    if renewal is None:
        ready = ", ".join(str(each) for each in scheduler.fleet.ready) or "none"
        raise ConfigError("worker_id", worker_id, f"the number of a worker that is ready: {ready}")
    await dispatcher.watchers.until(lambda: renewal.is_over)
    if renewal.failure is not None:
        raise ReplaceFailed(renewal.failure) from renewal.cause
    if scheduler.worker(renewal.heir.id) is None and not scheduler.fleet.heals:
        raise PoolClosed("the pool was closed while a worker was being replaced")
    return renewal.heir.id


async def reload(dispatcher: Dispatcher, factory: Any, surge: int) -> None:
    """Have every worker replaced by one that this factory makes, and return when those that work are new.

    Raises:
        ConfigError, PayloadError, PoolClosed, ReplaceFailed: see `Pool.reload`.
    """
    check_whole("surge", surge, 0)
    reloading = dispatcher.scheduler.reloading
    _check_may_change(dispatcher, "factory", factory)
    given = launcher = None if factory is None else await _launcher(dispatcher, factory)
    while launcher is None or reloading.is_under_way:  # of several that have waited, another may have begun before this
        await dispatcher.watchers.until(lambda: not reloading.is_under_way or dispatcher.scheduler.is_closed)
        _check_may_change(dispatcher, "factory", factory)
        launcher = given or await _launcher(dispatcher, None)
    _check_may_change(dispatcher, "factory", factory)
    progress = dispatcher.reload(launcher, surge)
    await dispatcher.watchers.until(lambda: progress.is_over or not dispatcher.scheduler.fleet.heals)
    if progress.failure is not None:
        raise ReplaceFailed(progress.failure) from progress.cause
    if not progress.is_over:
        raise PoolClosed("the pool was closed while it was being reloaded")


async def _launcher(dispatcher: Dispatcher, factory: Any) -> Launcher:
    """What starts workers that this factory makes, or the one that the pool has now, asked anew, if None."""
    return await dispatcher.supervisor.launchers[dispatcher.scheduler.fleet.generation].again(factory)


def _check_may_change(dispatcher: Dispatcher, option: str, value: object) -> None:
    """Refuse what would start or end workers of a pool that has others', or that is closed.

    Raises:
        WrongLoop: this is another loop, or another thread.
        ConfigError: the workers are actors that existed before.
        PoolClosed: the pool takes nothing more.
    """
    dispatcher.check_loop()
    if not dispatcher.scheduler.replaces:
        raise ConfigError(option, value, "a pool of existing actors keeps those that it has")
    if dispatcher.scheduler.is_closed:
        raise PoolClosed("the pool is closed, and its workers stay as they are")
