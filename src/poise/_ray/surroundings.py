"""What a process that a program starts has of it, and an actor of Ray's has not: its folder and its environment.

Programs that were written for `ProcessPoolExecutor` count on it. A pool that starts Ray hands most of it on without
trying; one that joins a Ray finds what that was started with.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_RAYS_OWN: Final = ("RAY_", "ONEAPI_DEVICE_SELECTOR")
"""How the variables begin that Ray sets for each process; with `_ACCELERATORS` in them they say which it sees."""
_ACCELERATORS: Final = "_VISIBLE_"


class Surroundings:
    """Those of this process. They are pickled as they are by then, and entered where they are unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Surroundings], tuple[Any, ...]]:
        """Take along the folder and the environment, for this node, and what holds everywhere."""
        folder = None
        with contextlib.suppress(OSError):  # it has been removed
            folder = os.getcwd()
        return enter, (_context().get_node_id(), folder, dict(os.environ), list(sys.argv))


def enter(node: str, folder: str | None, variables: dict[str, str], arguments: list[str]) -> Surroundings:
    """Enter what a caller has taken along; what the user's `runtime_env` says stays.

    Args:
        node: Ray's id of the caller's node. The folder and the variables mean nothing on another.
        folder: the caller's working directory.
        variables: its environment.
        arguments: `sys.argv`.
    """
    sys.argv[:] = arguments
    context = _context()
    if context.get_node_id() == node:
        chosen: dict[str, Any] = dict(context.runtime_env)
        for name, text in variables.items():
            # A `conda` or `pip` that was chosen has set some of them.
            if not _is_rays(name) and not (chosen and name in os.environ):
                os.environ[name] = text
        if folder is not None and "working_dir" not in chosen:
            with contextlib.suppress(OSError):  # it has been removed
                os.chdir(folder)
    return Surroundings()


def _is_rays(name: str) -> bool:
    return name.startswith(_RAYS_OWN) or _ACCELERATORS in name


def _context() -> Any:
    import ray  # a program that makes an executor does not wait for it

    return ray.get_runtime_context()
