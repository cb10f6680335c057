"""What a future of an executor ends with, where poise and the standard library differ: with what is both."""

from __future__ import annotations

from concurrent.futures import process
from concurrent.futures.process import BrokenProcessPool
from typing import Any, ClassVar

from poise._protocol.traces import RemoteTraceback
from poise._protocol.words import describe
from poise.errors import PoisonCall, PoolBroken, RemoteError, WorkerLost


class ExecutorBroken(PoolBroken, BrokenProcessPool):
    """No worker of the executor can start: its factory or its initializer raises, or Ray has no room for it.

    It is also a `concurrent.futures.process.BrokenProcessPool`. The worker's own exception, if there is one, is the
    `__cause__`.
    """


class ExecutorWorkerLost(WorkerLost, BrokenProcessPool):
    """A `WorkerLost` that is also what the original raises, but the executor goes on."""

    _again: ClassVar[str] = "submit it again"


class ExecutorPoisonCall(PoisonCall, BrokenProcessPool):
    """A `PoisonCall` that is also what the original raises, but the executor goes on."""


def broken(reason: Exception | None) -> ExecutorBroken:
    """A new error for each caller, so that none shares a traceback."""
    if isinstance(reason, PoolBroken):
        error = ExecutorBroken(reason.reason, reason.failures)
        error.__cause__ = reason.__cause__
    else:
        error = ExecutorBroken("the executor's thread has ended" if reason is None else describe(reason), 0)
        error.__cause__ = reason
    return error


def as_original(error: BaseException) -> BaseException:
    """The error of a call, such that a program that was written for the original knows it."""
    if isinstance(error, PoolBroken):
        return broken(error)
    if isinstance(error, RemoteError) and isinstance(error.__cause__, SystemExit | KeyboardInterrupt):
        error = error.__cause__
    elif type(error) is PoisonCall:
        error = ExecutorPoisonCall(error.worker_id, error.reason, error.deaths, error.function)
    elif type(error) is WorkerLost:
        error = ExecutorWorkerLost(error.worker_id, error.reason, started=error.started)
    cause = BaseException.__dict__["__cause__"]  # some exceptions refuse to be told by their own attribute
    trace = cause.__get__(error)
    if type(trace) is RemoteTraceback:
        original: Any = process
        cause.__set__(error, original._RemoteTraceback(str(trace)))  # noqa: SLF001 - programs ask for this very class
    return error
