"""One fault of a cluster, met by a pool and by a plain actor of Ray's at once: what callers see, and when.

`ip netns exec HEAD python -m tests.cluster.faults PREFIX FAULT`, see `nodes.py`; prints a line of JSON.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import poise
from tests.cluster.nodes import TwoNodes

SEEN_WITHIN: Final = 100.0
"""Seconds after which the fault counts as not noticed, or as not healed."""
LOOK: Final = 0.05
BUSY: Final = 15
"""Seconds for which a busy peer answers nobody: three times `link_timeout`."""
RESULT: Final = "the result"


class Model:
    """What works on the nodes."""

    def wait(self, gate: str) -> int:
        """Work until the gate is there."""
        while not os.path.exists(gate):
            time.sleep(LOOK)
        return os.getpid()

    def pid(self) -> int:
        """Answer at once."""
        return os.getpid()

    def hold_the_gil(self, seconds: int) -> int:
        """Be busy in such a way that no other thread of the process runs."""
        ctypes.PyDLL(None).sleep(seconds)
        return os.getpid()


@dataclass
class Sight:
    """What one caller saw, and the seconds from the fault on."""

    seen: str = f"nothing for {SEEN_WITHIN:g} s"
    detected: float | None = None
    healed: float | None = None
    retried: str = ""
    """What the caller saw who allowed a repetition."""


class Scene:
    """A pool with a worker on each node, a plain actor on the other one, and calls that are on that."""

    def __init__(self, nodes: TwoNodes, pool: poise.Pool[Model], gate: Path) -> None:
        self.nodes = nodes
        self.pool = pool
        self.gate = gate
        here = ray.get_runtime_context().get_node_id()
        known: Any = ray.nodes
        (self.other,) = [node["NodeID"] for node in known() if node["NodeID"] != here]
        plain: Any = ray.remote(Model)
        place = NodeAffinitySchedulingStrategy(self.other, soft=True)
        options = {"num_cpus": 1, "max_restarts": -1, "max_concurrency": 2, "scheduling_strategy": place}
        self.actor = plain.options(**options).remote()
        self.began = 0.0
        self.poise = Sight()
        self.plain = Sight()

    @property
    def elapsed(self) -> float:
        """Seconds since the fault."""
        return round(time.monotonic() - self.began, 1)

    async def meet(self, fault: Fault) -> None:
        """Have calls on both workers and the actor, let it happen, and watch what becomes of those over there."""
        await asyncio.wrap_future(self.actor.pid.remote().future())
        retrying = self.pool.options(retries=2)
        what = (Model.hold_the_gil, BUSY) if fault is busy_peer else (Model.wait, str(self.gate))
        calls = [(retrying if number > 1 else self.pool).submit(*what) for number in range(4)]  # two for each worker
        reference = getattr(self.actor, what[0].__name__).remote(what[1])
        async with asyncio.timeout(30):
            while any(worker.running < 2 for worker in self.pool.stats().workers):
                await asyncio.sleep(LOOK)
        (there,) = [worker for worker in self.pool.stats().workers if worker.node == self.other]
        mine, again = calls[1], calls[3]
        self.began = time.monotonic()
        watches = [asyncio.ensure_future(self.watch_poise(mine)), asyncio.ensure_future(self.watch_plain(reference))]
        loses = await fault(self)
        if loses:
            await asyncio.wait(watches, timeout=SEEN_WITHIN)
        self.gate.touch()
        await asyncio.wait(watches, timeout=60)
        for watch in watches:
            watch.cancel()
        self.poise.retried = await outcome(again)
        if not loses:
            assert there.id in [worker.id for worker in self.pool.stats().workers], "it was not to be lost"

    async def watch_poise(self, call: poise.Call[int]) -> None:
        """See how a call ends, and when the pool is whole again."""
        self.poise.seen = await outcome(call)
        if self.poise.seen != RESULT:
            self.poise.detected = self.elapsed
            while (stats := self.pool.stats()).ready < stats.size:
                await asyncio.sleep(LOOK)
            self.poise.healed = self.elapsed

    async def watch_plain(self, reference: Any) -> None:
        """The same of the actor."""
        self.plain.seen = await outcome(asyncio.wrap_future(reference.future()))
        if self.plain.seen != RESULT:
            self.plain.detected = self.elapsed
            while await outcome(asyncio.wrap_future(self.actor.pid.remote().future())) != RESULT:
                await asyncio.sleep(LOOK)
            self.plain.healed = self.elapsed


async def outcome(ending: Awaitable[Any]) -> str:
    """How a call ends, in a word."""
    try:
        await ending
    except Exception as error:  # noqa: BLE001 (whatever it is, it is what callers see)
        name = type(error).__name__
        return f"`{name}`, started={error.started}" if isinstance(error, poise.WorkerLost) else f"`{name}`"
    return RESULT


# ---------------------------------------------------------------------------------------------------------------------
# Faults. Each returns whether the worker on the other node is lost by it.


async def link_cut(scene: Scene) -> bool:
    """The link is cut and stays so."""
    scene.nodes.cut()
    return True


async def link_healed(scene: Scene) -> bool:
    """The link is cut for less than `link_timeout`."""
    scene.nodes.cut()
    await asyncio.sleep(2)
    scene.nodes.mend()
    await asyncio.sleep(10)  # what would be lost by it is lost by now
    return False


async def link_flapping(scene: Scene) -> bool:
    """The link comes and goes."""
    for _ in range(8):
        scene.nodes.cut()
        await asyncio.sleep(1)
        scene.nodes.mend()
        await asyncio.sleep(1)
    return False


async def raylet_killed(scene: Scene) -> bool:
    """Ray's daemon on the other node dies."""
    scene.nodes.kill(scene.nodes.other, "raylet")
    return True


