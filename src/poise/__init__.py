"""Balance for Ray actors: a pool you can await.

See `poise.Pool`, and `poise.errors` for everything that can go wrong.
"""

from poise._core.stats import Stats, WorkerStats
from poise._engine.call import Call, Stream
from poise.actor_pool import ActorCall, ActorPool
from poise.errors import (
    ConfigError,
    DeadlineExceeded,
    LeaseExpired,
    Overloaded,
    PayloadError,
    PoiseError,
    PoisonCall,
    PoolBroken,
    PoolClosed,
    RemoteError,
    WorkerLost,
    WrongLoop,
)
from poise.executor import Executor, ExecutorBroken
from poise.options import CallOptions, PoolOptions
from poise.pool import Pool
from poise.view import View, Worker

__all__ = [
    "ActorCall",
    "ActorPool",
    "Call",
    "CallOptions",
    "ConfigError",
    "DeadlineExceeded",
    "Executor",
    "ExecutorBroken",
    "LeaseExpired",
    "Overloaded",
    "PayloadError",
    "PoiseError",
    "PoisonCall",
    "Pool",
    "PoolBroken",
    "PoolClosed",
    "PoolOptions",
    "RemoteError",
    "Stats",
    "Stream",
    "View",
    "Worker",
    "WorkerLost",
    "WorkerStats",
    "WrongLoop",
]
