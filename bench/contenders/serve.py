"""Ray Serve, called through a deployment handle, with no HTTP in between."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, ClassVar

from bench.contenders.contender import Contender, Missing
from bench.worker import Worker


def deploy(serve: Any, kind: type, replicas: int, name: str) -> Any:
    """Deploy so many replicas of a class, and return their handle; blocks until they run."""
    deployment: Any = serve.deployment(
        num_replicas=replicas,
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0},
        logging_config={"log_level": "ERROR", "enable_access_log": False},
    )(kind)
    return serve.run(deployment.bind(), name=name, route_prefix=None, _local_testing_mode=False)


class Serve(Contender):
    """A handle as Serve gives it: a Ray call to a replica."""

    key = "serve"
    label = "Ray Serve handle"
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        self._handle: Any = None
        self._methods: dict[str, Any] = {}
        self._serve: Any = None

    async def open(self, workers: int) -> None:
        """Deploy so many replicas."""
        try:
            from ray import serve
        except ImportError as error:
            raise Missing(str(error).partition(". ")[0]) from None
        self._serve = serve
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        self._handle = await asyncio.to_thread(deploy, serve, Worker, workers, "bench")
        try:
            self._handle = self._handle.options(**self.options)
        except TypeError as error:
            raise Missing(f"this Ray's handle takes no {', '.join(self.options)}: {error}") from None

    async def call(self, method: str, *args: Any) -> Any:
        """Through the handle."""
        handle = self._methods.get(method)
        if handle is None:
            handle = self._methods[method] = getattr(self._handle, method).options(**self.options)
        return await handle.remote(*args)

    async def close(self) -> None:
        """Shut Serve down, its controller and proxy too."""
        self._methods.clear()
        if self._serve is not None:
            await asyncio.to_thread(self._serve.shutdown)


class ServeByValue(Serve):
    """A handle that sends arguments and results by value over gRPC."""

    key = "serve-grpc"
    label = "Ray Serve handle, by value (gRPC)"
    options: ClassVar[dict[str, Any]] = {"_by_reference": False}
