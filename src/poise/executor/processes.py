"""The processes of an executor's workers, as programs look for them in `ProcessPoolExecutor`."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from poise.stats import WorkerStats


class WorkerProcess:
    """One process of this machine, and none that gets its number later: a little of `multiprocessing.Process`."""

    def __init__(self, pid: int) -> None:
        """Look at this process.

        Raises:
            OSError: there is none, or the system has no pidfd.
        """
        self.pid: int = pid
        self._fd = os.pidfd_open(pid)

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return not self._has_ended(0)

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, for so many seconds at most."""
        self._has_ended(timeout)

    def terminate(self) -> None:
        """Let it retire: it finishes what it holds, and another takes its place."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once; another takes its place."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)

    def _has_ended(self, timeout: float | None) -> bool:
        ending = select.poll()
        ending.register(self._fd, select.POLLIN)
        return bool(ending.poll(None if timeout is None else timeout * 1000))

    def __del__(self) -> None:
        """Leave no descriptor."""
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def __repr__(self) -> str:
        """Give the pid."""
        return f"<WorkerProcess {self.pid}>"


def processes_of(workers: Iterable[WorkerStats]) -> dict[int, WorkerProcess]:
    """The processes of those workers that are on this node, by pid."""
    import ray

    found: dict[int, WorkerProcess] = {}
    here = ray.get_runtime_context().get_node_id() if ray.is_initialized() else None
    for worker in workers:
        if worker.pid is not None and worker.node == here:
            with contextlib.suppress(OSError):  # it has just died
                found[worker.pid] = WorkerProcess(worker.pid)
    return found
