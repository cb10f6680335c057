"""A live bar for `map(progress=True)`, drawn by rich."""

from __future__ import annotations

from collections.abc import Sized
from time import monotonic
from typing import Any, Final

from poise.errors import ConfigError

DRAWN_EVERY: Final = 0.1
"""Seconds, at least, between two drawings in a notebook."""


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
        name_column, failed = rich.TextColumn("{task.description}"), rich.TextColumn("[red]{task.fields[failed]}")
        self._bar: Any = rich.Progress(name_column, rich.BarColumn(), count, passed, left, failed)
        self._count = self._bar.add_task(name, total=len(items) if isinstance(items, Sized) else None, failed="")
        self._failed = 0
        self._cell: Any = None
        """Where it stands in a notebook: rich alone draws nothing there unless ipywidgets is installed."""
        self._drawn_at = 0.0

    def start(self) -> None:
        """Draw it, if it is not there."""
        if not self._bar.console.is_jupyter:
            self._bar.start()
        elif self._cell is None:
            self._cell = _show(self._bar)

    def advance(self, *, has_failed: bool) -> None:
        """Count one more result, or one more call that failed."""
        if has_failed:
            self._failed += 1
            self._bar.update(self._count, failed=f"{self._failed:,} failed")
        self._bar.advance(self._count)
        if self._cell is not None and monotonic() - self._drawn_at >= DRAWN_EVERY:
            self._draw_again()

    def stop(self) -> None:
        """Leave the line where it stands."""
        if self._cell is not None:
            self._draw_again()
        else:
            self._bar.stop()

    def _draw_again(self) -> None:
        self._cell.update(self._bar)
        self._drawn_at = monotonic()


def _show(bar: Any) -> Any:
    """Show it below the cell that runs, and return what shows it anew there."""
    from IPython import display

    here: Any = display
    return here.display(bar, display_id=True)
