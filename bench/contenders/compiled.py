"""Ray Compiled Graphs: a call whose way was laid before, through shared memory."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import ray

from bench.contenders.contender import Contender, Missing
from bench.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ray: Any = ray

MOST: Final = 10
"""Executions that a graph has under way at most, as it is by default."""


class CompiledGraph(Contender):
    """`experimental_compile`: one graph of one method for each actor, which take turns."""

    key = "compiled"
    label = "Ray Compiled Graph"

    def __init__(self) -> None:
        self._actors: list[Any] = []
        self._graphs: list[Any] = []

    async def open(self, workers: int) -> None:
        """Create the actors, and compile a graph for each."""
        try:
            from ray.dag import InputNode
        except ImportError as error:
            raise Missing(str(error)) from None
        for name in ("ray.dag.compiled_dag_node", "ray.experimental.channel"):
            logging.getLogger(name).setLevel(logging.ERROR)
        actor_class = _ray.remote(Worker)
        self._actors = [actor_class.remote() for _ in range(workers)]
        await asyncio.gather(*[actor.echo.remote(0) for actor in self._actors])
        for actor in self._actors:
            with InputNode() as value:
                graph = actor.echo.bind(value)
            self._graphs.append(graph.experimental_compile(enable_asyncio=True))
        self._next: Iterator[Any] = itertools.cycle(self._graphs)

    async def call(self, method: str, *args: Any) -> Any:
        """The next graph's turn."""
        if method != "echo":
            raise Missing("a graph has one method")
        return await (await next(self._next).execute_async(*args))

    async def together(self, method: str, values: Sequence[Any]) -> Sequence[Any]:
        """As many at once as the graphs have room for, the first ones awaited first."""
        if method != "echo":
            raise Missing("a graph has one method")
        results: list[Any] = []
        under_way: deque[Any] = deque()
        for value in values:
            if len(under_way) == MOST * len(self._graphs):
                results.append(await under_way.popleft())
            under_way.append(await next(self._next).execute_async(value))
        results += [await each for each in under_way]
        return results

    async def close(self) -> None:
        """Take the graphs down, and kill the actors."""
        graphs, self._graphs = self._graphs, []
        for graph in graphs:
            await asyncio.to_thread(graph.teardown)
        actors, self._actors = self._actors, []
        for actor in actors:
            _ray.kill(actor)
