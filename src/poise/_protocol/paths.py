"""Where modules are looked for: a worker looks where its caller does, after its own places."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def own_paths() -> list[str]:
    """The caller's entries of `sys.path`, independent of its working directory."""
    return list(_absolute(sys.path))


def add_paths(paths: Iterable[str]) -> None:
    """Look there too, but last: what `runtime_env` and the worker's own environment have comes first.

    What does not exist on this node is left out.
    """
    known = set(_absolute(sys.path))
    sys.path.extend(path for path in dict.fromkeys(paths) if path not in known and os.path.exists(path))


def _absolute(entries: Iterable[Any]) -> Iterator[str]:
    """Those of the entries that name a place; anybody may put anything there, and the working directory may be gone."""
    for entry in entries:
        if isinstance(entry, str):
            with contextlib.suppress(FileNotFoundError):
                yield os.path.abspath(entry)
