"""Memory that the caller shares with a worker on its own node: a file that both map and nobody keeps."""

from __future__ import annotations

import mmap
import os
from typing import Final

from poise._protocol.journal import JOURNAL_SIZE
from poise._protocol.marks import MARKS_SIZE

SIZE: Final = MARKS_SIZE + JOURNAL_SIZE


def memory_beside(path: str) -> str:
    """Where it lies for a worker whose socket is here."""
    return f"{path}.memory"


def make_memory(path: str) -> memoryview:
    """Make it, at a path in a directory that only this user can enter; the path may go once the worker has joined.

    Raises:
        OSError: there is no room for it.
    """
    with open(path, "x+b", opener=_private) as file:
        file.write(bytes(SIZE))  # not a hole: where the disk is full this fails, and not the access to memory later
        file.flush()
        return memoryview(mmap.mmap(file.fileno(), SIZE))


def join_memory(path: str) -> memoryview:
    """Share what the caller has made.

    Raises:
        OSError: it is not there.
    """
    with open(path, "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), SIZE))


def marks_of(memory: memoryview) -> memoryview:
    """The part of it that is for `Marks`."""
    return memory[:MARKS_SIZE]


def journal_of(memory: memoryview) -> memoryview:
    """The part of it that is for `Journal`."""
    return memory[MARKS_SIZE:]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
