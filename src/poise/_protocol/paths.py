"""Where modules are looked for: a worker looks where its caller does, after its own places."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


def own_paths() -> list[str]:
    """The caller's entries of `sys.path`, independent of its working directory."""
    entries: list[Any] = list(sys.path)  # anybody may put anything there
    return [os.path.abspath(entry) for entry in entries if isinstance(entry, str)]


def add_paths(paths: Iterable[str]) -> None:
    """Look there too, but last: what `runtime_env` and the worker's own environment have comes first.

    What does not exist on this node is left out.
    """
    known = {os.path.abspath(path) for path in sys.path}
    sys.path.extend(path for path in dict.fromkeys(paths) if path not in known and os.path.exists(path))
