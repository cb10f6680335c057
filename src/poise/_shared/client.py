"""One client of a shared pool, as its owner sees it: a connection, the calls that came over it, and its leases."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import OrderedDict
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any, Final

from poise._answers import NOT_BEGUN, Answer
from poise._lanes.caller_link import CallerLink
from poise._protocol.crates import crate_answer, crate_item
from poise._protocol.frames import FrameError, Unloaded
from poise._protocol.messages import (
    CANCEL,
    CLASSES,
    COLLECT,
    COLLECT_ITEM,
    CREDIT,
    DEFINE,
    ITEM,
    KILL,
    REPLY,
    RETIRE,
    SUBMIT,
    is_express,
    load,
    load_function,
    unload,
    whole,
)
from poise._protocol.payloads import Forwarded, Payload
from poise._protocol.peer import peer_uid
from poise._shared.calls import RelayedCall
from poise.errors import PoiseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from poise._answers import Ending
    from poise._core.calls import CallRecord
    from poise._protocol.crates import Crate
    from poise._protocol.functions import PickledFunction, Target, TypeNames
    from poise._protocol.messages import Headers
    from poise._protocol.payloads import Packed
    from poise._shared.calls import OwnerEngine
    from poise._shared.marks import OwnerMarks

_log = logging.getLogger("poise")

KEPT: Final = 1024
"""Functions of one client that are kept; it takes half as many to be known."""
MISSED: Final = 4096
"""Calls given up before they came, by a slower way, that are remembered."""


class ClientLink(CallerLink):
    """The owner's end of the connection: nobody but this user is let in."""

    peer = "a client of a shared pool"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Look who is there."""
        super().connection_made(transport)
        uid = peer_uid(self.endpoint)
        if uid is not None and uid != os.geteuid():
            self.give_up(PermissionError(f"this is user {os.geteuid()}, and that is user {uid}"))


class Client:
    """A process that uses the pool."""

    def __init__(self, name: str, engine: OwnerEngine, on_gone: Callable[[Client], object]) -> None:
        """Await its connection.

        Args:
            name: tells it from the others; its calls have that for their tenant unless they say otherwise.
            engine: where its calls go.
            on_gone: called once its connection has ended.
        """
        self.name = name
        self.calls: dict[int, RelayedCall] = {}
        """Those that have not ended, by their numbers at the client."""
        self.leases: dict[int, CallRecord] = {}
        """Those that were granted, by the numbers of the calls that asked for them."""
        self._engine = engine
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._link: CallerLink | None = None
        self.marks: OwnerMarks | None = None
        """Where it is marked what may have begun; None if nothing is."""
        self._functions: OrderedDict[bytes, PickledFunction] = OrderedDict()
        self._missed: OrderedDict[int, None] = OrderedDict()
        self._unloaded: list[Unloaded] = []
        self._is_fresh = True
        """Whether nothing was written in this turn of the loop."""
        self._kept: dict[int, Answer] = {}
        """Answers that only Ray can carry, until the client collects them."""
        self._failed: OrderedDict[int, frozenset[int]] = OrderedDict()
        """Workers on which calls have failed that their client may try again."""
        self._items: dict[int, Packed] = {}
        """Stream items likewise, each under a number of its own."""
        self._item_numbers = iter(range(1 << 62))
        self._awaited: set[asyncio.Task[None]] = set()

    @property
    def is_connected(self) -> bool:
        """Whether its connection stands."""
        return self._link is not None

    def use(self, link: CallerLink, marks: OwnerMarks | None) -> None:
        """Its connection stands; what has begun is marked in this memory."""
        self._link = link
        self.marks = marks

    # -----------------------------------------------------------------------------------------------------------------
    # From the client

    def hear(self, frames: list[tuple[list[Any], list[Any]]]) -> None:
        """Take in what it has written, in its order.

        Raises:
            FrameError: it cannot be understood.
        """
        try:
            for messages, buffers in frames:
                rest = iter(buffers)
                for message in messages:
                    if message[0] == SUBMIT:
                        self._submit(message, rest)
                    else:
                        self._obey(message, rest)
        except FrameError:
            raise
        except Exception as error:
            _log.exception("a client of a shared pool cannot be understood")
            raise FrameError(f"this is no message of a client's: {type(error).__name__}: {error}") from error

    def _submit(self, message: list[Any], buffers: Iterator[Any]) -> None:
        _, call_id, target, arguments, credit, mark, name, terms, headers = message
        if type(target) is bytes:
            target = self._functions[target]
        if type(arguments) is not bytes:
            arguments = load(arguments, buffers)
        self.submit(whole(call_id), target, arguments, credit, mark, name, terms, headers)

    def submit(
        self,
        call_id: int,
        target: Target,
        arguments: Packed,
        credit: int | None,
        mark: int | None,
        name: str,
        terms: list[Any],
        headers: Headers | None,
    ) -> None:
        """Take in a call, whichever way it has come."""
        parks, asked = terms
        call = self.calls[call_id] = RelayedCall(self, call_id, target, arguments, credit, mark, name, headers)
        if self._missed and call_id in self._missed:
            del self._missed[call_id]
            call.ended()
            return
        try:
            self._engine.accept(call, asked, parks, self.name)
        except PoiseError as error:
            call.record = None
            call.set_exception(error)

    def _obey(self, message: list[Any], buffers: Iterator[Any]) -> None:
        operation = message[0]
        if operation == CANCEL:
            self._cancel(whole(message[1]))
        elif operation == CREDIT:
            call: Any = self.calls.get(message[1])
            if call is not None:
                self._engine.dispatcher.credit(call, whole(message[2]))
        elif operation == DEFINE:
            function = load_function(message[1], load(message[2], buffers))
            self._functions[function.digest] = function
            self._functions.move_to_end(function.digest)  # as a worker's shelf does: the client goes by that
            if len(self._functions) > KEPT:
                self._functions.popitem(last=False)
        elif operation == KILL:
            self._kill(whole(message[1]), message[2])
        else:
            raise ValueError(f"operation {operation!r}")

    def _cancel(self, call_id: int) -> None:
        if (lease := self.leases.pop(call_id, None)) is not None:
            self._engine.dispatcher.release(lease)
        elif (call := self.calls.get(call_id)) is not None:
            call.cancel()
        else:
            self._missed[call_id] = None
            if len(self._missed) > MISSED:
                self._missed.popitem(last=False)

    def _kill(self, call_id: int, grace: float | None) -> None:
        call: Any = self.calls.get(call_id)
        dispatcher = self._engine.dispatcher
        grace = dispatcher.scheduler.kill_after if grace is None else grace
        if call is not None and not call.has_ended and grace is not None:
            dispatcher.kill(call, grace)

    # -----------------------------------------------------------------------------------------------------------------
    # What becomes of its calls

    def avoided(self, call_id: int) -> frozenset[int]:
        """The workers that a call avoids which its client may try again, as far as it has failed."""
        avoided = self._failed.setdefault(call_id, frozenset())
        if len(self._failed) > MISSED:
            self._failed.popitem(last=False)
        return avoided

    def failed_on(self, call_id: int, worker_id: int) -> None:
        """A call has failed on this worker: nothing of interest unless it may be tried again."""
        if self._failed and call_id in self._failed:
            self._failed[call_id] |= {worker_id}

    def leased(self, call: RelayedCall) -> None:
        """It has a worker for itself."""
        assert call.record is not None
        self.leases[call.call_id] = call.record

    def give_up(self, call: RelayedCall) -> None:
        """Drop a call; one that a worker holds has its end when the worker says so."""
        dispatcher: Any = self._engine.dispatcher
        dispatcher.cancel(call)
        if call.has_ended:
            call.ended()
        else:
            self._await_end(call)

    def reply(self, call: RelayedCall, ending: Ending, packed: Packed | None, service_time: float = 0.0) -> None:
        """Tell how a call has ended; it can be killed for as long as a worker holds it all the same."""
        call_id = call.call_id
        if call.has_ended or call_id in self.leases:
            self.calls.pop(call_id, None)
        elif ending != NOT_BEGUN:
            self._await_end(call, tells=False)
        if packed is not None and not is_express(packed):
            self._kept[call_id] = Answer(call_id, ending, packed, service_time)
            self.say((COLLECT, call_id))
        else:
            self.say((REPLY, call_id, ending, packed, service_time))

    def _await_end(self, call: RelayedCall, *, tells: bool = True) -> None:
        task = self._loop.create_task(self._end(call, tells=tells))
        self._awaited.add(task)
        task.add_done_callback(self._awaited.discard)

    async def _end(self, call: RelayedCall, *, tells: bool) -> None:
        await self._engine.dispatcher.watchers.until(lambda: call.has_ended)
        if tells:
            call.ended()
        elif self.calls.get(call.call_id) is call:
            del self.calls[call.call_id]

    def item(self, call_id: int, item: Packed) -> None:
        """Pass an item of a stream on."""
        if is_express(item):
            self.say((ITEM, call_id, item))
        else:
            number = next(self._item_numbers)
            self._items[number] = item
            self.say((COLLECT_ITEM, call_id, number))

    def collect(self, call_id: int) -> Crate | list[Any]:
        """An answer that waits to be collected, or the reference by which it is found."""
        answer: Any = self._kept.pop(call_id)
        if type(answer.value) is Forwarded:
            return [*answer.value.nested]
        return crate_answer(answer._replace(value=_for_ray(answer.value)))

    def collect_item(self, number: int) -> Crate | list[Any]:
        """An item, likewise."""
        item: Any = self._items.pop(number)
        return [*item.nested] if type(item) is Forwarded else crate_item(_for_ray(item))

    def know(self, classes: TypeNames) -> None:
        """Tell of the workers' classes."""
        self.say((CLASSES, [list(name) for name in classes]))

    def tell_of_end(self) -> None:
        """Tell that somebody ends the pool."""
        self.say((RETIRE,))

    # -----------------------------------------------------------------------------------------------------------------
    # To the client

    def say(self, message: tuple[Any, ...]) -> None:
        """Write a message: at once if it is the first in this turn of the loop, with the others at its end if not."""
        self._unloaded.append(unload(message))
        if self._is_fresh:
            self._is_fresh = False
            self._loop.call_soon(self._end_turn)
            self.flush()

    def _end_turn(self) -> None:
        self._is_fresh = True
        self.flush()

    def flush(self) -> None:
        """Write what was said, unless the client does not read: then it waits until it does."""
        link = self._link
        if link is None or link.is_paused or not self._unloaded:
            return
        unloaded, self._unloaded = self._unloaded, []
        link.say(unloaded, link.peer)

    def unlink(self, link: CallerLink, error: Exception | None) -> None:
        """The connection has ended, by either side."""
        if link is self._link:
            if error is not None:
                _log.info("the connection to %s is lost: %s", self.name, error)
            self._link = None
            self.end()
            self._on_gone(self)

    def cut(self) -> None:
        """End the connection, when what was said has been written."""
        if self._link is not None:
            self._link.transport.close()

    def end(self) -> None:
        """Nobody waits for anything of its any more."""
        self._unloaded.clear()
        self.marks = None
        dispatcher: Any = self._engine.dispatcher
        for call in list(self.calls.values()):
            with contextlib.suppress(PoiseError):
                call.cancel()
        for lease in self.leases.values():  # only now: what waited must not have its worker
            dispatcher.release(lease)
        self.leases.clear()
        for task in list(self._awaited):
            task.cancel()
        self._kept.clear()
        self._items.clear()
        self.calls.clear()


def _for_ray(packed: Payload) -> Payload:
    """The same with its buffers as pickle knows them: what has come by Ray is in buffers of Ray's own kind."""
    return packed._replace(buffers=[PickleBuffer(buffer) for buffer in packed.buffers])
