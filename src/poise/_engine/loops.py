"""The event loop that a pool needs, and what to say where there is none."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

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
