"""A live bar for `map(progress=True)`, drawn by rich."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sized
from typing import TYPE_CHECKING, Any, TypeVar

from poise.errors import ConfigError

if TYPE_CHECKING:
    from poise._engine.mapping import Results

R = TypeVar("R")


class Shown(AsyncIterator[R]):
    """Passes results on and counts them in a bar, against the number of items if that is known."""

    def __init__(self, results: Results[R], items: object, name: str) -> None:
        """Draw nothing yet.

        Raises:
            ConfigError: rich is not installed.
        """
        self._bar: Any = None
        try:
            from rich import progress as rich
        except ImportError:
            remedy = "it draws with rich, which is not installed: pip install 'poise[progress]'"
            raise ConfigError("progress", value=True, allowed=remedy) from None
        columns = (
            rich.TextColumn("{task.description}"),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TimeElapsedColumn(),
            rich.TimeRemainingColumn(),
        )
        self._results = results
        self._bar = rich.Progress(*columns)
        self._count = self._bar.add_task(name, total=len(items) if isinstance(items, Sized) else None)

    async def __anext__(self) -> R:
        """The next result; the bar is there from the first one on, and stays where it was at the end."""
        self._bar.start()
        try:
            result = await anext(self._results)
        except asyncio.CancelledError:
            raise  # the next one goes on
        except BaseException:
            self._bar.stop()
            raise
        self._bar.advance(self._count)
        return result

    async def aclose(self) -> None:
        """Cancel the calls that are out, and leave the line of the bar."""
        self._bar.stop()
        await self._results.aclose()

    def __del__(self) -> None:
        if self._bar is not None:
            self._bar.stop()
