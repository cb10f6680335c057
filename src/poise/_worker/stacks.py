"""What the threads and the tasks of a worker are doing, as Python sees it."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_RUNNER: Final = __file__.replace("stacks", "runner")
MOST: Final = 64 * 1024
"""Characters; what is beyond is left out."""


def stacks(names: str = "", loop: asyncio.AbstractEventLoop | None = None) -> str:
    """Each thread but the one that asks, and each task of a loop, with its innermost line last.

    Args:
        names: how the names of the threads begin.
        loop: that of the tasks.
    """
    frames = sys._current_frames()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] # documented, for debuggers
    parts: list[str] = []
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is not None and thread is not threading.current_thread() and thread.name.startswith(names):
            lines = traceback.extract_stack(frame)
            text = f"thread {thread.name}\n{''.join(lines.format())}"
            # Those that run calls come first.
            parts.insert(0 if any(line.filename == _RUNNER for line in lines) else len(parts), text)
    for task in () if loop is None or loop.is_closed() else asyncio.all_tasks(loop):
        coroutine: Any = task.get_coro()
        lines = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in _awaiting(coroutine))
        parts.append(f"task {task.get_name()}\n{''.join(lines.format())}")
    text = "\n".join(parts)
    return text if len(text) <= MOST else f"{text[:MOST]}\n..."


def _awaiting(coroutine: Any) -> Iterator[FrameType]:
    """The frames from a coroutine to what it awaits."""
    while coroutine is not None:
        kind = next((kind for kind in ("cr", "gi", "ag") if hasattr(coroutine, f"{kind}_frame")), None)
        if kind is None:
            return
        if (frame := getattr(coroutine, f"{kind}_frame")) is not None:
            yield frame
        coroutine = getattr(coroutine, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
