"""What goes by freight: calls as ordinary Ray calls to the host, for what only Ray can carry, or for all of them.

Ray carries big values through its object store and counts the ObjectRefs that it sees.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from poise._answers import RAISED, Answer
from poise._lanes.answers import unpack_answer, unpack_items
from poise._lanes.door import Door
from poise._lanes.failures import answer_of_failure
from poise._lanes.lane import BY_ITSELF
from poise._protocol.crates import crate_call, uncrate
from poise._protocol.words import describe
from poise.errors import PayloadError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from poise._lanes.actor import Actor
    from poise._lanes.lane import Listener
    from poise._protocol.messages import CallMessage
    from poise._protocol.payloads import Packed


class Freight:
    """The Ray calls to one host, and what comes of them."""

    def __init__(
        self,
        actor: Actor,
        listener: Listener,
        *,
        refuse: Callable[[int, PayloadError], object],
        lose: Callable[[str], object],
        fail: Callable[[Exception], object],
        writable: bool,
    ) -> None:
        """Carry nothing yet.

        Args:
            actor: where the calls go.
            listener: the engine's ear.
            refuse: answers for a call that Ray does not take.
            lose: called when the actor is dead, with the reason.
            fail: called when what the actor said is lost by a fault of poise's own.
            writable: whether large arrays arrive writable, as small ones do.
        """
        self._actor = actor
        self._listener = listener
        self._refuse = refuse
        self._lose = lose
        self.unpack_answer: Callable[[Answer], Answer] = partial(unpack_answer, writable=writable)
        self.unpack_items: Callable[[list[Packed]], tuple[list[Any], Exception | None]]
        self.unpack_items = partial(unpack_items, writable=writable)
        self._loop = asyncio.get_running_loop()
        self._door: Door[tuple[What, Future[Any]]] = Door(self._loop, self._deliver, fail)
        self._streams: dict[int, _Stream] = {}
        self._refs: dict[What, Any] = {}  # a reference that is dropped never answers

    def is_stream(self, what: int | Fetch) -> bool:
        """Whether it is a stream that brings items this way."""
        return what in self._streams

    def carries(self, call_id: int) -> bool:
        """Whether the call, or its answer, goes this way."""
        return call_id in self._refs or call_id in self._streams

    def send(self, call: CallMessage) -> None:
        """Have the host perform a call."""
        if call.credit is not None:
            self._streams[call.call_id] = _Stream(call.credit)
        try:
            self._call(call.call_id, "perform", *self.crates(call))
        except Exception as error:  # noqa: BLE001 - Ray has no room for the arguments, or what else it may raise
            self._streams.pop(call.call_id, None)
            reason = f"Ray does not take them: {describe(error)}"
            self._refuse(call.call_id, PayloadError("the arguments", reason, started=False))

    def crates(self, call: CallMessage) -> tuple[Any, ...]:
        """What `perform` takes."""
        return (crate_call(call),)

    def cancel(self, call_id: int) -> None:
        """Drop the call if it has not begun; stop it if it is a coroutine or a stream."""
        self._actor.tell("cancel", call_id)
        if (stream := self._streams.get(call_id)) is not None:
            stream.is_cancelled = True
            self._pull(call_id, stream)

    def credit(self, call_id: int, items: int) -> None:
        """Let the stream send this many more items."""
        if (stream := self._streams.get(call_id)) is None:
            return
        stream.owed += items
        if stream.is_asked:
            self._actor.tell("credit", call_id, items)
        else:
            self._pull(call_id, stream, items)

    def fetch(self, call_id: int, method: str, number: int, arrived: Callable[[Any], object]) -> None:
        """Hand over what waits in the worker when it has come, or the `Answer` that its loss means for the call."""
        self._ask(Fetch(call_id, arrived), method, number)

    def clear(self) -> None:
        """Forget what is under way: the actor is gone."""
        self._streams.clear()
        self._refs.clear()

    def listen(self, what: What, ref: Any) -> None:
        """Hear of the outcome of a Ray call; see `What`."""
        self._refs[what] = ref
        tell = self._door.way_in()

        def on_ray_done(future: Future[Any]) -> None:  # runs on Ray's thread
            tell((what, future))

        ref.future().add_done_callback(on_ray_done)

    def _pull(self, call_id: int, stream: _Stream, credit: int = 0) -> None:
        if not stream.is_asked:
            stream.is_asked = True
            self._ask(call_id, "pull", call_id, credit)

    def _ask(self, what: What, method: str, *args: Any) -> None:
        try:
            self._call(what, method, *args)
        except Exception as error:  # noqa: BLE001 - as in `send`, and the answer cannot be had otherwise
            self._loop.call_soon(self._lose, f"it cannot be called: {describe(error)}")

    def _call(self, what: What, method: str, *args: Any) -> None:
        if self._actor.may_call():
            self.listen(what, self._actor.call(method, *args))

    # -----------------------------------------------------------------------------------------------------------------
    # From the host

    def _deliver(self, events: list[tuple[What, Future[Any]]]) -> None:
        answers: list[Answer] = []
        loss: BaseException | None = None
        for what, future in events:
            ref = self._refs.pop(what, None)
            if self._actor.is_lost:
                continue
            error = future.exception()
            if what is None:  # `serve` ends by itself when the constructor or the connection has failed
                loss = self._end_of_serving() if error is None else error
            elif error is None:
                self._take(what, self.opened(what, uncrate(future.result()), ref), answers)
            elif (answer := answer_of_failure(_call_id_of(what), error)) is None:
                loss = error
            elif isinstance(what, Fetch):
                what.arrived(answer)
            else:
                self._streams.pop(what, None)
                answers.append(answer)
        if answers:
            self._listener.on_answers(self._actor.worker_id, answers)
        if loss is not None:
            self._lose(self._actor.why(loss))

    def opened(self, what: int | Fetch, contents: Any, ref: Any) -> Any:  # noqa: ARG002 - for who passes them on
        """What a crate holds that has come as the value of this reference."""
        return contents

    def _end_of_serving(self) -> Exception | None:
        return RuntimeError("it takes no more calls") if self._actor.is_started else None

    def _take(self, what: int | Fetch, contents: Any, answers: list[Answer]) -> None:
        if isinstance(what, Fetch):
            what.arrived(contents)
        elif what in self._streams:
            self._take_items(what, contents, answers)
        else:
            reply, retires = contents
            self._hear_of_itself(retires=retires)
            answers.append(self.unpack_answer(reply))

    def _hear_of_itself(self, *, retires: bool) -> None:
        if retires:
            self._listener.on_retire(self._actor.worker_id, BY_ITSELF)

    def _take_items(self, call_id: int, contents: Any, answers: list[Answer]) -> None:
        """Pass a stream's items on, then its end or the next question."""
        packed, end, retires = contents
        self._hear_of_itself(retires=retires)
        stream = self._streams[call_id]
        stream.is_asked = False
        stream.owed -= len(packed)
        items, failure = ([], None) if stream.failure is not None else self.unpack_items(packed)
        if items:
            self._listener.on_items(self._actor.worker_id, call_id, items)
        if failure is not None:
            stream.failure = failure
            if end is None:  # else nothing is left to be stopped, and nobody to answer the question for more
                self.cancel(call_id)
        if end is not None:
            self._streams.pop(call_id, None)
            answer = self.unpack_answer(end)
            if stream.failure is not None:
                answer = Answer(call_id, RAISED, stream.failure, answer.service_time)
            answers.append(answer)
        elif stream.owed > 0 or stream.is_cancelled:
            self._pull(call_id, stream)


class _Stream:
    """A stream on its way."""

    __slots__ = ("failure", "is_asked", "is_cancelled", "owed")

    def __init__(self, credit: int) -> None:
        self.owed = credit  # items that it may send and that have not come
        self.is_asked = True  # whether a call to the host is under way that brings the next items
        self.is_cancelled = False
        self.failure: Exception | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Fetch:
    """Something of a call's that is on its way."""

    call_id: int
    arrived: Callable[[Any], object]


What: TypeAlias = "int | Fetch | None"
"""Of what a Ray call tells: a call; something that is fetched for one; None for `serve`, which ends with the worker."""


def _call_id_of(what: int | Fetch) -> int:
    return what.call_id if isinstance(what, Fetch) else what
