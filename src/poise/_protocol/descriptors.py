"""What a forked child must not have: the connections of the process that it is a copy of.

As long as a child holds an end of a connection, the other end cannot see that the process has died; and what the child
wrote there would be taken for the process's own words. Python's sockets are closed by `exec`, so this is about children
that go on without it: `os.fork`, and `multiprocessing` by fork. A child that C code forks is not seen here.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Protocol


class Holder(Protocol):
    """What holds a descriptor."""

    def fileno(self) -> int:
        """Return it, or -1 once it is closed."""
        ...


_kept: weakref.WeakSet[Holder] = weakref.WeakSet()


def keep_from_children(holder: Holder) -> None:
    """Let a forked child find nothing behind this descriptor, for as long as its holder lives."""
    _kept.add(holder)


def _let_go() -> None:
    """Put nothing in the place of each descriptor: if its number were free, a destructor could close another file."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for holder in list(_kept):
        with contextlib.suppress(OSError, ValueError):  # it is closed
            if (descriptor := holder.fileno()) >= 0:
                os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


os.register_at_fork(after_in_child=_let_go)
