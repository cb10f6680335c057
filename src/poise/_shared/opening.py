"""Which engine a process has that shares a pool with others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from poise._engine.engine import Engine
from poise._engine.launchers import LateLauncher, imports_later
from poise._protocol.functions import method_name
from poise._shared.engine import SharedEngine
from poise._shared.terms import check_name
from poise.checks import check_flag
from poise.errors import ConfigError
from poise.options import PoolOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poise._engine.runtime import Runtime
    from poise._lanes.lane import Launcher
    from poise.policies import Health

OWNER_STARTS: Final = 30.0
"""Seconds that an owner may take to start, beside `start_timeout` for its workers."""

_OF_CALLS_HERE: Final = frozenset({"context", "observers", "ray_init", "record", "traces"})
"""Options that are about the calls that this process makes, and about its own use of Ray."""

_JOINS: Final = frozenset({*_OF_CALLS_HERE, "start_timeout", "close_timeout"})
"""Options of whoever only joins."""


def opening_engine(runtime: Runtime, name: str, factory: Any, given: Mapping[str, Any]) -> Engine:
    """Describe a client that opens the pool if there is none; see `Pool.shared`.

    Raises:
        ConfigError: an option is outside its range, or is none of a shared pool's.
    """
    given = dict(given)
    is_detached: bool = given.pop("detached", False)
    check_flag("detached", is_detached)
    return _engine(runtime, check_name(name), factory, given, opens=True, is_detached=is_detached)


def joining_engine(runtime: Runtime, name: str, given: Mapping[str, Any]) -> Engine:
    """Describe a client that only joins; see `Pool.join`.

    Raises:
        ConfigError: an option is outside its range, or is none of a client's.
    """
    for option, value in given.items():
        if option in PoolOptions.__slots__ and option not in _JOINS:
            raise ConfigError(option, value, "who only joins takes the pool as it is; Pool.shared has this option")
    if not runtime.shares:
        raise ConfigError("name", name, "in this process each pool is for itself, for tests: there is none to join")
    return _engine(runtime, check_name(name), None, given, opens=False, is_detached=False)


def _engine(
    runtime: Runtime, name: str, factory: Any, given: Mapping[str, Any], *, opens: bool, is_detached: bool
) -> Engine:
    options = PoolOptions.of(given)
    if not runtime.shares:
        return Engine(runtime.launcher(factory, options), options, runtime)
    if options.logs != "ray":
        raise ConfigError("logs", options.logs, 'a shared pool leaves to Ray what its workers log: "ray"')
    of_pool = {option: value for option, value in given.items() if option not in _OF_CALLS_HERE}
    if options.size is not None and "size" in of_pool:
        of_pool["size"] = options.size  # two numbers, and bounds, are the same
    if options.health is not None:
        of_pool["health"] = _unpickled(options.health)
    own = PoolOptions(
        size=1,
        backlog=options.backlog,
        retry_budget=options.retry_budget,
        start_timeout=options.start_timeout + OWNER_STARTS,
        close_timeout=options.close_timeout,
        observers=options.observers,
        record=options.record,
        traces=options.traces,
        context=options.context,
    )

    def make() -> Launcher:
        from poise._shared.launcher import OwnerLauncher

        return OwnerLauncher(name, factory, of_pool, opens=opens, is_detached=is_detached, ray_init=options.ray_init)

    launcher = LateLauncher(f"shared {name}", make) if imports_later() else make()
    return SharedEngine(launcher, own, runtime)


def _unpickled(health: Health) -> Health:
    """The same, with nothing in it that the owner would have to unpickle.

    Raises:
        ConfigError: that cannot be.
    """
    if health.counts:
        raise ConfigError("health", health, "a shared pool's owner unpickles no exception: `counts` is for other pools")
    if health.check is None or isinstance(health.check, str):
        return health
    name = method_name(health.check)
    if name is None:
        raise ConfigError("health", health, "in a shared pool the check is a method of the workers' class, or its name")
    return replace(health, check=name)
