"""The contenders, each behind the protocol of `bench.contenders.contender`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.contenders.compiled import CompiledGraph
from bench.contenders.lanes import Express, ExpressRun, Freight
from bench.contenders.pingpong import AsyncPingPong, OneProcessor, PingPong, TwoProcessors
from bench.contenders.plain_ray import DirectCalls, QueueOfActors, RayActorPool
from bench.contenders.processes import Anyio, Loky, Pebble, Processes
from bench.contenders.serve import Serve, ServeByValue
from bench.contenders.xoscar import Xoscar

if TYPE_CHECKING:
    from bench.contenders.contender import Contender

CONTENDERS: Final[tuple[type[Contender], ...]] = (
    Express,
    ExpressRun,
    Freight,
    QueueOfActors,
    DirectCalls,
    RayActorPool,
    CompiledGraph,
    Serve,
    ServeByValue,
    Processes,
    Loky,
    Pebble,
    Anyio,
    Xoscar,
    PingPong,
    AsyncPingPong,
    OneProcessor,
    TwoProcessors,
)
"""In the order of the tables."""
