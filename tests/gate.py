"""A gate that holds calls in a worker, whichever process that is in, until the test opens it."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

PERIOD = 0.002
"""Seconds between two looks at a gate."""


class Gate:
    """The test's side. A gate is a pair of files: one that workers write their marks to, one that lets them pass."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    @property
    def marks(self) -> list[str]:
        """What passed `wait_at`, or only `leave_mark`, in the order in which it did, over all workers."""
        try:
            return Path(self.path + ".marks").read_text().splitlines()
        except FileNotFoundError:
            return []

    async def reached(self, count: int = 1, within: float = 60.0) -> list[str]:
        """Wait until so many marks were left."""
        async with asyncio.timeout(within):
            while len(self.marks) < count:
                await asyncio.sleep(PERIOD)
        return self.marks

    def open(self) -> None:
        """Let everybody pass, now and later."""
        Path(self.path).touch()


def leave_mark(gate: str, mark: object) -> None:
    """Note that something has been reached. Runs in workers."""
    marks = os.open(gate + ".marks", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(marks, f"{mark}\n".encode())
    finally:
        os.close(marks)


def wait_at(gate: str, mark: Any = "") -> None:
    """Leave a mark and wait until the gate is open. Runs in workers."""
    leave_mark(gate, mark)
    while not os.path.exists(gate):
        time.sleep(PERIOD)


async def wait_at_async(gate: str, mark: Any = "") -> None:
    """The same for a coroutine."""
    leave_mark(gate, mark)
    while not os.path.exists(gate):  # noqa: ASYNC240
        await asyncio.sleep(PERIOD)


def count_until_closed(gate: str) -> Generator[int]:
    """Leave a mark for each number as it is made, and one for the end. Runs in workers."""
    number = 0
    try:
        while True:
            leave_mark(gate, number)
            yield number
            number += 1
    finally:
        leave_mark(gate, "closed")
