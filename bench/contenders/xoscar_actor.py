"""The actor of the xoscar contender, in a module of its own because it can be imported only where xoscar is."""

from __future__ import annotations

import xoscar

from bench.worker import Worker


class WorkerActor(Worker, xoscar.Actor):  # type: ignore[misc]
    """A worker as an actor."""
