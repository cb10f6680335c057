"""What users of the original give that a pool is told otherwise, or cannot be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poise.errors import ConfigError
from poise.policies import Recycle

if TYPE_CHECKING:
    from collections.abc import Mapping


def recycle_of(max_tasks_per_child: Any, recycle: Recycle | None) -> Recycle | None:
    """When workers are replaced, by either name.

    Raises:
        TypeError: `max_tasks_per_child` is no whole number.
        ConfigError: it is less than 1, or both are given.
    """
    if max_tasks_per_child is None:
        return recycle
    if not isinstance(max_tasks_per_child, int):
        raise TypeError("max_tasks_per_child must be an integer")
    if max_tasks_per_child <= 0:
        raise ConfigError("max_tasks_per_child", max_tasks_per_child, "max_tasks_per_child must be >= 1")
    if recycle is not None:
        raise ConfigError(
            "max_tasks_per_child", max_tasks_per_child, "give it or recycle=, which has calls= and exact="
        )
    return Recycle(calls=int(max_tasks_per_child), jitter=0, exact=True)


def refuse_what_processes_have(options: Mapping[str, Any]) -> None:
    """Refuse options of `ProcessPoolExecutor` that have no meaning here.

    Raises:
        ConfigError: one is given; says why it cannot be had.
    """
    why = {
        "mp_context": "workers are Ray actors and are not started by multiprocessing; leave it out",
    }
    for name in why.keys() & options.keys():
        raise ConfigError(name, options[name], why[name])
