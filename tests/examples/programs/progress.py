"""Processes report how far they are by a queue of a manager, and share a dict, a lock and an event of it."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from contextlib import AbstractContextManager
    from queue import Queue
    from threading import Event


def digest(
    part: int,
    steps: int,
    reports: Queue[tuple[int, int] | None],
    totals: MutableMapping[str, int],
    lock: AbstractContextManager[bool],
    go: Event,
) -> int:
    assert go.wait(60)
    for step in range(steps):
        reports.put((part, step))
        with lock:
            totals["steps"] = totals.get("steps", 0) + 1
    return part


def main() -> None:
    with multiprocessing.Manager() as manager:
        reports = manager.Queue()
        totals, lock, go = manager.dict(), manager.Lock(), manager.Event()
        seen: list[tuple[int, int]] = []

        def listen() -> None:
            seen.extend(iter(reports.get, None))

        listener = threading.Thread(target=listen)
        listener.start()
        with ProcessPoolExecutor(2) as executor:
            futures = [executor.submit(digest, part, 3, reports, totals, lock, go) for part in range(4)]
            go.set()
            print([future.result() for future in futures])
        reports.put(None)
        listener.join()
        print(sorted(seen), dict(totals))


if __name__ == "__main__":
    main()
