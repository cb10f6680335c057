"""The error of an executor none of whose workers can start."""

from __future__ import annotations

from concurrent import futures

from poise._protocol.words import describe
from poise.errors import PoolBroken


class ExecutorBroken(PoolBroken, futures.BrokenExecutor):
    """No worker of the executor can start: its factory or its initializer raises, or Ray has no room for it.

    It is also a `concurrent.futures.BrokenExecutor`. The worker's own exception, if there is one, is the `__cause__`.
    """


def broken(reason: Exception | None) -> ExecutorBroken:
    """A new error for each caller, so that none shares a traceback."""
    if isinstance(reason, PoolBroken):
        error = ExecutorBroken(reason.reason, reason.failures)
        error.__cause__ = reason.__cause__
    else:
        error = ExecutorBroken("the executor's thread has ended" if reason is None else describe(reason), 0)
        error.__cause__ = reason
    return error
