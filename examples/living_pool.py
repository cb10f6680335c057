"""A pool that looks after itself: workers that are old are replaced, one asks for it, and all get new weights.

No call fails or waits for any of it.

Run it with `python -m examples.living_pool`.
"""

from __future__ import annotations

import asyncio
import logging
import os

import poise


class Model:
    """Stands for a model that leaks."""

    def __init__(self, version: int) -> None:
        """Load the weights of this version."""
        self.version = version

    def predict(self, x: float) -> tuple[int, int, float]:
        """Predict, and tell by which version, in which process."""
        if x < 0:  # say, an error of the device from which this process will not recover
            poise.this_worker().retire()
        return self.version, os.getpid(), 2 * x


async def main() -> None:
    """Serve calls through all that befalls the workers."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("poise").setLevel(logging.INFO)  # tells of each worker why it is replaced
    recycle = poise.Recycle(calls=200, memory="2GiB")
    async with poise.Pool(lambda: Model(1), size=2, recycle=recycle, ray_options={"num_cpus": 0}) as pool:
        await pool.run(Model.predict, -1.0)
        while pool.stats().recycled < 1:
            await asyncio.gather(*(pool.submit(Model.predict, float(n)) for n in range(50)))
        await pool.reload(lambda: Model(2))
        answers = await asyncio.gather(*(pool.submit(Model.predict, float(n)) for n in range(50)))
        print(f"versions that answer now: {sorted({version for version, _, _ in answers})}")
        stats = pool.stats()
        print(f"recycled {stats.recycled}, generation {stats.generation}, calls lost: {stats.lost}")


if __name__ == "__main__":
    asyncio.run(main())
