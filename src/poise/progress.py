"""A live bar for `map(progress=True)`, drawn by rich."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sized
from typing import TypeVar

from poise.errors import ConfigError

R = TypeVar("R")


async def show_progress(results: AsyncGenerator[R], items: object, name: str) -> AsyncGenerator[R]:
    """Pass the results on and count them in a bar, against the number of items if that is known.

    Raises:
        ConfigError: rich is not installed.
    """
    try:
        from rich import progress as rich
    except ImportError:
        remedy = "it draws with rich, which is not installed: pip install 'poise[progress]'"
        raise ConfigError("progress", value=True, allowed=remedy) from None
    count, passed, left = rich.MofNCompleteColumn(), rich.TimeElapsedColumn(), rich.TimeRemainingColumn()
    with rich.Progress(rich.TextColumn("{task.description}"), rich.BarColumn(), count, passed, left) as progress:
        bar = progress.add_task(name, total=len(items) if isinstance(items, Sized) else None)
        try:
            async for result in results:
                progress.advance(bar)
                yield result
        finally:
            await results.aclose()
