"""Takes the pictures of the documentation from a real pool under load: `python docs/pictures/make.py [NAME ...]`.

Each is taken by one function, in the order of `PICTURES`, while the same pool is under the same load.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console

import poise
from poise._watch.sockets import find
from poise.cli.frame import draw
from poise.cli.top import Watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HERE: Final = Path(__file__).parent
WORKERS: Final = 4
WARM_UP: Final = 45.0
"""Seconds of load before the pictures are taken; a worker is killed on the way."""
KILLED_AT: Final = 36.0


class Model:
    """What workers hold."""

    def predict(self, seconds: float) -> None:
        """Compute for so long."""
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            sum(range(10_000))
            time.sleep(min(0.001, left))

    def embed(self, seconds: float) -> None:
        """The same under another name."""
        self.predict(seconds)


async def load(pool: poise.Pool[Model]) -> None:
    """Make calls, in waves, until it is cancelled."""
    chance, began = random.Random(7), time.monotonic()
    calls: set[asyncio.Future[None]] = set()
    while True:
        function = Model.embed if chance.random() < 0.3 else Model.predict
        call = pool.submit(function, chance.expovariate(1 / 0.025))
        calls.add(call)
        call.add_done_callback(calls.discard)
        call.add_done_callback(lambda done: done.cancelled() or done.exception())
        wave = 70 + 60 * ((time.monotonic() - began) % 20 < 8)
        await asyncio.sleep(chance.expovariate(wave))


async def take_top(_pool: poise.Pool[Model]) -> None:
    """What `poise top` shows."""

    def take() -> str:
        (found,) = [each for each in find() if each.program == os.getpid()]
        watch = Watch(found)
        watch.look()
        time.sleep(1.5)
        watch.look()
        scene = watch.scene()
        watch.close()
        assert scene is not None
        scene.chosen = scene.picture["workers"][1]["id"]
        console = Console(record=True, width=112, force_terminal=True, file=open(os.devnull, "w"))  # noqa: SIM115 (recorded)
        console.print(draw(scene))
        return console.export_svg(title="poise top")

    picture = await asyncio.to_thread(take)
    picture = re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)  # fonts from elsewhere
    (HERE / "top.svg").write_text(picture)


PICTURES: Final[dict[str, Callable[[poise.Pool[Model]], Awaitable[None]]]] = {"top": take_top}


async def main(names: list[str]) -> None:
    """Put a pool under load, and take these pictures of it."""
    async with poise.Pool(Model, size=WORKERS, watch=True) as pool:
        await pool.until_ready()
        loading = asyncio.create_task(load(pool))
        await asyncio.sleep(KILLED_AT)
        pid = pool.stats().workers[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(WARM_UP - KILLED_AT)
        for name in names or PICTURES:
            await PICTURES[name](pool)
            print(f"took {name}")  # noqa: T201
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
