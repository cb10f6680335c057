"""What is to go wrong in the workers of a test."""

from __future__ import annotations

import asyncio
import enum
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from poise._engine.call import name_of
from poise._lanes.lane import StartFailed
from poise.checks import check_whole

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_EVERY: Final = 0.001
"""Seconds between two looks at what the threads of workers have done."""


class Faults:
    """What is to go wrong in local workers. Write the script before the calls are made, or before the pool opens.

    Calls are counted as they begin, over all workers, each attempt by itself: the first that begins after a fault was
    added is its number 1.
    """

    def __init__(self) -> None:
        """Let nothing go wrong."""
        self._lock = threading.Lock()  # calls begin on the threads of workers
        self._begun: Counter[str] = Counter()
        self._planned: dict[tuple[str, int], Fault] = {}
        self._refusals: list[BaseException | None] = []

    def die(self, *, on_call: int = 1, function: Callable[..., Any] | str | None = None) -> None:
        """Let a worker die at the moment at which it begins this call.

        Args:
            on_call: which one, counted from now.
            function: count the calls of this function or method only; all calls if None.

        Raises:
            ConfigError: `on_call` is less than 1.
        """
        self._plan(Fault.DIE, on_call, function)

    def hang(self, *, on_call: int = 1, function: Callable[..., Any] | str | None = None) -> None:
        """Let this call never end, as if it were stuck in C code: it runs until its worker is killed.

        Args:
            on_call: which one, counted from now.
            function: count the calls of this function or method only; all calls if None.

        Raises:
            ConfigError: `on_call` is less than 1.
        """
        self._plan(Fault.HANG, on_call, function)

    def refuse_start(self, times: int = 1, *, cause: BaseException | None = None) -> None:
        """Let the next starts of workers fail.

        Args:
            times: how many of them.
            cause: what their constructor raises; None for a start that fails for a reason outside it.

        Raises:
            ConfigError: `times` is less than 1.
        """
        check_whole("times", times, 1)
        self._refusals.extend([cause] * times)

    @property
    def pending(self) -> int:
        """How many faults have not happened yet."""
        return len(self._planned) + len(self._refusals)

    async def happened(self, *, within: float = 10.0) -> None:
        """Wait until everything that was planned has gone wrong: a call that is to hang hangs then.

        Args:
            within: seconds of real time to wait.

        Raises:
            TimeoutError: not all of it happened in time.
        """
        try:
            async with asyncio.timeout(within):
                while self.pending:  # noqa: ASYNC110 - calls begin on threads, which would wake this late too
                    await asyncio.sleep(LOOK_EVERY)
        except TimeoutError:
            raise TimeoutError(f"{self.pending} faults did not happen within {within:g} s") from None

    def clear(self) -> None:
        """Let nothing more go wrong; what hangs goes on hanging."""
        with self._lock:
            self._planned.clear()
            self._refusals.clear()

    def __repr__(self) -> str:
        planned = [f"{name or 'any call'}, call {number}" for name, number in self._planned]
        planned += ["a start"] * len(self._refusals)
        return f"<Faults, still to happen: {'; '.join(planned) or 'none'}>"

    def _plan(self, fault: Fault, on_call: int, function: Callable[..., Any] | str | None) -> None:
        check_whole("on_call", on_call, 1)
        name = "" if function is None else _last_name(function)
        with self._lock:
            self._planned[name, self._begun[name] + on_call] = fault

    def on_begin(self, function: Callable[..., Any] | str) -> Fault | None:  # runs on the threads of workers
        """Asked by a worker before it begins a call: what goes wrong with it."""
        name = _last_name(function)
        with self._lock:
            self._begun.update((name, ""))
            faults = [self._planned.pop((each, self._begun[each]), None) for each in (name, "")]
        return faults[0] or faults[1]

    def on_start(self) -> None:
        """Asked by a worker that starts.

        Raises:
            StartFailed: it is to fail.
        """
        if self._refusals:
            cause = self._refusals.pop(0)
            raise StartFailed("refused by the test" if cause is None else _constructor_raised(cause)) from cause


class Fault(enum.Enum):
    """What goes wrong with a call."""

    DIE = "die"
    HANG = "hang"


def _last_name(function: Callable[..., Any] | str) -> str:
    return name_of(function).rpartition(".")[2]


def _constructor_raised(cause: BaseException) -> str:
    return f"the constructor raised {type(cause).__name__}: {cause}"
