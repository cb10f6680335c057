"""Several nodes of Ray's on this machine, for `test_one_machine.py`: `python -m tests.cluster.one_machine FOLDER`.

They share an address, so only their ids tell them apart. Ray knows one cluster in each process, so this is one; prints
what became of each scene, as JSON. In the folder is a package that stands for a cryptography that is missing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

import poise

HIDDEN = ("cryptography", "poise._protocol.certificates")
"""Modules that are to be imported anew."""
SPREAD = {"num_cpus": 1, "scheduling_strategy": "SPREAD"}


class Model:
    """What works on the nodes."""

    def node(self) -> str:
        """Where it is."""
        return ray.get_runtime_context().get_node_id()

    def wait(self, gate: str) -> str:
        """Work until the gate is there."""
        while not os.path.exists(gate):
            time.sleep(0.02)
        return self.node()


class Heard(logging.Handler):
    """What the pool logs."""

    def __init__(self) -> None:
        """Hear warnings."""
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        logging.getLogger("poise").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.lines.append(record.getMessage())


def here() -> str:
    """The caller's node."""
    return ray.get_runtime_context().get_node_id()


async def near_first(_folder: Path) -> None:
    """Each worker's node is told; those on the caller's come first; the others are reached by TLS."""
    async with poise.Pool(Model, size=4, min_ready=4, ray_options=SPREAD) as pool:
        workers = pool.stats().workers
        assert {worker.lane for worker in workers} == {"express"}
        near = [worker for worker in workers if worker.node == here()]
        assert 0 < len(near) < 4
        assert {await pool.run(Model.node) for _ in range(20)} == {here()}
        everywhere = await pool.broadcast(Model.node)
        assert sorted(everywhere) == sorted(str(worker.node) for worker in workers)


async def tls_at_the_caller_alone(folder: Path) -> None:
    """Workers need Python's own ssl only: what is made with cryptography is made by the caller."""
    hidden = {"runtime_env": {"env_vars": {"PYTHONPATH": str(folder)}}}
    async with poise.Pool(Model, size=2, min_ready=2, ray_options={**SPREAD, **hidden}) as pool:
        assert {worker.lane for worker in pool.stats().workers} == {"express"}
        assert len({worker.node for worker in pool.stats().workers}) == 2
        assert all(await pool.broadcast(has_no_cryptography))


async def without_tls(_folder: Path) -> None:
    """Where cryptography is not installed, workers on other nodes are reached by Ray, and the log says so once."""
    heard = Heard()
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith(HIDDEN)}
    sys.modules["cryptography"] = None  # type: ignore[assignment] # what makes its import fail
    try:
        async with poise.Pool(Model, size=4, min_ready=4, ray_options=SPREAD) as pool:
            lanes = {(worker.node == here(), worker.lane) for worker in pool.stats().workers}
            assert lanes == {(True, "express"), (False, "freight")}
            assert len(set(await pool.broadcast(Model.node))) == 2
            told = [line for line in heard.lines if "cryptography" in line]
            assert len(told) == 1, heard.lines
            assert "pip install 'poise[tls]'" in told[0]
    finally:
        sys.modules.update(hidden)


async def node_lost(folder: Path) -> None:
    """A node dies: its calls are lost or run again, and the pool is whole on the other."""
    gate = folder / "gate"
    async with poise.Pool(Model, size=2, min_ready=2, ray_options=SPREAD) as pool:
        calls = [pool.options(retries=2).submit(Model.wait, str(gate)) for _ in range(2)]
        lost = [worker.id for worker in pool.stats().workers if worker.node != here()]
        assert len(lost) == 1
        (other,) = CLUSTER.worker_nodes
        await asyncio.to_thread(CLUSTER.remove_node, other, allow_graceful=False)
        while (stats := pool.stats()).ready < 2 or lost[0] in [worker.id for worker in stats.workers]:
            await asyncio.sleep(0.02)
        assert {worker.node for worker in stats.workers} == {here()}
        assert stats.deaths == 1
        gate.touch()
        assert await asyncio.gather(*calls) == [here(), here()]


def has_no_cryptography(_: Model) -> bool:
    """Whether it cannot be imported."""
    try:
        import cryptography  # noqa: F401
    except ImportError:
        return True
    return False


async def main(folder: Path) -> None:
    """Play all scenes; the last one costs the cluster a node."""
    told = {}
    for scene in (near_first, tls_at_the_caller_alone, without_tls, node_lost):
        try:
            async with asyncio.timeout(60):
                await scene(folder)
        except BaseException:  # noqa: BLE001 (whatever it is, it is told, and the others are played)
            told[scene.__name__] = traceback.format_exc()
        else:
            told[scene.__name__] = ""
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    CLUSTER: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
    try:
        CLUSTER.add_node(num_cpus=3)
        ray.init(address=CLUSTER.address, log_to_driver=False, logging_level=logging.ERROR)
        asyncio.run(main(Path(sys.argv[1])))
        ray.shutdown()
    finally:
        CLUSTER.shutdown()
