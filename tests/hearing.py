"""An observer that hears everything, for tests."""

from __future__ import annotations

from typing import Any, TypeVar

import poise
from poise._engine.observers import METHODS

E = TypeVar("E")


class Everything(poise.Observer):
    """Keeps every event that it hears of."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def of(self, kind: type[E]) -> list[E]:
        """Those of one kind."""
        return [event for event in self.heard if isinstance(event, kind)]

    def kinds(self) -> list[str]:
        """What they were, in order."""
        return [type(event).__name__ for event in self.heard]


def _keep(self: Everything, event: Any, /) -> None:
    self.heard.append(event)


for _name in METHODS.values():
    setattr(Everything, _name, _keep)
