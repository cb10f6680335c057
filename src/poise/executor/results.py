"""The results of `Executor.map`, in order and no longer alive than they are needed."""

from __future__ import annotations

import itertools
import time
from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from concurrent import futures

R = TypeVar("R")


def in_order(calls: Iterator[futures.Future[R]], buffersize: int | None, deadline: float | None) -> Iterator[R]:
    """Submit now, as far as the buffer reaches, and give the results as they are asked for."""
    return _results(deque(itertools.islice(calls, buffersize)), calls, deadline)


def _results(out: deque[futures.Future[R]], calls: Iterator[futures.Future[R]], deadline: float | None) -> Generator[R]:
    try:
        while out:
            out.extend(itertools.islice(calls, 1))
            yield _result_of(
                out.popleft(), deadline
            )  # no name, or the result would live until the next one is asked for
    finally:
        for future in out:
            future.cancel()


def _result_of(future: futures.Future[R], deadline: float | None) -> R:
    try:
        try:
            return future.result(None if deadline is None else deadline - time.monotonic())
        finally:
            future.cancel()
    finally:
        del future  # an exception that is raised here must not hold the future that holds it


def flat(chunks: Iterator[list[R]]) -> Generator[R]:
    """The items of the lists, none of which is kept once it has been given."""
    for chunk in chunks:
        chunk.reverse()
        while chunk:
            yield chunk.pop()
