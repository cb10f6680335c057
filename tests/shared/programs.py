"""Programs that share a pool with the test, each a process of its own: `python -m tests.shared.programs NAME ...`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import poise
from tests.contract.desk import Desk


async def call(pool: poise.Pool[Desk], count: str) -> None:
    """Make some calls, and say which workers have answered."""
    answers = await asyncio.gather(*(pool.submit(Desk.who) for _ in range(int(count))))
    say(sorted(set(answers)))


async def wait_in_line(pool: poise.Pool[Desk], gate: str) -> None:
    """Have a worker for itself, a stream and a call on others, and two calls that wait; until somebody kills it."""
    async with pool.lease() as worker:
        stream = aiter(pool.stream(lambda desk: iter(range(10_000))))
        await anext(stream)
        calls = [pool.submit(Desk.hold, gate, f"theirs {number}") for number in range(3)]
        say(worker.id)
        await asyncio.gather(*calls)


def say(what: Any) -> None:
    """Tell the test."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def main(address: str, name: str, size: str, what: str, *arguments: str) -> None:
    """Use the pool, and then leave it."""
    pool = poise.Pool.shared(name, Desk, size=int(size), ray_init={"address": address, "log_to_driver": False})
    async with pool:
        await globals()[what](pool, *arguments)


if __name__ == "__main__":
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    asyncio.run(main(*sys.argv[1:]))
