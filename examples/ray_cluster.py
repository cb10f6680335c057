"""A pool over a Ray cluster: the same program as on one machine.

RAY_ADDRESS=auto python -m examples.ray_cluster     # on a machine of the cluster
python -m examples.ray_cluster                      # a Ray of its own, on this machine

The nodes need the same versions of Python and Ray, and poise with what protects calls between nodes:
`pip install 'poise[tls]'`.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter

import poise


class Prime:
    """Stands for work that is worth a cluster."""

    def __init__(self) -> None:
        """Make it: once in each worker."""
        self.tried = 0

    def is_prime(self, number: int) -> bool:
        """Try every divisor."""
        self.tried += 1
        return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


async def main() -> None:
    """Count primes on every node there is."""
    print("Ray:", os.environ.get("RAY_ADDRESS") or "one that the pool starts here")
    # Workers are spread over the nodes. If one dies, with its node or without, what it did is done again elsewhere.
    async with poise.Pool(Prime, size=2, ray_options={"scheduling_strategy": "SPREAD"}) as pool:
        steady = pool.options(retries=3)
        found = [prime async for prime in steady.map(Prime.is_prime, range(10_000, 10_200), buffersize=64)]
        print(f"{sum(found)} primes")
        workers = pool.stats().workers
        for (node, lane), count in Counter((worker.node, worker.lane) for worker in workers).items():
            print(f"node {node}: {count} workers by the {lane} lane")


if __name__ == "__main__":
    asyncio.run(main())
