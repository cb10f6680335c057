"""What an executor has its workers do beside the user's functions: settle in, an initializer, and chunks of `map`."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
from typing import TYPE_CHECKING, Any, ClassVar

from poise._protocol.functions import method_name, type_names
from poise._ray.options import unwrap_factory
from poise._ray.surroundings import Surroundings
from poise._worker.shelf import Absent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from poise.executor.broken import ExecutorBroken


@dataclasses.dataclass(frozen=True)
class Start:
    """A factory that settles in as a process of the caller's would, and first runs an initializer."""

    surroundings: Surroundings  # unpickled first, since modules that the others need may look around
    func: Callable[[], Any]  # by this name a worker's label is found
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    __poise_prints_plainly__: ClassVar[bool] = True  # as a process of the caller's would

    def __poise_parts__(self) -> list[tuple[str, Any]]:
        """What it is made of, for an error that says which part cannot travel."""
        return [("initargs", self.initargs), ("the initializer", self.initializer), ("the factory", self.func)]

    def __call__(self) -> Any:
        """Run the initializer, then make what the worker holds."""
        if self.initializer is not None:
            self.initializer(*self.initargs)
        return self.func()


def start(
    factory: Any, initializer: Callable[..., object] | None, initargs: tuple[Any, ...], ray_options: dict[str, Any]
) -> tuple[Start, dict[str, Any]]:
    """How a worker starts, and to Ray's options those that a class decorated with `@ray.remote` brings.

    Raises:
        ConfigError: the factory cannot be called without arguments.
    """
    plain, defaults = (functions, {}) if factory is None else unwrap_factory(factory)
    return Start(Surroundings(), plain, initializer, tuple(initargs)), {**defaults, **ray_options}


def functions() -> Absent:
    """The factory of workers that hold nothing."""
    return Absent()


def log_as_original(error: ExecutorBroken) -> None:
    """Say that the initializer has failed where the original says so, beside what poise logs."""
    if error.__cause__ is not None:
        logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=error.__cause__)


def run_chunk(function: Callable[..., Any], chunk: Sequence[tuple[Any, ...]]) -> Any:
    """Call the function for each item of a chunk."""
    if inspect.iscoroutinefunction(function):
        return _await_chunk(function, chunk)
    return [function(*args) for args in chunk]


def run_chunk_on(function: Callable[..., Any] | str, instance: object, chunk: Sequence[tuple[Any, ...]]) -> Any:
    """Call the function for each item of a chunk with the worker's instance."""
    return run_chunk(_bound(function, instance), chunk)


def _bound(function: Callable[..., Any] | str, instance: object) -> Callable[..., Any]:
    """The function with the instance as its first argument; the instance's own method if it is one."""
    name = function if isinstance(function, str) else method_name(function, frozenset(type_names(instance)))
    if name is not None:
        method: Callable[..., Any] = getattr(instance, name)
        return method
    assert callable(function)
    return functools.partial(function, instance)


async def _await_chunk(function: Callable[..., Any], chunk: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [await function(*args) for args in chunk]
