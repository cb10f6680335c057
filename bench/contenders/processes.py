"""Process pools of one machine, through `run_in_executor`."""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
from abc import abstractmethod
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

from bench import worker
from bench.contenders.contender import Contender, Missing

if TYPE_CHECKING:
    from collections.abc import Sequence


def _installed(name: str) -> Any:
    """A package that the bench may have."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Missing(str(error)) from None


class _Executor(Contender):
    needs_ray = False

    def __init__(self) -> None:
        self._executor: Executor | None = None

    @abstractmethod
    def make(self, workers: int) -> Executor:
        """Make the executor."""

    async def open(self, workers: int) -> None:
        """Start all processes: they are started by work."""
        self._executor = self.make(workers)
        await self.together("sleep", [0.2] * workers)

    async def call(self, method: str, *args: Any) -> Any:
        """`run_in_executor`."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, worker.call, method, *args)

    async def together(self, method: str, values: Sequence[Any]) -> Sequence[Any]:
        """Gather the futures that `run_in_executor` gives."""
        run = asyncio.get_running_loop().run_in_executor
        return await asyncio.gather(*[run(self._executor, worker.call, method, value) for value in values])

    async def close(self) -> None:
        """End the processes."""
        if self._executor is not None:
            await asyncio.to_thread(self._executor.shutdown)


class Processes(_Executor):
    """`concurrent.futures.ProcessPoolExecutor`."""

    key = "processes"
    label = "ProcessPoolExecutor"

    def make(self, workers: int) -> Executor:
        """Spawn, because a fork of a process in which Ray's threads run may hang."""
        return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


class Loky(_Executor):
    """`loky.ProcessPoolExecutor`."""

    key = "loky"
    label = "loky"

    def make(self, workers: int) -> Executor:
        """As joblib uses it."""
        executor: Executor = _installed("loky").ProcessPoolExecutor(workers)
        return executor


class Pebble(Contender):
    """`pebble.ProcessPool`, whose calls can have timeouts that end the process."""

    key = "pebble"
    label = "pebble.ProcessPool"
    needs_ray = False

    def __init__(self) -> None:
        self._pool: Any = None

    async def open(self, workers: int) -> None:
        """Start all processes: they are started by work."""
        self._pool = _installed("pebble").ProcessPool(workers, context=multiprocessing.get_context("spawn"))
        await self.together("sleep", [0.2] * workers)

    async def call(self, method: str, *args: Any) -> Any:
        """Wrap the future of `schedule`."""
        return await asyncio.wrap_future(self._pool.schedule(worker.call, args=(method, *args)))

    async def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.close()
            await asyncio.to_thread(self._pool.join, 10)


class Anyio(Contender):
    """`anyio.to_process.run_sync`, whose processes are idle or have one call each."""

    key = "anyio"
    label = "anyio.to_process.run_sync"
    needs_ray = False

    async def open(self, workers: int) -> None:
        """Start all processes: they are started by work."""
        self._run = _installed("anyio.to_process").run_sync
        self._limiter = _installed("anyio").CapacityLimiter(workers)
        await self.together("sleep", [0.2] * workers)

    async def call(self, method: str, *args: Any) -> Any:
        """As its users do, with a limiter of as many as there are workers."""
        return await self._run(worker.call, method, *args, limiter=self._limiter)

    async def close(self) -> None:
        """Nothing: the processes end with the loop, as anyio has it."""