async def machine_gone(scene: Scene) -> bool:
    """The other machine loses its power: nothing that ran there says a word."""
    scene.nodes.cut()
    scene.nodes.end(scene.nodes.other)
    return True


async def node_drained(scene: Scene) -> bool:
    """The other node is taken away, and Ray was told 10 seconds before."""
    await asyncio.to_thread(scene.nodes.drain, scene.other, 10)
    await asyncio.sleep(10)
    scene.nodes.kill(scene.nodes.other, "raylet", signal.SIGTERM)
    return True


async def busy_peer(scene: Scene) -> bool:
    """The worker and the actor hold the GIL for three times `link_timeout`, while calls wait for them."""
    behind = [scene.pool.submit(Model.pid) for _ in range(8)]
    await asyncio.gather(*behind)
    return False


async def gcs_dead(scene: Scene) -> bool:
    """The head's global control service dies."""
    scene.nodes.kill(scene.nodes.head, "gcs_server")
    await asyncio.sleep(10)
    scene.gate.touch()
    for _ in range(100):
        await scene.pool.run(Model.pid)
    return False


Fault = Callable[[Scene], Awaitable[bool]]
FAULTS: Final[dict[str, Fault]] = {
    each.__name__: each
    for each in (
        link_cut,
        link_healed,
        link_flapping,
        machine_gone,
        raylet_killed,
        node_drained,
        busy_peer,
        gcs_dead,
    )
}


async def main(prefix: str, name: str) -> None:
    """Meet one fault."""
    nodes = TwoNodes(prefix)
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="poise-gate-") as folder:
        spread = {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
        async with poise.Pool(Model, size=2, concurrency=2, min_ready=2, ray_options=spread, close_timeout=5) as pool:
            scene = Scene(nodes, pool, Path(folder) / "gate")
            await scene.meet(FAULTS[name])
            seen = {"poise": asdict(scene.poise), "plain": asdict(scene.plain)}
            sys.stdout.write(json.dumps(seen) + "\n")
            sys.stdout.flush()
            nodes.mend()
            if FAULTS[name] is gcs_dead:
                os._exit(0)  # nobody is there to ask for an end in good order


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
