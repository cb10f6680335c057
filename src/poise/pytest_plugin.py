"""Fixtures for tests of code that uses poise. pytest loads them by itself where poise is installed.

`poise_pool` makes pools whose workers live in the test's process; `poise_local` makes every `poise.Pool` of the code
under test such a pool; `poise_clock` is a clock that stands still until the test moves it on. They work with any plugin
for asyncio.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poise.testing import Faults, LocalPool, ManualClock


@pytest.fixture
def poise_pool() -> Iterator[type[LocalPool[Any]]]:
    """Give `poise.testing.LocalPool`. Use it in `async with`.

    At the end of the test every one of them must have been closed, and a fault that was planned and has not happened is
    warned of: the name of its function may be misspelled.
    """
    from poise.testing import LocalPool

    made: list[LocalPool[Any]] = []

    class TrackedPool(LocalPool[Any]):
        __slots__ = ()

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    yield TrackedPool
    left = [pool for pool in made if pool.state not in ("new", "closed")]
    assert not left, f"these pools were not closed, use `async with`: {left}"
    for pool in made:
        if pool.faults.pending:
            warnings.warn(f"faults that were planned have not happened: {pool.faults!r}", stacklevel=1)


@pytest.fixture
def poise_clock() -> ManualClock:
    """A clock that stands still: hand it to `poise_pool(..., clock=poise_clock)`."""
    from poise.testing import ManualClock

    return ManualClock()


@pytest.fixture
def poise_local() -> Iterator[Faults]:
    """Let every `poise.Pool` that is made during the test have its workers in this process; gives its faults."""
    from poise.testing import local_pools

    with local_pools() as faults:
        yield faults
