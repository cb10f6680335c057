"""Keep a few calls under way with `wait(FIRST_COMPLETED)`, then end at the first error; the error ends the program."""

from __future__ import annotations

import itertools
import time
from concurrent import futures
from concurrent.futures import ProcessPoolExecutor

AT_ONCE = 4


def halve(number: int) -> float:
    if number < 0:
        raise ValueError(f"{number} is below zero")
    return number / 2


def doze(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def main() -> None:
    with ProcessPoolExecutor(max_workers=2) as executor:
        numbers = iter(range(30))
        under_way = {executor.submit(halve, number) for number in itertools.islice(numbers, AT_ONCE)}
        results = []
        while under_way:
            done, under_way = futures.wait(under_way, return_when=futures.FIRST_COMPLETED)
            results += [future.result() for future in done]
            under_way |= {executor.submit(halve, number) for number in itertools.islice(numbers, len(done))}
            assert len(under_way) <= AT_ONCE
        print(sorted(results))

        slow = executor.submit(doze, 0.5)
        done, rest = futures.wait([slow, executor.submit(halve, -1)], return_when=futures.FIRST_EXCEPTION)
        print([repr(future.exception()) for future in done], len(rest))
        print(futures.wait(rest).done.pop().result())
        for result in executor.map(halve, [8, 6, -4, 2]):
            print("half:", result)


if __name__ == "__main__":
    main()
