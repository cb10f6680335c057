"""The way from a client to the owner of its shared pool, which to its engine is the pool's one worker."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import ray
from ray.exceptions import GetTimeoutError, RayError

from poise._answers import RAISED, Answer
from poise._lanes.book import FunctionBook
from poise._lanes.caller_link import CallerLink
from poise._lanes.express import Express
from poise._lanes.failures import answer_of_failure
from poise._lanes.lane import Listener, Origin, Parcel, StartFailed
from poise._protocol.codec import pack_arguments
from poise._protocol.crates import uncrate
from poise._protocol.memory import memory_beside
from poise._protocol.messages import CALL, CLASSES, KILL, RETIRE, SUBMIT, CallMessage, is_express
from poise._protocol.payloads import for_ray
from poise._protocol.peer import peer_uid
from poise._protocol.words import describe
from poise._ray.blocking import outcome_of
from poise._shared.marks import ClientMarks, make_marks
from poise._shared.terms import heard
from poise.errors import LoopBlocked, PayloadError, PoiseError, WorkerLost

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence

    from poise._lanes.redefined import KnownClasses
    from poise._protocol.functions import Target, TypeNames
    from poise._protocol.payloads import Packed
    from poise._protocol.records import LogBatch
    from poise._shared.terms import Greeting
    from poise.stats import Stats

_ray: Any = ray  # its own types leave out some of what it takes and gives


@dataclass(slots=True, eq=False)
class SharedParcel(Parcel):
    """One attempt of a call of a shared pool."""

    name: str = ""
    """Its function, for messages."""
    terms: list[Any] = field(default_factory=list[Any])
    """Whether it may wait for room, and its `Terms`, None if it has none."""


class SharedListener(Listener, Protocol):
    """The engine's ear."""

    def on_stopped(self) -> None:
        """Somebody has ended the pool for all that use it."""


