"""The outcome of a future whose exception is the user's own, of which nothing is asked on the way."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, Final, TypeVar, cast

R = TypeVar("R")

_exception_of: Final = Future[Any].exception  # the class's own, since one that extends it may do more


def result_of(future: Future[R], timeout: float | None = None) -> R:
    """Wait for the result as `Future.result` does, which before Python 3.13 asks an exception whether it is true.

    One that is false would come back as the result None; one that raises when it is asked would come back as that.

    Args:
        future: one of the standard library's, or of a class that extends it.
        timeout: seconds to wait; None waits for ever.

    Raises:
        TimeoutError: it has not come in time.
        CancelledError: the future was cancelled.
        Exception: what the future was failed with.
    """
    error: BaseException | None = None
    try:
        error = _exception_of(future, timeout)
        if error is not None:
            raise error
        return cast("R", future._result)  # noqa: SLF001 - `result` would ask the lock and the state once more
    finally:
        del future, error  # an exception that is raised here must not hold the future that holds it
