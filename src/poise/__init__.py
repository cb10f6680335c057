"""Balance for Ray actors: a pool you can await.

See `poise.Pool`, and `poise.errors` for everything that can go wrong.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poise._engine.call import Call
    from poise._engine.mapping import Results
    from poise._engine.stream import Stream
    from poise._ray.here import ray_here
    from poise._worker.current import ThisWorker, cancelled, this_worker
    from poise.actor_pool import ActorCall, ActorPool
    from poise.batching import BatchedFunction, BatchedMethod, Failed, batched
    from poise.errors import (
        BatchError,
        ConfigError,
        DeadlineExceeded,
        LeaseExpired,
        LoopBlocked,
        Overloaded,
        PayloadError,
        PayloadRefused,
        PayloadTypeError,
        PoiseError,
        PoisonCall,
        PoolBroken,
        PoolClosed,
        RemoteError,
        ReplaceFailed,
        UnknownOption,
        WorkerLost,
        WrongLoop,
    )
    from poise.events import Observer
    from poise.executor.broken import ExecutorBroken, ExecutorPoisonCall, ExecutorWorkerLost
    from poise.executor.face import Executor
    from poise.options import CallArguments, CallOptions, MapArguments, PoolArguments
    from poise.policies import Elastic, Health, Recycle
    from poise.pool import Pool
    from poise.stats import Stats, WorkerStats
    from poise.view import View, Worker

__all__ = [
    "ActorCall",
    "ActorPool",
    "BatchError",
    "BatchedFunction",
    "BatchedMethod",
    "Call",
    "CallArguments",
    "CallOptions",
    "ConfigError",
    "DeadlineExceeded",
    "Elastic",
    "Executor",
    "ExecutorBroken",
    "ExecutorPoisonCall",
    "ExecutorWorkerLost",
    "Failed",
    "Health",
    "LeaseExpired",
    "LoopBlocked",
    "MapArguments",
    "Observer",
    "Overloaded",
    "PayloadError",
    "PayloadRefused",
    "PayloadTypeError",
    "PoiseError",
    "PoisonCall",
    "Pool",
    "PoolArguments",
    "PoolBroken",
    "PoolClosed",
    "Recycle",
    "RemoteError",
    "ReplaceFailed",
    "Results",
    "Stats",
    "Stream",
    "ThisWorker",
    "UnknownOption",
    "View",
    "Worker",
    "WorkerLost",
    "WorkerStats",
    "WrongLoop",
    "batched",
    "cancelled",
    "ray_here",
    "this_worker",
]

_MODULES = frozenset({"asgi", "errors", "events", "prometheus", "testing"})
"""Those that users know by name."""

# Found when first used (PEP 562), so that a worker, which needs none of them, starts 40 ms sooner.
_HOMES = {
    "ActorCall": "poise.actor_pool",
    "ActorPool": "poise.actor_pool",
    "BatchError": "poise.errors",
    "BatchedFunction": "poise.batching",
    "BatchedMethod": "poise.batching",
    "Call": "poise._engine.call",
    "CallArguments": "poise.options",
    "CallOptions": "poise.options",
    "ConfigError": "poise.errors",
    "DeadlineExceeded": "poise.errors",
    "Elastic": "poise.policies",
    "Executor": "poise.executor.face",
    "ExecutorBroken": "poise.executor.broken",
    "ExecutorPoisonCall": "poise.executor.broken",
    "ExecutorWorkerLost": "poise.executor.broken",
    "Failed": "poise.batching",
    "Health": "poise.policies",
    "LeaseExpired": "poise.errors",
    "LoopBlocked": "poise.errors",
    "MapArguments": "poise.options",
    "Observer": "poise.events",
    "Overloaded": "poise.errors",
    "PayloadError": "poise.errors",
    "PayloadRefused": "poise.errors",
    "PayloadTypeError": "poise.errors",
    "PoiseError": "poise.errors",
    "PoisonCall": "poise.errors",
    "Pool": "poise.pool",
    "PoolArguments": "poise.options",
    "PoolBroken": "poise.errors",
    "PoolClosed": "poise.errors",
    "Recycle": "poise.policies",
    "RemoteError": "poise.errors",
    "ReplaceFailed": "poise.errors",
    "Results": "poise._engine.mapping",
    "Stats": "poise.stats",
    "Stream": "poise._engine.stream",
    "ThisWorker": "poise._worker.current",
    "UnknownOption": "poise.errors",
    "View": "poise.view",
    "Worker": "poise.view",
    "WorkerLost": "poise.errors",
    "WorkerStats": "poise.stats",
    "WrongLoop": "poise.errors",
    "batched": "poise.batching",
    "cancelled": "poise._worker.current",
    "ray_here": "poise._ray.here",
    "this_worker": "poise._worker.current",
}


def __getattr__(name: str) -> object:
    """Import a public name from where it is defined."""
    if name == "__version__":
        from importlib.metadata import version

        return version(__name__)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
