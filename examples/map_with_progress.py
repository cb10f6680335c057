"""A notebook: many items through a pool, with a live bar.

The cells (`# %%`) run one by one in Jupyter or an editor that knows them, or all together with
`python -m examples.map_with_progress`. It starts Ray on this machine if none is running.
"""

# %% What is to be done, and on what
import asyncio
import random
from collections.abc import Iterator

import poise


class Estimator:
    """Estimates pi; stands for something that is slow to make and holds on to what it has made."""

    def __init__(self) -> None:
        """Make it: once in each worker."""
        self.random = random.Random()

    def inside(self, seed: int) -> float:
        """Throw a thousand darts; return the part of them that hit the circle."""
        self.random.seed(seed)
        return sum(self.random.random() ** 2 + self.random.random() ** 2 < 1 for _ in range(1000)) / 1000


def seeds(count: int) -> Iterator[int]:
    """The items may come from anywhere, and are taken only as workers come free."""
    yield from range(count)


# %% All of them, in order, with a bar that counts to the end since a range has a length
async def estimate(pool: poise.Pool[Estimator], count: int) -> float:
    """Estimate pi from so many thousand darts."""
    parts = [part async for part in pool.map(Estimator.inside, range(count), progress=True)]
    return 4 * sum(parts) / len(parts)


# %% Until it is good enough, in whatever order they come
async def until_near(pool: poise.Pool[Estimator], error: float) -> int:
    """Count the batches until pi is known so well. Leaving the loop cancels what is still out."""
    total, batches = 0.0, 0
    async for part in pool.map_unordered(Estimator.inside, seeds(10_000)):
        total, batches = total + part, batches + 1
        if batches >= 10 and abs(4 * total / batches - 3.14159) < error:
            break
    return batches


# %% In a notebook write `await main()`
async def main() -> None:
    """Open a pool, use it, close it."""
    async with poise.Pool(Estimator, size=2) as pool:
        print(f"pi is about {await estimate(pool, 200):.2f}")
        print(f"near enough after {await until_near(pool, 0.05)} batches")


if __name__ == "__main__":
    asyncio.run(main())
