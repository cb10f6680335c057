"""Nodes that cannot be reached, which Ray goes on to use for up to a minute before it finds out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

AVOIDED_FOR: Final = 120.0
"""Seconds for which other nodes are preferred to one that could not be reached; Ray takes about 60 to give one up."""

_NODE_ID: Final = "ray.io/node-id"
"""The label that Ray gives each node."""
_CHOICES: Final = frozenset({"label_selector", "fallback_strategy"})


class Unreachables:
    """The nodes to which a connection was lost of late, so that workers are started elsewhere if there is room.

    Else Ray may choose that very node, wait for an answer from it until it is declared dead, and only then choose again.
    """

    def __init__(self) -> None:
        """Know of none."""
        self._until: dict[str, float] = {}

    def note(self, node: str) -> None:
        """The link to this node is cut, or its machine is gone."""
        self._until[node] = time.monotonic() + AVOIDED_FOR

    def steer(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What else to tell Ray of an actor, so that it prefers all other nodes. Where they have no room it may use any.

        Args:
            options: those that the user has given. If they say which nodes to use, so it is.
        """
        now = time.monotonic()
        self._until = {node: until for node, until in self._until.items() if until > now}
        if not self._until or _CHOICES & options.keys():
            return {}
        if options.get("scheduling_strategy", "DEFAULT") not in ("DEFAULT", "SPREAD"):
            return {}
        others = {_NODE_ID: f"!in({','.join(self._until)})"}
        return {"label_selector": others, "fallback_strategy": [{"label_selector": {}}]}