class OwnerLane:
    """The way to one owner."""

    most_ahead: int = 0

    def __init__(
        self,
        worker_id: int,
        listener: SharedListener,
        pool: str,
        client: str,
        owner: Any,
        greeting: Greeting,
        known: KnownClasses,
    ) -> None:
        """Say nothing before `connect`.

        Args:
            worker_id: the owner's number in the engine.
            listener: the engine's ear.
            pool: the pool's name.
            client: what tells this client from the others.
            owner: the handle of the actor.
            greeting: what it has said of itself.
            known: the classes of the workers, as they are here.
        """
        self.worker_id = worker_id
        self.origin = Origin(greeting.pid, greeting.node, "express")
        self.greeting = greeting
        self.owner = owner
        """The handle of the actor."""
        self._pool = pool
        self._client = client
        self._listener = listener
        self._known = known
        self._book = FunctionBook(greeting.classes, known)
        self._loop = asyncio.get_running_loop()
        self.express = OwnerExpress(self, listener, writable=greeting.is_writable)
        self.marks: ClientMarks | None = None
        """What is known of calls if the owner dies; None if nothing is."""
        self.deposits: dict[int, Any] = {}
        """References to arguments, which this process owns, for as long as their calls last."""
        self._errands: set[asyncio.Task[None]] = set()
        self._is_fresh = True
        """Whether nothing was written in this turn of the loop."""
        self._thread = threading.get_ident()
        self._is_ending = False
        self.is_connected = False
        """Whether there has been a connection."""

    async def connect(self) -> None:
        """Connect on this node.

        Raises:
            StartFailed: the owner cannot be reached so.
        """
        with tempfile.TemporaryDirectory(prefix="poise-") as directory:  # mode 0700
            path = os.path.join(directory, "owner")
            try:
                marks = make_marks(memory_beside(path))
                await outcome_of(self.owner.listen.remote(self._client, path))
                _, link = await self._loop.create_unix_connection(lambda: CallerLink(self.express), path)
            except (OSError, RayError) as error:
                raise StartFailed(f"the owner of the shared pool cannot be reached: {describe(error)}") from None
        uid = peer_uid(link.endpoint)
        if uid is not None and uid != os.geteuid():
            link.transport.abort()
            raise StartFailed(f"the owner's socket belongs to user {uid}, and this is user {os.geteuid()}")
        self.marks = ClientMarks(marks)
        self.express.use(link)
        self.is_connected = True

    # -----------------------------------------------------------------------------------------------------------------
    # To the owner

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Give the owner these calls, in order."""
        for parcel in parcels:
            assert isinstance(parcel, SharedParcel)
            try:
                target = self._book.target(parcel.function)
                arguments = pack_arguments(parcel.args, parcel.kwargs)
            except PayloadError as error:
                self._refuse(parcel.call_id, error)
                continue
            name = target if isinstance(target, str) else self.express.define(target)
            mark = None if self.marks is None else self.marks.mark(parcel.call_id)
            if name is None or not is_express(arguments):
                self._deposit(parcel, target, arguments, mark)
                continue
            rest = parcel.credit, mark, parcel.name, parcel.terms, parcel.headers
            self.express.send((SUBMIT, parcel.call_id, name, arguments, *rest))
        self._flush()

    def _flush(self) -> None:
        """Write at once what comes first in a turn of the loop, and what follows in that turn together."""
        if self._is_fresh:
            self._is_fresh = False
            self._loop.call_soon(self._end_turn)
            self.express.flush()

    def _end_turn(self) -> None:
        self._is_fresh = True
        self.express.flush()

    def _deposit(self, parcel: SharedParcel, target: Target, arguments: Packed, mark: int | None) -> None:
        """Put the arguments into Ray's object store, from where the worker takes them, and tell the owner."""
        call_id = parcel.call_id
        if (terms := parcel.terms[1]) is not None and "batch" in terms:  # it goes alone
            parcel.terms[1] = {name: value for name, value in terms.items() if name != "batch"}
        try:
            deposit = self.deposits[call_id] = _ray.put((for_ray(arguments),))
            call = CallMessage(CALL, call_id, target, b"", parcel.credit, None, parcel.headers)
            sent = self.owner.submit.remote(self._client, call, (mark, parcel.name, parcel.terms), [deposit])
        except Exception as error:  # noqa: BLE001 - Ray has no room for them, or what else it may raise
            self._refuse(
                call_id, PayloadError("the arguments", f"Ray does not take them: {describe(error)}", started=False)
            )
            return
        self._run(self._see_through(call_id, sent))

    async def _see_through(self, call_id: int, sent: Any) -> None:
        try:
            await outcome_of(sent)
        except RayError as error:
            if (answer := answer_of_failure(call_id, error)) is not None:
                self.hear([answer])
            else:
                self.express.cut()  # the owner is dead, or cannot be reached: what that means for all is decided once

    def recall(self, call_ids: Sequence[int]) -> None:  # noqa: ARG002 (as of a `Lane`)
        """The owner gives nothing back that it was given."""
        self._loop.call_soon(self._listener.on_recall_done, self.worker_id)

    def withdraw(self, call_ids: Sequence[int]) -> None:
        """Nothing is sent ahead."""

    def cancel(self, call_id: int) -> None:
        """Drop the call; or give back the worker that it has asked for."""
        self.express.cancel(call_id)

    def take_back(self, call_ids: Iterable[int]) -> list[int]:
        """Give these calls up, and say which of them have not begun and never will."""
        return [] if self.marks is None else self.marks.take_back(call_ids)

    def kill_call(self, call_id: int, grace: float | None) -> None:
        """End the worker that still runs the call after so many seconds, None for as many as the pool gives."""
        self.express.kill(call_id, grace)

    def credit(self, call_id: int, items: int) -> None:
        """Let the stream send this many more items."""
        self.express.credit(call_id, items)

    async def stacks(self) -> str:
        """An owner is asked for the stacks of its workers, and not for its own.

        Raises:
            PoiseError: always.
        """
        raise PoiseError("the owner of a shared pool does not tell what it is doing")

    async def ask(self, what: str, *args: Any) -> Any:
        """Have something done with the pool.

        Raises:
            WorkerLost: the owner has died, and may have done it.
            Exception: what the pool raises.
        """
        self.express.flush()
        try:
            outcome = await outcome_of(self.owner.ask.remote(what, *args))
        except RayError as error:
            raise WorkerLost(self.worker_id, f"the owner of the shared pool has ended: {describe(error)}") from None
        return heard(outcome)

    def stats(self, within: float) -> Stats:
        """What the pool is doing; any thread may ask.

        Raises:
            LoopBlocked: the owner has not answered within so many seconds.
            WorkerLost: it has ended.
        """
        if threading.get_ident() == self._thread:
            self.express.flush()  # so that the owner hears first of what was done before
        try:
            stats: Stats = _ray.get(self.owner.stats.remote(), timeout=within)
        except GetTimeoutError:
            raise LoopBlocked(within) from None
        except RayError as error:
            raise WorkerLost(self.worker_id, describe(error), started=False) from None
        return stats

    def _refuse(self, call_id: int, error: PayloadError) -> None:
        self._loop.call_soon(self.hear, [Answer(call_id, RAISED, error)])

    # -----------------------------------------------------------------------------------------------------------------
    # From the owner

    def hear(self, answers: list[Answer]) -> None:
        """Calls have ended."""
        for answer in answers:
            self.let_go(answer.call_id)
        self._listener.on_answers(self.worker_id, answers)

    def let_go(self, call_id: int) -> None:
        """A call has ended: nothing is kept for it."""
        if self.marks is not None:
            self.marks.let_go(call_id)
        if self.deposits:
            self.deposits.pop(call_id, None)

    def fetch(self, call_id: int, method: str, number: int, arrived: Callable[[Any], object]) -> None:
        """Have Ray bring what the socket cannot carry; an `Answer` says that it is lost."""
        self._run(self._fetch(call_id, method, number, arrived))

    async def _fetch(self, call_id: int, method: str, number: int, arrived: Callable[[Any], object]) -> None:
        try:
            crated = await outcome_of(getattr(self.owner, method).remote(self._client, number))
            if type(crated) is list:  # where it is: the owner has not had it in its hands
                crated = await outcome_of(crated[0])
        except RayError as error:
            if (answer := answer_of_failure(call_id, error)) is not None:
                arrived(answer)
            else:
                self.express.cut()
            return
        contents = uncrate(crated)
        if len(contents) == 2:  # an answer, and whether its worker retires
            contents = contents[0]
        arrived(contents if len(contents) == 1 else (call_id, *contents[1:]))

    def _run(self, errand: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    def know(self, classes: TypeNames) -> None:
        """The workers' instances are of these classes."""
        self._book = FunctionBook(classes, self._known)

    def on_stopped(self) -> None:
        """Somebody has ended the pool."""
        self._listener.on_stopped()

    def on_logs(self, batch: LogBatch) -> None:
        """An owner logs nothing here."""

    def on_unlinked(self, error: Exception | None, *, is_read_out: bool) -> None:  # noqa: ARG002 (as of an express lane)
        """The connection has ended."""
        for errand in list(self._errands):
            errand.cancel()
        if not self._is_ending:
            why = "has ended" if error is None else f"cannot be reached any more: {describe(error)}"
            reason = f"the owner of the shared pool {self._pool!r} (process {self.origin.pid}) {why}"
            self._listener.on_lost(self.worker_id, reason)

    # -----------------------------------------------------------------------------------------------------------------
    # The end of this client's use of it

    async def close(self, timeout: float) -> None:  # noqa: ARG002 (as of a `Lane`)
        """Leave; the owner is told so by the end of the connection."""
        await self.kill()

    async def kill(self) -> None:
        """Leave at once. Safe to call again, and after the owner's death."""
        self._is_ending = True
        for errand in list(self._errands):
            errand.cancel()
        if self.is_connected:
            await self.express.wind_up(0.0)


class OwnerExpress(Express):
    """What goes by the socket, in the words of a worker and some more."""

    def __init__(self, lane: OwnerLane, listener: Listener, *, writable: bool) -> None:
        super().__init__(lane, listener, writable=writable)
        self._lane = lane

    def kill(self, call_id: int, grace: float | None) -> None:
        """Have the worker killed that still runs a call after so many seconds."""
        self._say((KILL, call_id, grace))

    def _hand_over(self, answers: list[Answer]) -> None:
        if answers:
            for answer in answers:
                self._lane.let_go(answer.call_id)
            super()._hand_over(answers)

    def _hear_other(self, message: list[Any], buffers: Iterator[Any]) -> None:
        if message[0] == CLASSES:
            self._lane.know([(module, name) for module, name in message[1]])
        elif message[0] == RETIRE:
            self._lane.on_stopped()
        else:
            super()._hear_other(message, buffers)
