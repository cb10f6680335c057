"""One host actor, as its caller sees it: how it starts, that it lives, and how its process ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from typing import TYPE_CHECKING, Any, Final

import ray
from ray.exceptions import RayError

from poise._lanes.answers import start_failed
from poise._lanes.creation import kill_actor, kill_forgotten
from poise._lanes.death import ProcessWatch
from poise._lanes.door import Door
from poise._lanes.lane import StartFailed
from poise._lanes.logs import Pull
from poise._protocol.words import describe
from poise._ray.blocking import in_thread_within, outcome_of
from poise._ray.errors import CONNECTION_ENDED, last_words
from poise._ray.quiet import tell_of
from poise.errors import PoiseError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from poise._lanes.logs import Logs
    from poise._protocol.functions import TypeNames

_log = logging.getLogger("poise")

TOLD_BY_RAY: Final = 0.5
"""Seconds after the end of a process in which Ray may still say why."""

PLACED_WITHIN: Final = 10.0
"""Seconds after which an actor that has not been heard of is taken to wait for room, and for no process any more."""

KILLED_BY_RAY: Final = 2.0
"""Seconds after which a process that Ray was to kill is killed directly."""


class Actor:
    """The actor of one worker."""

    def __init__(
        self,
        worker_id: int,
        handle: Any,
        *,
        lose: Callable[[str], object],
        on_exit: Callable[[], object],
        on_news: Callable[..., object],
        logs: Logs | None = None,
    ) -> None:
        """Take an actor that Ray has taken note of.

        Args:
            worker_id: the worker's number in the pool.
            handle: Ray's handle of the actor, a `Host`.
            lose: called, perhaps more than once, when the actor is dead or cannot be called, with the reason.
            on_exit: called when the kernel says that the process has ended, before that.
            on_news: called with what it says of itself, see `poise._worker.host.News`.
            logs: takes what it logs, if it was told to tell.
        """
        self.worker_id = worker_id
        self.handle: Any = handle
        """None once it was killed."""
        self.pid: int | None = None
        self.node: str | None = None
        """Ray's id of the node that it is on."""
        self.is_started = False
        self.is_lost = False
        """Whether nothing more is said to it, and nothing more is heard of it."""
        self._lose = lose
        self._on_exit = on_exit
        self._on_news = on_news
        self._loop = asyncio.get_running_loop()
        self._asked_at = self._loop.time()
        self._process: ProcessWatch | None = None
        self._fate: str | None = None
        """How the process ended, if the kernel has told."""
        self._dead = asyncio.Event()
        self._news: Any = None
        self._logs = logs
        self._pull: Pull | None = None
        """What brings its logs by Ray."""
        self._news_heard: Door[Future[Any]] = Door(self._loop, self._hear_news, lambda error: lose(describe(error)))
        # A pool that is forgotten unclosed leaves no actor: `serve` keeps one alive that has lost its last handle.
        self._forgotten = weakref.finalize(self, kill_forgotten, handle)
        self._forgotten.atexit = False

    async def start(self, node: str, placed: Callable[[], None]) -> TypeNames:
        """Wait until the instance is constructed, and return its classes.

        Args:
            node: Ray's id of the node that this process is on.
            placed: called when the actor's process is there.

        Raises:
            StartFailed: it will not be.
        """
        ready = self.handle.ready.remote()
        try:
            self.pid, self.node = pid, where = await outcome_of(self.handle.hello.remote())
            placed()
            self._listen_to_logs()
            tell_of(where, pid)
            if where == node:
                with contextlib.suppress(OSError, NotImplementedError):
                    self._process = ProcessWatch(pid, self._loop, self._exited)
            classes, failure = await outcome_of(ready)
        except RayError as error:
            raise StartFailed(f"the worker died while it started: {last_words(error)}") from None
        if failure is not None:
            raise start_failed(failure)
        self.is_started = True
        self._ask_for_news()
        return classes  # type: ignore[no-any-return]

    def _listen_to_logs(self) -> None:
        if self._logs is not None:
            self._logs.add(self)
            self._pull = Pull(self, self._logs)
            self._pull.ask()

    def _ask_for_news(self) -> None:
        self._news = self.call("news")  # a reference that is dropped never answers
        self._news.future().add_done_callback(self._news_heard.way_in())

    def _hear_news(self, futures: list[Future[Any]]) -> None:
        for future in futures:
            if future.exception() is None and (news := future.result()) is not None:
                if self.may_call():
                    self._ask_for_news()
                self._on_news(*news)

    def may_call(self) -> bool:
        """Whether it can be called."""
        if self.handle is None or self.is_lost:
            return False
        if not ray.is_initialized():  # a call would start another Ray
            self._loop.call_soon(self._lose, "Ray has been shut down")
            return False
        return True

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the host, if `may_call`, and return Ray's reference.

        Raises:
            Exception: Ray has no room for the arguments, or what else it may raise.
        """
        return getattr(self.handle, method).remote(*args)

    def tell(self, method: str, *args: Any) -> None:
        """Call the host; if it does not hear it, it is dead, and that is heard elsewhere."""
        if self.may_call():
            with contextlib.suppress(Exception):
                self.call(method, *args)

    async def stacks(self) -> str:
        """What the worker is doing.

        Raises:
            PoiseError: it is dead.
        """
        if not self.may_call():
            raise PoiseError("the worker has ended")
        try:
            text: str = await outcome_of(self.call("stacks"))
        except RayError as error:
            raise PoiseError(f"the worker has ended: {last_words(error)}") from None
        return text

    # -----------------------------------------------------------------------------------------------------------------
    # Death

    def lost(self) -> bool:
        """Take note that it is dead, or out of reach, and say whether that is news."""
        if self._process is None:
            self._dead.set()
        was_lost, self.is_lost = self.is_lost, True
        return not was_lost

    def how_it_ended(self) -> str:
        """What the kernel says of its end."""
        if self._process is not None:
            self._fate = self._process.look()
        return self._fate or "its process ended"

    def why(self, error: BaseException) -> str:
        """Why it is lost: what Ray says, what the kernel says, or both."""
        words, fate = last_words(error), self.how_it_ended()
        if self._fate is None:
            return words
        return fate if CONNECTION_ENDED in words else f"{fate}; Ray says: {words}"

    def _exited(self) -> None:
        """The process has ended. Ray hears of it a moment later, and may know why."""
        why = self.how_it_ended()
        self._process = None
        self._dead.set()
        self._loop.call_later(TOLD_BY_RAY, self._lose, why)
        self._on_exit()

    async def close(self, timeout: float) -> None:
        """Have the host close what it holds, for so many seconds at most, and its process end in good order."""
        if timeout <= 0 or self.pid is None or not self.may_call():
            return  # it has no process yet, or no more
        try:
            async with asyncio.timeout(timeout):
                await self._leave()
        except TimeoutError:
            text = "worker %d was not done with closing after close_timeout=%g s and is killed"
            _log.warning(text, self.worker_id, timeout)

    async def _leave(self) -> None:
        try:
            failures: list[str] | None = await outcome_of(self.handle.close.remote())
            if self._pull is not None:
                await self._pull.over.wait()  # nothing that it has logged is lost
            if failures is None:
                return
            for failure in failures:
                _log.warning("worker %d: %s", self.worker_id, failure)
            self.tell("end")
        except RayError:
            return  # it has died of itself
        await self._dead.wait()

    async def kill(self) -> None:
        """End the process at once, and return when it is gone."""
        if self._logs is not None:
            self._logs.remove(self)
        if self.pid is None:
            await self._let_arrive()
        handle, self.handle = self.handle, None
        self._forgotten.detach()
        await in_thread_within(KILLED_BY_RAY, "for Ray to kill an actor", kill_actor, handle)
        if not await self._is_gone_within(KILLED_BY_RAY) and self._process is not None:
            self._process.kill()
            await self._is_gone_within(KILLED_BY_RAY)
        if not self._dead.is_set():
            _log.warning("worker %d (process %s) was killed and has not ended yet", self.worker_id, self.pid)
        self.is_lost = True
        self._news = None
        if self._process is not None:
            self._process.close()
            self._process = None

    async def _let_arrive(self) -> None:
        """Wait for an actor that has not been heard of, if Ray may be starting a process for it.

        Ray does not get back the room of an actor that it kills just then: its GCS ignores the lease that is granted to
        an actor that has been killed meanwhile, and nobody returns it.
        """
        if self.may_call():
            with contextlib.suppress(RayError, TimeoutError):  # it is dead; it waits for room
                async with asyncio.timeout_at(self._asked_at + PLACED_WITHIN):
                    await outcome_of(self.handle.hello.remote())

    async def _is_gone_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._dead.wait()
        except TimeoutError:
            return False
        return True
