"""Several workers on one GPU: `ray_options={"num_gpus": 0.25}` places four of them on each.

Ray sets CUDA_VISIBLE_DEVICES for a worker before its factory runs. The fraction is bookkeeping: nothing keeps a worker
from taking all the memory of the GPU, so limit it in your framework. Where Ray has no GPU, quarters of a CPU stand for
it here.

Run it with `python -m examples.gpu_fractions`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import ray

import poise

SHARE = 0.25


class Model:
    """Stands for a model that lives on a GPU."""

    def __init__(self) -> None:
        """Load it, on the device that Ray has chosen: `torch.device("cuda")` would find it by itself."""
        self.devices: list[Any] = ray.get_gpu_ids()

    def predict(self, x: float) -> float:
        """Predict."""
        return 2 * x

    def where(self) -> str:
        """Tell what this worker may see."""
        if not self.devices:
            return f"process {os.getpid()} has no GPU"
        return f"process {os.getpid()} shares GPU {os.environ['CUDA_VISIBLE_DEVICES']}"


def options() -> dict[str, Any]:
    """A share of a GPU for each worker, or of a CPU where there is no GPU."""
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    if there.get("GPU", 0) > 0:
        return {"num_gpus": SHARE, "num_cpus": 0}
    print("Ray has no GPU here: shares of a CPU stand for it")
    return {"num_cpus": SHARE}


async def main() -> None:
    """Put two workers on one device."""
    async with poise.Pool(Model, size=2, min_ready=2, ray_options=options()) as pool:
        for place in await pool.broadcast(Model.where):
            print(place)
        print([y async for y in pool.map(Model.predict, [1.0, 2.0, 3.0])])


if __name__ == "__main__":
    ray.init(os.environ.get("RAY_ADDRESS") or "local", logging_level=logging.ERROR)  # what there is must be known first
    try:
        asyncio.run(main())
    finally:
        ray.shutdown()
