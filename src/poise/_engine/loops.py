"""The event loop that a pool needs, and what to say where there is none."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import Any

from poise._ray.forks import forked_error
from poise.errors import WrongLoop


def running_loop() -> asyncio.AbstractEventLoop:
    """The loop that runs here.

    Raises:
        WrongLoop: none does.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        trio = trio_here()
        where = trio or (
            "none runs here: open it in a coroutine, for example one that asyncio.run() is given; poise.Executor is a "
            "pool for code without a loop"
        )
        raise WrongLoop(f"a pool needs an asyncio event loop, and {where}") from None


def check_loop(loop: asyncio.AbstractEventLoop, thread: int, process: int) -> None:
    """Refuse to be used from anywhere but the loop that opened a pool, in the thread and the process where it runs.

    Raises:
        WrongLoop: this is another loop, or another thread.
    """
    try:
        if asyncio.get_running_loop() is loop:
            return
        where = "another event loop"
    except RuntimeError:
        if os.getpid() != process:
            raise forked_error(process, "which has opened this pool") from None
        where = "a thread in which no event loop runs"
        if threading.get_ident() == thread:
            where = "outside a coroutine of it (in IPython in a terminal a cell without an `await` runs outside)"
        where = trio_here() or where
    raise WrongLoop(
        f"this pool belongs to the event loop that opened it, and was used from {where}; "
        "open a pool there too, or hand the call over with asyncio.run_coroutine_threadsafe"
    )


def trio_here() -> str:
    """What to do about it if trio runs here; "" if it does not."""
    trio: Any = sys.modules.get("trio")
    try:
        if trio is None or trio.lowlevel.current_task() is None:
            return ""
    except RuntimeError:  # so it is imported, and does not run here
        return ""
    return (
        "here runs trio: use poise.Executor and `await trio.to_thread.run_sync(executor.submit(f, x).result)`; with "
        'anyio run on asyncio, anyio.run(main, backend="asyncio")'
    )
