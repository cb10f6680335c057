"""Does for those who look at a pool what they ask for. On their threads, of which none may hold up the pool's loop."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from time import monotonic, perf_counter, sleep
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import ref

from poise._engine.looking import look
from poise.checks import check_whole
from poise.errors import ConfigError, PoolClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from poise._engine.engine import Engine
    from poise._watch.model import Model
    from poise._watch.picture import Picture

R = TypeVar("R")

LOOKS_FOR: Final = 2.0
"""Seconds that a look waits for a loop that is busy."""
RESTS: Final = 10.0
"""How many times as long as a look takes nobody looks after it: however many do, the loop is the pool's."""
ACTS_FOR: Final = 300.0
"""Seconds for which the end of what was begun is waited for."""
BEGINS_IN: Final = 0.2
"""Seconds after which what takes long is taken to be well under way."""


class Desk:
    """Answers requests about one pool. Made on its loop."""

    def __init__(self, engine: Engine, model: Model) -> None:
        self._engine = ref(engine)
        self._name = repr(engine)
        self._model = model
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._resting = threading.Lock()
        self._rests_until = 0.0
        """When the next look may be taken."""
        self._answers: dict[str, Callable[[Engine, dict[str, Any]], object]] = {
            "hello": self._hello,
            "look": self._look,
            "replace": self._replace,
            "drain": self._drain,
            "resize": self._resize,
            "stack": self._stack,
        }

    def answer(self, request: dict[str, Any]) -> object:
        """Do what is asked for, and return what JSON can carry.

        Raises:
            PoiseError: it was not done; says why.
        """
        if (engine := self._engine()) is None:
            raise PoolClosed("the pool is closed")
        wanted: object = request.get("do")
        do = self._answers.get(wanted) if isinstance(wanted, str) else None
        if do is None:
            raise ConfigError("do", wanted, f"one of {', '.join(self._answers)}")
        return do(engine, request)

    def _hello(self, engine: Engine, _: dict[str, Any]) -> dict[str, object]:
        command = os.path.basename(sys.argv[0] if sys.argv else "")
        return {"name": self._name, "program": os.getpid(), "command": command, "state": engine.phase}

    def _look(self, _: Engine, request: dict[str, Any]) -> Picture | None:
        since, bars = request.get("since", 0), request.get("bars", True)
        check_whole("since", since, 0)
        sleep(max(0.0, self._rests_until - monotonic()))

        def see() -> tuple[Picture | None, float]:  # runs on the loop
            began = perf_counter()
            return self._model.changes(since, bars=bool(bars)), perf_counter() - began

        picture, took = look(self._loop, self._thread, see, LOOKS_FOR)
        with self._resting:
            self._rests_until = max(self._rests_until, monotonic()) + RESTS * took
        return picture

    def _replace(self, engine: Engine, request: dict[str, Any]) -> str:
        worker = _worker(request)
        try:
            return f"worker {worker} was replaced by worker {self._wait(engine.replace(worker), ACTS_FOR)}"
        except TimeoutError:
            return f"worker {worker} is to be replaced, and the new one is not ready after {ACTS_FOR:g} s"

    def _drain(self, engine: Engine, _: dict[str, Any]) -> str:
        try:
            self._wait(engine.drain(), BEGINS_IN)
        except TimeoutError:
            return "the pool takes no more calls, and finishes those that it has"
        return "the pool takes no more calls, and has none"

    def _resize(self, engine: Engine, request: dict[str, Any]) -> str:
        size: Any = request.get("size")
        self._wait(engine.resize(tuple(size) if isinstance(size, list) else size), LOOKS_FOR)  # pyright: ignore[reportUnknownArgumentType]
        return f"the pool is to have {size} workers"

    def _stack(self, engine: Engine, request: dict[str, Any]) -> str:
        return self._wait(engine.stacks(_worker(request)), ACTS_FOR)

    def _wait(self, work: Coroutine[Any, Any, R], seconds: float) -> R:
        """Let the loop do something, and wait for it; what takes longer goes on."""
        try:
            doing = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # it is closed
            work.close()
            raise PoolClosed("the pool's loop has ended") from None
        return doing.result(seconds)


def _worker(request: dict[str, Any]) -> int:
    worker: int = request.get("worker", -1)
    check_whole("worker", worker, 0)
    return worker
