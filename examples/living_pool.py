"""A pool that looks after itself: it grows with the load, keeps sessions together, and replaces its workers in time.

They are replaced when they are old, when they fail their checks, when one asks for it, and when there are new weights.
No call fails or waits for any of it.

Run it with `python -m examples.living_pool`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time

import poise
import poise.events


class Model:
    """Stands for a model that leaks, and whose device fails now and then."""

    def __init__(self, version: int) -> None:
        """Load the weights of this version."""
        self.version = version
        self.device_works = True

    def check(self) -> None:
        """Whether it may be given calls.

        Raises:
            OSError: its device has failed.
        """
        if not self.device_works:
            raise OSError("the device does not answer")

    def predict(self, x: float) -> tuple[int, int, float]:
        """Predict, and tell by which version, in which process."""
        if x < 0:  # say, an error from which this process knows that it will not recover
            poise.this_worker().retire()
        return self.version, os.getpid(), 2 * x

    def think(self) -> None:
        """Something that takes longer."""
        time.sleep(0.2)

    def spoil(self) -> None:
        """Something that its device does not survive."""
        self.device_works = False


class Replacements(poise.Observer):
    """Hears why workers are replaced."""

    def __init__(self) -> None:
        """Have heard nothing."""
        self.reasons: asyncio.Queue[str] = asyncio.Queue()

    def worker_replacing(self, event: poise.events.WorkerReplacing, /) -> None:
        """One more."""
        self.reasons.put_nowait(event.reason)


async def main() -> None:
    """Serve calls through all that befalls the workers."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("poise").setLevel(logging.INFO)  # tells of each worker why it is replaced
    replacements = Replacements()
    async with poise.Pool(
        lambda: Model(1),
        size=poise.Elastic(1, 3, idle=60.0),
        recycle=poise.Recycle(calls=200, memory="2GiB"),
        health=poise.Health(Model.check, every=0.2, strikes=2),
        observers=[replacements],
        ray_options={"num_cpus": 0},
    ) as pool:
        await asyncio.gather(*(pool.submit(Model.think) for _ in range(60)))
        print(f"workers under load: {pool.stats().size}")

        ours = pool.options(key="our session", patience=1.0)  # rather than elsewhere while its worker is checked
        processes = {(await ours.run(Model.predict, float(n)))[1] for n in range(20)}
        print(f"processes that our session has met: {len(processes)}")

        await pool.run(Model.spoil)
        print(f"replaced, because {await replacements.reasons.get()}")
        await pool.run(Model.predict, -1.0)
        print(f"replaced, because {await replacements.reasons.get()}")
        while replacements.reasons.empty():
            await asyncio.gather(*(pool.submit(Model.predict, float(n)) for n in range(50)))
        print(f"replaced, because {await replacements.reasons.get()}")

        await pool.reload(lambda: Model(2))
        answers = await asyncio.gather(*(pool.submit(Model.predict, float(n)) for n in range(50)))
        print(f"versions that answer now: {sorted({version for version, _, _ in answers})}")
        stats = pool.stats()
        print(f"recycled {stats.recycled}, generation {stats.generation}, calls lost: {stats.lost}")


if __name__ == "__main__":
    asyncio.run(main())
