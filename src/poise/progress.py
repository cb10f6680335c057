"""A live bar for `map(progress=True)`, drawn by rich."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from poise.errors import ConfigError


class ProgressBar:
    """Counts results against the number of items, if that is known. It is there from the first one on."""

    def __init__(self, items: object, name: str) -> None:
        """Draw nothing yet.

        Raises:
            ConfigError: rich is not installed.
        """
        try:
            from rich import progress as rich
        except ImportError:
            remedy = "it draws with rich, which is not installed: pip install 'poise[progress]'"
            raise ConfigError("progress", value=True, allowed=remedy) from None
        count, passed, left = rich.MofNCompleteColumn(), rich.TimeElapsedColumn(), rich.TimeRemainingColumn()
        self._bar: Any = rich.Progress(rich.TextColumn("{task.description}"), rich.BarColumn(), count, passed, left)
        self._count = self._bar.add_task(name, total=len(items) if isinstance(items, Sized) else None)

    def start(self) -> None:
        """Draw it."""
        self._bar.start()

    def advance(self) -> None:
        """Count one more result."""
        self._bar.advance(self._count)

    def stop(self) -> None:
        """Leave the line where it stands."""
        self._bar.stop()
