"""Pools whose workers live in the process of the test."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, overload

from poise._engine.runtime import Runtime, living_in
from poise._ray.options import unwrap_factory
from poise.options import PoolOptions
from poise.pool import Pool
from poise.testing.faults import LOOK_EVERY, Faults
from poise.testing.launcher import LocalLauncher

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Unpack

    from poise._engine.clock import Clock
    from poise.options import WorkerArguments
    from poise.policies import Size
    from poise.pool import RemoteClass
    from poise.stats import Stats
    from poise.testing.clock import ManualClock

T = TypeVar("T")


class LocalPool(Pool[T]):
    """A pool whose workers live in threads of this process: a `Pool` in all else.

    Attributes:
        faults: what is to go wrong.
        clock: the clock that it was given, or None if it lives in real time.
    """

    __slots__ = ("clock", "faults", "launcher")

    @overload
    def __init__(
        self: LocalPool[None],
        factory: None = None,
        /,
        *,
        size: Size | None = 2,
        clock: ManualClock | None = None,
        faults: Faults | None = None,
        **options: Unpack[WorkerArguments],
    ) -> None: ...
    @overload
    def __init__(
        self,
        factory: Callable[[], T],
        /,
        *,
        size: Size | None = 2,
        clock: ManualClock | None = None,
        faults: Faults | None = None,
        **options: Unpack[WorkerArguments],
    ) -> None: ...
    @overload
    def __init__(
        self: LocalPool[Any],
        factory: RemoteClass,
        /,
        *,
        size: Size | None = 2,
        clock: ManualClock | None = None,
        faults: Faults | None = None,
        **options: Unpack[WorkerArguments],
    ) -> None: ...
    def __init__(
        self,
        factory: Any = None,
        /,
        *,
        size: Size | None = 2,
        clock: ManualClock | None = None,
        faults: Faults | None = None,
        **options: Unpack[WorkerArguments],
    ) -> None:
        """Describe a pool as `Pool` does; `lane`, `link_timeout`, `ray_options` and `ray_init` are checked only.

        Args:
            factory: makes what a worker holds. It is called as it is, so it may share with the test what could not
                be pickled, such as a `threading.Event`.
            size: how many workers, or the fewest and the most; 2 if None.
            clock: what tells the pool the time, for tests that move it on. Nothing is sent ahead then, so that where a
                call runs does not hang on how fast the last one was.
            faults: what is to go wrong, if it is written before the pool is made.
            options: the rest, as `Pool` takes it.

        Raises:
            ConfigError: an option is outside its range.
        """
        self.clock: ManualClock | None = clock
        self.faults: Faults = Faults() if faults is None else faults
        settings = PoolOptions.of({"size": size, **options})
        runtime = LocalRuntime(self.faults, clock)
        self.launcher: LocalLauncher = runtime.launcher(factory, settings)
        """Finer levers: hold a start, hold what a worker says, leave no room."""
        self._live(self.launcher, settings, runtime)

    def crash(self, worker_id: int, reason: str = "crashed by the test") -> None:
        """Let a worker die now. `stats().workers` has the numbers of those that live.

        Raises:
            KeyError: there is no such worker.
        """
        self.launcher.lanes[worker_id].crash(reason)

    def grow(self, worker_id: int, resident: int) -> None:
        """Let a worker say that its resident set is so many bytes, more than `Recycle(memory=)` lets it have.

        It does not look by itself: all workers here are one process.

        Raises:
            KeyError: there is no such worker.
        """
        self.launcher.lanes[worker_id].grow(resident)

    async def until(self, predicate: Callable[[Stats], bool], *, within: float = 10.0) -> Stats:
        """Wait until the pool is in a certain state, for example until a call runs.

        Args:
            predicate: asked again and again, about every millisecond.
            within: seconds of real time to wait, also with a manual clock.

        Returns:
            The first snapshot for which it was true.

        Raises:
            TimeoutError: it was not true in time; shows the last snapshot.
        """
        try:
            async with asyncio.timeout(within):
                while not predicate(stats := self.stats()):  # noqa: ASYNC110 - a look at what is no event
                    await asyncio.sleep(LOOK_EVERY)
        except TimeoutError:
            raise TimeoutError(f"this was not reached within {within:g} s; the pool is at {self.stats()}") from None
        return stats


@contextmanager
def local_pools(*, clock: ManualClock | None = None) -> Generator[Faults]:
    """Within the block every `poise.Pool` that is made has its workers in this process, as a `LocalPool` has.

    For code that makes its own pool, such as the lifespan of a web application.

    Args:
        clock: what tells these pools the time.

    Yields:
        What is to go wrong in them.
    """
    faults = Faults()
    with living_in(LocalRuntime(faults, clock)):
        yield faults


class LocalRuntime(Runtime):
    """Threads of this process instead of Ray's, and a clock of the test's own if it has one."""

    shares = False

    def __init__(self, faults: Faults, clock: ManualClock | None) -> None:
        """Let this go wrong, and this tell the time."""
        self._faults = faults
        self._clock = clock

    def launcher(self, factory: Callable[[], Any] | RemoteClass | None, settings: PoolOptions) -> LocalLauncher:
        """What starts the workers. With a clock of its own nothing is sent ahead, which goes by real time."""
        return LocalLauncher(
            None if factory is None else unwrap_factory(factory)[0],
            concurrency=settings.concurrency,
            sends_ahead=self._clock is None,
            writable=settings.writable,
            faults=self._faults,
        )

    def clock(self, loop: asyncio.AbstractEventLoop) -> Clock:
        """The test's clock, or real time."""
        return loop if self._clock is None else self._clock
