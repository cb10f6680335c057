"""The lane to actors that somebody else has made: ordinary Ray calls of their own methods.

Nothing of ours runs there. Ray resolves arguments and orders the calls; a call that has been sent cannot be stopped;
and the actors are not killed when the pool closes.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError, UnserializableException

from poise._answers import RAISED, RETURNED, Answer
from poise._lanes.door import Door
from poise._lanes.lane import Lane, Launcher, Listener, Origin, Parcel, StartFailed
from poise._protocol.codec import pack_arguments
from poise._protocol.credit import Credit
from poise._protocol.functions import method_name, names_like
from poise._protocol.words import callable_name, describe, text_of, type_name
from poise._ray.blocking import outcome_of
from poise._ray.errors import last_words, own_error, remote_text
from poise._ray.init import refuse_client
from poise._ray.session import LETTING_GO, RaySession
from poise.errors import ConfigError, PayloadError, PoiseError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ray: Any = ray  # its own types leave out some of what it takes and gives

_NO_EXCEPTION_OF_THE_USERS: Final = (RayTaskError, UnserializableException, StopIteration, StopAsyncIteration)


class ForeignLauncher:
    """Makes workers of existing actors, each of one."""

    replaces: bool = False

    def __init__(self, handles: Sequence[Any]) -> None:
        """Take the actors' handles.

        Raises:
            ConfigError: there is none, one is no handle, or one is given twice.
            PoiseError: this process is connected by Ray Client.
        """
        refuse_client()
        self._handles = list(handles)
        if not self._handles:
            raise ConfigError("handles", handles, "at least one actor handle")
        for handle in self._handles:
            if not isinstance(handle, ActorHandle):
                raise ConfigError("handles", handle, "actor handles, as `Actor.remote()` returns them")
        if len({_actor_id(handle) for handle in self._handles}) < len(self._handles):
            raise ConfigError("handles", handles, "each actor once, or two calls would run on one at once")
        self._free = list(self._handles)
        self._session = RaySession()
        self._listener: Listener | None = None

    def __repr__(self) -> str:
        return f"{len(self._handles)} actors"

    async def open(self, listener: Listener) -> None:
        """Join Ray."""
        self._listener = listener
        await self._session.open()

    async def default_size(self) -> int:
        """As many workers as there are actors."""
        return len(self._handles)

    async def launch(self, worker_id: int) -> Lane:
        """Wait until the next actor answers.

        Raises:
            StartFailed: it is dead, or there are no more.
        """
        assert self._listener is not None
        if not self._free:
            raise StartFailed(f"the pool has {len(self._handles)} actors and makes no others")
        if not _ray.is_initialized():  # a call would start another Ray
            raise StartFailed("Ray has been shut down, and the actors with it")
        handle = self._free.pop(0)
        try:
            await outcome_of(handle.__ray_ready__.remote())
        except RayError as error:
            raise StartFailed(f"the actor is dead: {last_words(error)}") from None
        except BaseException:
            self._free.append(handle)
            raise
        return ForeignLane(worker_id, self._listener, handle)

    async def shortage(self) -> str | None:
        """Nothing is lacking: the actors are there."""
        return None

    async def has_room(self) -> bool:
        """Whether there is another actor, for which nobody asks."""
        return bool(self._free)

    async def again(self, factory: Any) -> Launcher:
        """There are no others."""
        raise ConfigError("factory", factory, "a pool of existing actors keeps those that it has")

    async def aclose(self, within: float = LETTING_GO) -> None:
        """Let go of Ray, in so many seconds at most, and not of the actors."""
        await self._session.aclose(within)


class ForeignLane:
    """The way to one existing actor."""

    most_ahead: int = 0

    def __init__(self, worker_id: int, listener: Listener, handle: Any) -> None:
        """Reach the actor through its handle."""
        self.origin = Origin(lane="foreign")
        self._worker_id = worker_id
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._door: Door[tuple[int, float, Future[Any]]] = Door(self._loop, self._deliver, self._fail)
        self._handle = handle
        self._actor_id = _actor_id(handle)
        self._refs: dict[int, Any] = {}
        self._streams: dict[int, _Stream] = {}
        self._is_lost = False

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Give the actor these calls."""
        if not _ray.is_initialized():  # a call would start another Ray
            self._loop.call_soon(self._lose, "Ray has been shut down")
            return
        for parcel in parcels:
            try:
                method = self._method(parcel.function)
                if parcel.credit is not None:
                    self._start_stream(parcel, method, parcel.credit)
                else:
                    self._start(parcel, method)
            except RayActorError as error:
                self._loop.call_soon(self._lose, last_words(error))
            except BaseException as error:  # noqa: BLE001 - Ray pickles the arguments here, with the user's own code
                refusal: Future[Any] = Future()
                refusal.set_exception(_submission_error(parcel, error))
                self._door.put((parcel.call_id, 0.0, refusal))

    def recall(self, call_ids: Sequence[int]) -> None:  # noqa: ARG002 - nothing is sent ahead, so nothing comes back
        """Give nothing back: on this lane every call that was sent may have begun."""
        self._loop.call_soon(self._listener.on_recall_done, self._worker_id)

    def withdraw(self, call_ids: Sequence[int]) -> None:
        """Nothing: on this lane nothing is sent ahead."""

    def cancel(self, call_id: int) -> None:
        """Leave a call alone; read a stream to its end, since Ray can stop neither."""
        stream = self._streams.get(call_id)
        if stream is not None:
            stream.cancel()

    def credit(self, call_id: int, items: int) -> None:
        """Read this many more items of the stream."""
        stream = self._streams.get(call_id)
        if stream is not None:
            stream.credit.add(items)

    async def stacks(self) -> str:
        """Not to be had: the actor has none of poise's code."""
        raise PoiseError("actors that existed before the pool cannot be asked what they do; py-spy can look at one")

    async def close(self, timeout: float) -> None:  # noqa: ARG002 - what the actor holds is not ours to close
        """Let go of the actor, which lives on."""
        await self.kill()

    async def kill(self) -> None:
        """Let go of the actor, which lives on."""
        self._is_lost = True
        self._refs.clear()
        streams = [stream.task for stream in self._streams.values()]
        self._streams.clear()
        for task in streams:
            task.cancel()
        if streams:
            await asyncio.wait(streams)
        self._handle = None

    def _method(self, function: Callable[..., Any] | str) -> Any:
        name = function if isinstance(function, str) else method_name(function)
        if name is None:
            raise PayloadError(
                f"the function {callable_name(function)}",
                "actors that exist already run only their own methods; give a method's name or an unbound method",
                started=False,
            )
        method = getattr(self._handle, name, None)
        if method is None:
            raise AttributeError(f"the actor has no method {name!r}{names_like(name, self._handle)}")
        return method

    # -----------------------------------------------------------------------------------------------------------------
    # Calls with one result

    def _start(self, parcel: Parcel, method: Any) -> None:
        began = perf_counter()
        ref = method.remote(*parcel.args, **parcel.kwargs)
        if isinstance(ref, _ray.ObjectRefGenerator):
            # It is a generator method, and it has begun. Nobody takes its items, and its end gives the slot back.
            failure = PayloadError("the result", "it is a generator, whose items arrive through stream()", started=True)
            self._read_stream(parcel.call_id, _Stream(ref, 0), failure)
            self.cancel(parcel.call_id)
            return
        self._refs[parcel.call_id] = ref
        ref.future().add_done_callback(partial(self._on_ray_done, parcel.call_id, began))

    def _on_ray_done(self, call_id: int, began: float, future: Future[Any]) -> None:  # runs on Ray's thread
        self._door.put((call_id, perf_counter() - began, future))

    def _deliver(self, events: list[tuple[int, float, Future[Any]]]) -> None:
        if self._is_lost:
            return
        answers: list[Answer] = []
        reason: str | None = None
        for call_id, service_time, outcome in events:
            self._refs.pop(call_id, None)
            error = outcome.exception()
            if error is None:
                answers.append(Answer(call_id, RETURNED, outcome.result(), service_time))
            elif self._is_loss(error):
                reason = last_words(error)
            else:
                answers.append(Answer(call_id, RAISED, _own_error(error), service_time))
        if answers:
            self._listener.on_answers(self._worker_id, answers)
        if reason is not None:
            self._lose(reason)

    def _is_loss(self, error: BaseException) -> bool:
        """Whether this actor is dead, and not another that was to produce an argument."""
        return isinstance(error, RayActorError) and error.actor_id in {self._actor_id, None}

    def _fail(self, error: Exception) -> None:
        """What the actor said is lost by a fault of poise's own."""
        self._lose(f"what it said was not understood: {describe(error)}")

    def _lose(self, reason: str) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._listener.on_lost(self._worker_id, reason)

    # -----------------------------------------------------------------------------------------------------------------
    # Streams

    def _start_stream(self, parcel: Parcel, method: Any, credit: int) -> None:
        items = method.options(num_returns="streaming").remote(*parcel.args, **parcel.kwargs)
        self._read_stream(parcel.call_id, _Stream(items, credit))

    def _read_stream(self, call_id: int, stream: _Stream, failure: PayloadError | None = None) -> None:
        self._streams[call_id] = stream
        stream.task = self._loop.create_task(self._read(call_id, stream, failure))

    async def _read(self, call_id: int, stream: _Stream, failure: PayloadError | None) -> None:
        began = perf_counter()
        ending, value = RETURNED, None
        try:
            async for ref in stream.items:
                if not await stream.credit.take_on_loop(self._loop.call_soon_threadsafe):
                    continue  # the consumer has gone: read on, since only the end frees the actor
                self._listener.on_items(self._worker_id, call_id, [await ref])
        except Exception as error:  # noqa: BLE001 - the user's own, or Ray's
            if self._is_loss(error):
                self._lose(last_words(error))
                return
            ending, value = RAISED, _own_error(error)
        self._streams.pop(call_id, None)
        if failure is not None:
            ending, value = RAISED, failure
        answer = Answer(call_id, ending, value, perf_counter() - began)
        if not self._is_lost:
            self._listener.on_answers(self._worker_id, [answer])


