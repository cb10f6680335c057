"""What calls that wait take in the owner: memory and the time of a decision, with clients as tenants.

Nothing is simulated here but the clock that the scheduler is given. Run as a module it prints its figures as JSON, so
that the memory of its process is its own.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from bench import core_cost

if TYPE_CHECKING:
    from collections.abc import Callable

    from poise._core.calls import CallRecord

WORKERS: Final = 1_000
CLIENTS: Final = 64
ARGUMENT: Final = 40
"""Bytes that a client has packed."""


class Model(core_cost.Model):
    """The same, whose calls are those of clients, and are held with what a client has packed."""

    def __init__(self, workers: int, clients: int) -> None:
        """Have all workers ready, idle and measured."""
        self._clients = clients
        self._records: list[Callable[..., CallRecord]] = []
        self.held: dict[int, tuple[int, int, bytes]] = {}
        super().__init__(workers, sends_ahead=False)

    def submit(self) -> None:
        """One more call, of the next client in turn."""
        shares = self.scheduler.shares
        if not self._records:
            self._records = [shares.new_record(number, 1.0) for number in range(self._clients)]
        self._next_id += 1
        self.waiting += 1
        client = self._next_id % self._clients
        self.held[self._next_id] = client, self._next_id + (1 << 20), bytes(ARGUMENT)
        record = self._records[client](self._next_id, "f", name="f")
        self._take(self.scheduler.submit(record, self.now))

    def finish(self) -> None:
        """The call that has been on its worker for longest ends."""
        del self.held[self._held[0][1]]
        super().finish()


def processor(model: core_cost.Model, decisions: int) -> float:
    """Seconds of processor of a decision: whoever else uses the machine counts less so than by the clock."""
    began = time.process_time()
    model.decisions(decisions)
    return (time.process_time() - began) / decisions


def measure(waiting: int, decisions: int) -> dict[str, Any]:
    """Bytes of a waiting call, and seconds of processor of a decision, beside those of a pool without tenants."""
    import psutil

    process = psutil.Process()
    model, plain = Model(WORKERS, CLIENTS), core_cost.Model(WORKERS, sends_ahead=False)
    plain.fill(1_000)
    gc.collect()
    before = process.memory_info().rss
    began = time.process_time()
    model.fill(waiting)
    filled = time.process_time()
    grown = process.memory_info().rss - before
    gc.collect()
    seconds = [[processor(each, decisions) for each in (model, plain)] for _ in range(7)]
    return {
        "waiting": waiting,
        "clients": CLIENTS,
        "workers": WORKERS,
        "bytes": grown / waiting,
        "submit": (filled - began) / waiting,
        "decision": min(ours for ours, _ in seconds),
        "plain": min(theirs for _, theirs in seconds),
    }


def main() -> None:
    """Print the figures for a few and for very many."""
    is_quick = "--quick" in sys.argv
    sizes = (1_000, 100_000) if is_quick else (1_000, 10_000, 100_000, 1_000_000)
    print(json.dumps([measure(waiting, 2_000 if is_quick else 20_000) for waiting in sizes]))
    sys.stdout.flush()
    os._exit(0)  # giving up a million objects one by one takes seconds


if __name__ == "__main__":
    main()
