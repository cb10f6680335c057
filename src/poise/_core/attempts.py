"""An attempt: one time that a call is given to a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poise._core.workers import WorkerRecord


class Attempt:
    """A call on a worker, from its grant to the worker's answer or end. A call that waits has none."""

    __slots__ = ("charged", "granted_at", "is_kept", "may_have_begun", "worker")

    def __init__(self, worker: WorkerRecord, granted_at: float) -> None:
        self.worker: WorkerRecord = worker
        self.granted_at: float = granted_at
        """When it was given its slot, or sent ahead of one."""
        self.charged: float = 0.0
        """Seconds that its tenant was charged with, while there are tenants."""
        self.may_have_begun: bool = False
        """Whether it holds a slot, or the worker has said that it may begin ahead of one: it is in doubt if the worker
        dies, and running the call again takes the caller's leave (G2)."""
        self.is_kept: bool = False
        """Whether the worker was asked to give this call, sent ahead, back and did not: so it has begun."""
