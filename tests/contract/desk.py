"""What the workers of the contract hold: an instance that does as it is told and keeps a record of it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.gate import count_until_closed, leave_mark, wait_at, wait_at_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    import poise


class Desk:
    """Counts how many calls it runs at once, so that it can bear witness (G3)."""

    def __init__(self, delay: float = 0.0) -> None:
        self.name = uuid.uuid4().hex
        self.delay = delay
        self.total = 0
        self.at_once = 0
        self.most_at_once = 0
        self.runs = 0
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        with self.lock:
            self.runs += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            yield
        finally:
            with self.lock:
                self.at_once -= 1

    # ---------------------------------------------------------------- values

    def who(self) -> str:
        with self.busy():
            return self.name

    def echo(self, value: Any) -> Any:
        with self.busy():
            return value

    def add(self, amount: int) -> int:
        with self.busy():
            self.total += amount
            return self.total

    def join(self, /, *parts: str, sep: str = "-", **named: str) -> str:
        return sep.join([*parts, *(f"{key}={value}" for key, value in named.items())])

    def slow(self, value: Any, seconds: float = 0.02) -> tuple[str, Any]:
        with self.busy():
            time.sleep(seconds or self.delay)
            return self.name, value

    def uneven(self, value: Any) -> tuple[str, Any]:
        with self.busy():
            time.sleep(self.delay)
            return self.name, value

    def witness(self) -> tuple[str, int, int]:
        """Name, most calls at once, calls in all."""
        return self.name, self.most_at_once, self.runs

    async def async_echo(self, value: Any) -> Any:
        with self.busy():
            await asyncio.sleep(0)
            return value

    # ---------------------------------------------------------------- held by the test

    def hold(self, gate: str, mark: Any = "") -> Any:
        with self.busy():
            wait_at(gate, mark)
            return mark

    async def async_hold(self, gate: str, mark: Any = "") -> Any:
        with self.busy():
            try:
                await wait_at_async(gate, mark)
            except asyncio.CancelledError:
                leave_mark(gate, f"{mark} cancelled")
                raise
            return mark

    def hold_at_zero(self, job: tuple[str, int]) -> int:
        gate, number = job
        if number == 0:
            wait_at(gate, "held")
        return number

    def mark(self, gate: str, mark: Any) -> Any:
        leave_mark(gate, mark)
        return mark

    def pass_or_keep(self, value: Any, fifo: str | None) -> Any:
        """Return at once, or first keep the interpreter to itself, as C code does, until something is written."""
        with self.busy():
            if fifo is not None:
                pipe = os.open(fifo, os.O_RDWR)
                ctypes.PyDLL(None).read(pipe, ctypes.create_string_buffer(1), 1)
                os.close(pipe)
            return value

    # ---------------------------------------------------------------- failures

    def fail(self, error: BaseException) -> None:
        raise error

    def fail_first(self, gate: str, times: int) -> int:
        """Raise ValueError so often, counted over all workers, then return the count."""
        leave_mark(gate, "try")
        with open(gate + ".marks") as marks:
            tries = len(marks.readlines())
        if tries <= times:
            raise ValueError(f"try {tries}")
        return tries

    # ---------------------------------------------------------------- streams

    def count(self, end: int) -> Iterator[int]:
        yield from range(end)

    async def async_count(self, end: int) -> AsyncIterator[int]:
        for number in range(end):
            await asyncio.sleep(0)
            yield number

    def numbers(self, end: int) -> list[int]:
        return list(range(end))

    async def async_numbers(self, end: int) -> list[int]:
        await asyncio.sleep(0)
        return list(range(end))

    def endless(self, gate: str) -> Iterator[int]:
        yield from count_until_closed(gate)

    async def async_endless(self, gate: str) -> AsyncIterator[int]:
        with contextlib.closing(count_until_closed(gate)) as numbers:
            for number in numbers:
                yield number
                await asyncio.sleep(0)

    def count_then_fail(self, end: int) -> Iterator[int]:
        yield from range(end)
        raise ValueError("in the middle")

    async def async_count_then_fail(self, end: int) -> AsyncIterator[int]:
        for number in range(end):
            yield number
        raise ValueError("in the middle")

    def count_then_hold(self, end: int, gate: str) -> Iterator[int]:
        try:
            yield from range(end)
            wait_at(gate, "held")
            yield end
        finally:
            leave_mark(gate, "closed")


class Picky(Desk):
    """A subclass that overrides a method."""

    def echo(self, value: Any) -> Any:
        return ["picky", value]


async def is_idle(pool: poise.Pool[Any]) -> None:
    """Wait until no call waits and no worker holds one. Runs in the test."""
    async with asyncio.timeout(60):
        while pool.stats().in_flight or pool.stats().waiting:
            await asyncio.sleep(0.002)


async def until(
    pool: poise.Pool[Any], predicate: Callable[[poise.Stats], bool], *, within: float = 60.0
) -> poise.Stats:
    """Wait until this is true of the pool, and return its numbers then. Runs in the test."""
    async with asyncio.timeout(within):
        while not predicate(pool.stats()):
            await asyncio.sleep(0.005)
    return pool.stats()


def break_constructor(gate: str) -> None:
    """Have no more of a class be made that looks whether it is so, with `check_constructor`."""
    Path(f"{gate}.broken").touch()


def mend_constructor(gate: str) -> None:
    """Have them made again."""
    Path(f"{gate}.broken").unlink()


def check_constructor(gate: str) -> None:
    """Fail while there is to be none."""
    if Path(f"{gate}.broken").exists():
        raise LookupError("no such model")
