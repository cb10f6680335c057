"""The lane to a host actor: by a socket, if there is one, and by Ray for what a socket cannot carry."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from poise._answers import RAISED, Answer
from poise._lanes.actor import Actor
from poise._lanes.book import FunctionBook
from poise._lanes.door import Door
from poise._lanes.express import Express
from poise._lanes.freight import Freight
from poise._lanes.lane import BY_ITSELF, Listener, Origin, Parcel
from poise._protocol.codec import pack_arguments
from poise._protocol.messages import CALL, CallMessage, is_express, new_call
from poise._protocol.words import describe
from poise.errors import PayloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from poise._lanes.logs import Logs
    from poise._lanes.redefined import KnownClasses
    from poise._lanes.unreachable import Unreachables
    from poise._protocol.functions import TypeNames
    from poise._protocol.payloads import Packed
    from poise._protocol.records import LogBatch

LAST_WORDS: Final = 2.0
"""Seconds that the end of the connection to a dead worker is waited for, so that everything it said has been read."""


class HostLane:
    """The way to one host actor. Whichever way calls go they meet in one inbox, so the scheduler's order holds."""

    _pack: Callable[[tuple[Any, ...], dict[str, Any]], Packed] = staticmethod(pack_arguments)
    """Packs the arguments of a call."""

    def __init__(
        self,
        worker_id: int,
        listener: Listener,
        handle: Any,
        serving: Any,
        known: KnownClasses | None = None,
        *,
        writable: bool = False,
        logs: Logs | None = None,
        unreachables: Unreachables | None = None,
    ) -> None:
        """Reach a host by Ray.

        Args:
            worker_id: the worker's number in the pool.
            listener: the engine's ear.
            handle: the handle of the actor.
            serving: the reference of its `serve` call, which fails when the actor dies.
            known: the classes of the pool's workers.
            writable: whether large arrays arrive writable, as small ones do.
            logs: takes what the worker logs, if it was told to tell.
            unreachables: hears of its node if it is lost on another.
        """
        self.origin = Origin(lane="freight")
        self.most_ahead = 0
        self.worker_id = worker_id
        self._listener = listener
        self._known = known
        self._writable = writable
        self._book = FunctionBook(())
        self._loop = asyncio.get_running_loop()
        self._refusals: Door[Answer] = Door(self._loop, partial(listener.on_answers, worker_id), self._fail)
        self.actor = Actor(worker_id, handle, lose=self._lose, on_exit=self._on_exit, on_news=self._on_news, logs=logs)
        self._logs = logs
        self._unreachables = unreachables
        self._is_silent = False
        """Whether it was lost by the silence of its host, and not by its end."""
        self._freight = self.new_freight()
        self._freight.listen(None, serving)
        self._express: Express | None = None
        self._last_words: str | None = None
        self._killing: asyncio.Task[None] | None = None

    async def start(self, node: str, placed: Callable[[], None]) -> None:
        """Wait until the instance is constructed.

        Args:
            node: Ray's id of the node that this process is on.
            placed: called when the actor's process is there.

        Raises:
            StartFailed: it will not be.
        """
        self._learn(await self.actor.start(node, placed))
        is_far = self.actor.node != node
        self.origin = Origin(self.actor.pid, self.actor.node, "freight", is_far=is_far)

    def _learn(self, classes: TypeNames) -> None:
        """Its instance is of these classes."""
        self._book = FunctionBook(classes, self._known)

    def new_express(self) -> Express:
        """What speaks to the worker over a socket, once that is connected: see `use`."""
        return Express(self, self._listener, writable=self._writable)

    def new_freight(self) -> Freight:
        """What has Ray carry what a socket cannot."""
        return Freight(
            self.actor, self._listener, refuse=self._refuse, lose=self._lose, fail=self._fail, writable=self._writable
        )

    def use(self, express: Express) -> None:
        """Go by this socket from now on."""
        self._express = express
        self.most_ahead = express.most_ahead
        self.origin = replace(self.origin, lane="express")

    # -----------------------------------------------------------------------------------------------------------------
    # To the worker

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Give the worker these calls, each by the way that can carry it."""
        express = self._express
        for parcel in parcels:
            call_id = parcel.call_id
            name: str | bytes | None = None
            try:
                target = self._book.target(parcel.function)
                arguments = self._pack(parcel.args, parcel.kwargs)
            except PayloadError as error:
                self._refuse(call_id, error)
                continue
            if express is not None and is_express(arguments):
                name = target if isinstance(target, str) else express.define(target)
            if express is None or name is None:
                self._freight.send(CallMessage(CALL, call_id, target, arguments, parcel.credit, None, parcel.headers))
            else:
                mark = express.mark(call_id) if parcel.is_ahead else None
                express.send(new_call((CALL, call_id, name, arguments, parcel.credit, mark, parcel.headers)))
        if express is not None:
            if parcels[0].is_ahead:
                express.flush_soon()
            else:
                express.flush()  # a slot is idle, so this is worth a write of its own

    def recall(self, call_ids: Sequence[int]) -> None:
        """Ask for these calls back; without a socket every call that was sent may have begun, and none comes."""
        if self._express is not None:
            self._express.recall(call_ids)
        else:
            self._loop.call_soon(self._listener.on_recall_done, self.worker_id)

    def withdraw(self, call_ids: Sequence[int]) -> None:
        """Take back what has not begun, and hear what the worker has said, written or not."""
        if self._express is not None:  # else nothing is sent ahead
            self._express.withdraw(call_ids)

    def cancel(self, call_id: int) -> None:
        """Drop the call if it has not begun; stop it if it is a coroutine or a stream."""
        self._way_of(call_id).cancel(call_id)

    def credit(self, call_id: int, items: int) -> None:
        """Let the stream send this many more items."""
        self._way_of(call_id).credit(call_id, items)

    def _way_of(self, call_id: int) -> Express | Freight:
        return self._freight if self._express is None or self._freight.carries(call_id) else self._express

    def fetch(self, call_id: int, method: str, number: int, arrived: Callable[[Any], object]) -> None:
        """Have Ray bring what the socket cannot carry and waits in the worker; an `Answer` says that it is lost."""
        self._freight.fetch(call_id, method, number, arrived)

    def _refuse(self, call_id: int, error: PayloadError) -> None:
        """Answer for a call that could not be sent."""
        self._refusals.put(Answer(call_id, RAISED, error))

    async def stacks(self) -> str:
        """What its threads and tasks are doing, asked by Ray: whatever it runs, a thread of its own answers."""
        return await self.actor.stacks()

    # -----------------------------------------------------------------------------------------------------------------
    # Death

    async def close(self, timeout: float) -> None:
        """Let an idle worker close what it holds, for so many seconds at most, then end it as `kill` does."""
        await self._end(timeout)

    async def kill(self) -> None:
        """End the worker at once and return when it is gone. Safe to call again, and after the worker's death."""
        await self._end(0.0)

    async def _end(self, timeout: float) -> None:
        if self._killing is None:
            self._killing = asyncio.ensure_future(self._kill(timeout))
        await asyncio.shield(self._killing)

    async def _kill(self, timeout: float) -> None:
        await self.actor.close(timeout)
        await self.actor.kill()
        self._freight.clear()
        if self._express is not None:
            await self._express.wind_up(LAST_WORDS)
        if self._logs is not None:
            await self._logs.settle()

    def _on_news(self, what: str, *details: Any) -> None:
        if self._killing is not None:
            return
        if what == "grown":
            resident, is_fresh = details
            self._listener.on_grown(self.worker_id, resident, is_fresh=is_fresh)
        else:
            self._listener.on_retire(self.worker_id, BY_ITSELF if what == "retire" else f"it got {what}")

    def _on_exit(self) -> None:
        if self._express is not None:
            self._express.read_out()

    def on_logs(self, batch: LogBatch) -> None:
        """The worker has logged this."""
        if self._logs is not None:
            self._logs.hear(self.worker_id, batch)

    def on_unlinked(self, error: Exception | None, *, is_read_out: bool) -> None:
        """The socket's connection has ended, and everything that came over it has been heard."""
        self._express = None
        self._is_silent = error is not None and not is_read_out
        why = self.actor.how_it_ended() if is_read_out else f"the connection to it was lost: {error!r}"
        self._lose(self._last_words or why, all_in_doubt=not is_read_out)

    def _lose(self, reason: str, *, all_in_doubt: bool = False) -> None:
        """The worker is dead: so say Ray, the kernel or the end of the connection."""
        if self._express is not None:  # what it said before is still to be read, and its end tells the rest
            if self._last_words is None:
                self._last_words = reason
                self._loop.call_later(LAST_WORDS, self._express.cut)
        elif self.actor.lost() and self._killing is None:
            if self._unreachables is not None and self.origin.is_far and self.origin.node is not None:
                self._unreachables.note(self.origin.node, is_silent=self._is_silent)
            self._listener.on_lost(self.worker_id, reason, all_in_doubt=all_in_doubt)

    def _fail(self, error: Exception) -> None:
        """What the worker said is lost by a fault of poise's own."""
        self._lose(f"what it said was not understood: {describe(error)}", all_in_doubt=True)
