"""Stateful workers in a program without an event loop: `poise.Executor` is a `concurrent.futures.Executor`.

Run it with `python -m examples.executor_sync`. It starts Ray on this machine if none is running.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import as_completed

import poise

TEXTS = ["the cat sat", "the dog ran", "a cat and a dog", "the end"]


class Tokenizer:
    """Stands for something that is slow to load and is loaded once in each worker."""

    def __init__(self, separator: str) -> None:
        """Load it."""
        self.separator = separator
        self.served = 0

    def count(self, text: str) -> Counter[str]:
        """Count the words of a text."""
        self.served += 1
        return Counter(text.split(self.separator))


def cube(number: int) -> int:
    """Any function: without a factory the executor runs it as `ProcessPoolExecutor` would."""
    return number**3


def main() -> None:
    """Use both kinds of executor."""
    with poise.Executor(max_workers=2) as executor:
        print("cubes:", list(executor.map(cube, range(8), chunksize=2)))
        try:
            executor.submit(os._exit, 1).result()  # a worker that dies fails its own call...
        except poise.WorkerLost:
            print("lost: WorkerLost")
        print("and on:", executor.submit(cube, 3).result())  # ...and is replaced: the executor is not broken

    with poise.Executor(lambda: Tokenizer(" "), max_workers=2) as executor:
        total: Counter[str] = Counter()
        for future in as_completed([executor.submit(Tokenizer.count, text) for text in TEXTS]):
            total += future.result()
        print("most common:", total.most_common(1))


if __name__ == "__main__":
    main()
