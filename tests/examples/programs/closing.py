"""Time limits, cancelled futures and a pool that is shut down with work left."""

from __future__ import annotations

import tempfile
import time
from concurrent import futures
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path


def doze(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


def main() -> None:
    executor = ProcessPoolExecutor(max_workers=1)
    print(executor.submit(doze, 0).result())
    running = executor.submit(doze, 1)
    try:
        running.result(timeout=0.1)
    except futures.TimeoutError as error:
        print("too early", isinstance(error, TimeoutError), running.cancel())
    waiting = [executor.submit(doze, 0.3) for _ in range(10)]
    print(waiting[-1].cancel(), waiting[-1].cancelled(), waiting[-1].done())
    executor.shutdown(wait=True, cancel_futures=True)
    print(running.result(), sum(future.cancelled() for future in waiting) >= 8)
    try:
        waiting[-1].result()
    except futures.CancelledError:
        print("it was cancelled")
    try:
        executor.submit(doze, 0)
    except RuntimeError as error:
        print(error)

    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2) as executor:
        sign = Path(folder) / "sign"
        try:
            list(executor.map(wait_for, [Path(folder), sign], timeout=0.5))
        except TimeoutError:
            print("one is late")
        sign.touch()
    last = ProcessPoolExecutor(1)
    last.submit(doze, 0.1).add_done_callback(lambda future: print("at the end:", future.result()))


if __name__ == "__main__":
    main()
