"""Some items kill their process: the program makes a new pool for those that failed with it, until all are done."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool


def parse(item: int, attempt: int) -> int:
    if item == 3 and attempt == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 5 and attempt == 1:
        os._exit(7)
    return item * item


def main() -> int:
    results: dict[int, int] = {}
    left = list(range(8))
    for attempt in range(3):
        with ProcessPoolExecutor(1) as executor:
            for item in left:
                try:
                    results[item] = executor.submit(parse, item, attempt).result()
                except BrokenProcessPool as error:
                    print("broken at", item, isinstance(error, RuntimeError))
                    break
        left = [item for item in left if item not in results]
    print(results)
    return len(left)


if __name__ == "__main__":
    raise SystemExit(main())
