"""Futures with callbacks, from a program whose threads share one pool of processes."""

from __future__ import annotations

import threading
from concurrent import futures
from concurrent.futures import ProcessPoolExecutor


class Ledger:
    """Adds up what callbacks bring."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.total = 0
        self.errors: list[str] = []
        self.all_there = threading.Event()
        self.missing = 21

    def book(self, future: futures.Future[int]) -> None:
        with self.lock:
            if (error := future.exception()) is not None:
                self.errors.append(f"{type(error).__name__}: {error}")
            else:
                self.total += future.result()
            self.missing -= 1
            if not self.missing:
                self.all_there.set()


def price(item: int, *, pieces: int = 1) -> int:
    if item == 13:
        raise LookupError(f"item {item} has no price")
    return item * pieces


def main() -> None:
    ledger = Ledger()
    with ProcessPoolExecutor(2) as processes, futures.ThreadPoolExecutor(3) as threads:

        def order(item: int) -> None:
            processes.submit(price, item, pieces=2).add_done_callback(ledger.book)

        list(threads.map(order, range(20)))
        late = processes.submit(price, 100)
        print(late.result(timeout=60), late.done(), late.running(), late.cancel(), late.exception())
        late.add_done_callback(ledger.book)
        assert ledger.all_there.wait(60)
    print(ledger.total, ledger.errors)


if __name__ == "__main__":
    main()