class _Stream:
    """A stream that is read item by item as its consumer asks for more."""

    __slots__ = ("credit", "items", "task")

    def __init__(self, items: Any, credit: int) -> None:
        self.items = items
        self.task: asyncio.Task[None]
        self.credit = Credit(credit)

    def cancel(self) -> None:
        # No `ray.cancel`: in Ray 2.60 it leaves the actor deaf to every later call. Nor is the reference just dropped,
        # which does not stop the generator either, nor its running ahead bounded by Ray: an actor whose reader had
        # gone would then never be free again. Read to its end, it is.
        self.credit.stop()


def _actor_id(handle: Any) -> str:
    return str(handle._actor_id.hex())  # noqa: SLF001 - Ray has no public name for it


def _submission_error(parcel: Parcel, error: BaseException) -> Exception:
    """Why a call could not even be submitted."""
    if issubclass(type(error), PayloadError | AttributeError):
        return cast("Exception", error)
    try:
        pack_arguments(parcel.args, parcel.kwargs)  # Ray's own message fills a page and does not name the argument
    except PayloadError as named:
        return named
    return PayloadError("the arguments", describe(error), started=False)


def _own_error(error: BaseException) -> Exception:
    """What the caller is to see. Never raises."""
    try:
        own = own_error(error)
        if issubclass(type(own), Exception) and not issubclass(type(own), _NO_EXCEPTION_OF_THE_USERS):
            return cast("Exception", own)
        return RemoteError(type_name(own), text_of(own), remote_text(error))
    except Exception as failure:  # noqa: BLE001 - Ray's error is of the user's own class too, and asks its attributes
        return RemoteError(type_name(error), text_of(error), "", describe(failure))
