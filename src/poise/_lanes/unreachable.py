"""Nodes that cannot be reached, which Ray goes on to use for up to a minute before it finds out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SILENT_FOR: Final = 120.0
"""Seconds for which other nodes are preferred to one that is silent; Ray takes about 60 to give it up."""
DOUBTED_FOR: Final = 30.0
"""The same for a node on which a worker has ended: with Ray there, which Ray takes about 15 to see, or by itself."""

_NODE_ID: Final = "ray.io/node-id"
"""The label that Ray gives each node."""
_CHOICES: Final = frozenset({"label_selector", "fallback_strategy"})


class Unreachables:
    """The nodes on which workers were lost of late, so that others are started elsewhere if there is room.

    Else Ray may choose that very node, and wait for an answer from it until it is declared dead.
    """

    def __init__(self) -> None:
        """Know of none."""
        self._until: dict[str, float] = {}

    def note(self, node: str, *, is_silent: bool) -> None:
        """A worker on this node was lost: by the silence of its host, or because its process has ended."""
        until = time.monotonic() + (SILENT_FOR if is_silent else DOUBTED_FOR)
        self._until[node] = max(until, self._until.get(node, until))

    def steer(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What else to tell Ray of an actor, so that it prefers other nodes, and uses any where those have no room.

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
