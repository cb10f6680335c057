"""Which of some large numbers are prime, in the manner of the standard library's documentation."""

from __future__ import annotations

import math
from concurrent.futures import ProcessPoolExecutor

PRIMES = [1_000_000_007, 1_000_000_009, 1_000_000_011, 999_983 * 999_979, 2**31 - 1, 2**31]


def is_prime(n: int) -> bool:
    if n < 2:
        return False
    if n == 2:
        return True
    if n % 2 == 0:
        return False
    return all(n % divisor for divisor in range(3, math.isqrt(n) + 1, 2))


def main() -> None:
    with ProcessPoolExecutor(max_workers=2) as executor:
        for number, prime in zip(PRIMES, executor.map(is_prime, PRIMES), strict=True):
            print(f"{number} is prime: {prime}")
        small = range(2, 2000)
        found = [n for n, prime in zip(small, executor.map(is_prime, small, chunksize=100), strict=True) if prime]
        print(len(found), found[-3:])
        print(sum(executor.map(pow, range(50), [3] * 50, [1000] * 50, chunksize=7)))


if __name__ == "__main__":
    main()
