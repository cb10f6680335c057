"""The Ray actor in which a worker lives: it owns the user's instance and runs the calls that freight brings.

`serve` builds the instance and then runs calls for as long as the worker lives, so the failure of that one Ray call
tells the worker's death. The other methods run beside it, in concurrency groups of their own.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

import ray

from poise._answers import NOT_BEGUN, RAISED, Answer
from poise._protocol.codec import unpack
from poise._protocol.crates import Crate, crate_answer, crate_end, crate_item, crate_stream, uncrate_call
from poise._protocol.exceptions import pack_exception
from poise._protocol.functions import TypeNames, type_names
from poise._protocol.main_names import become_worker
from poise._protocol.marks import Marks
from poise._protocol.memory import join_memory, journal_of, marks_of, memory_beside
from poise._protocol.paths import add_paths
from poise._protocol.payloads import Packed, Payload, detach
from poise._protocol.words import describe
from poise._ray.errors import own_error
from poise._worker.entrance import open_tls, open_unix
from poise._worker.inbox import Arrival, Inbox
from poise._worker.keeper import Keeper
from poise._worker.link import Link
from poise._worker.outgoing import Outgoing
from poise._worker.runner import Runner, calls_loop
from poise._worker.shelf import FunctionShelf
from poise._worker.stacks import stacks
from poise.errors import PayloadError

if TYPE_CHECKING:
    from types import FrameType

    from poise._protocol.records import Levels, LogBatch
    from poise._worker.connections import Connection
    from poise._worker.logs import Forwarder
    from poise._worker.loop_thread import CallsLoop

_ray: Any = ray  # its own types leave out some of what it takes and gives

F = TypeVar("F", bound=Callable[..., Any])

News: TypeAlias = tuple[str] | tuple[str, int, bool]
"""What a worker says of itself: "SIGTERM" if it got that, "retire" if it asks to be replaced, or "grown", the bytes
that it has and whether it has run nothing yet."""


def _in_group(name: str) -> Callable[[F], F]:
    """Let Ray run a method on the threads of this concurrency group."""
    decorate: Callable[[F], F] = _ray.method(concurrency_group=name)
    return decorate


class Host:
    """One worker."""

    def __init__(self, label: str, most_bytes: int | None = None, levels: Levels | None = None) -> None:
        """Wait for `serve`.

        Args:
            label: what Ray prints before the worker's output.
            most_bytes: the memory beyond which the caller is told of it; None if it does not care.
            levels: the caller's levels, if its logging is to have what is logged here.
        """
        self._label = label
        self._pid = os.getpid()
        self._logs = None if levels is None else _forwarder(levels)
        self._built = threading.Event()
        self._failure: Packed | None = None
        self._classes: TypeNames = ()
        self._news: SimpleQueue[News | None] = SimpleQueue()
        self._inbox = Inbox(self._announce) if most_bytes is None else self._gauged_inbox(most_bytes)
        self._inbox.give_back = lambda call_id: self.reply(Answer(call_id, NOT_BEGUN, None))
        self._retires = False
        self._is_alone = False
        """Whether one thread runs all calls."""
        self._shelf: FunctionShelf | None = None
        self._link: Link | None = None
        """The express lane, once the caller has connected."""
        self._values: dict[int, SimpleQueue[Answer]] = {}
        self._streams: dict[int, Outgoing] = {}
        self._fetching: set[int] = set()
        self._keeper: Keeper | None = None
        self._loop: CallsLoop | None = None
        self._is_closing = False
        self._closed: SimpleQueue[list[str]] = SimpleQueue()
        """What went wrong with closing, once that is over."""
        self._may_end = threading.Event()
        if threading.current_thread() is threading.main_thread():  # where Ray makes actors, and signals arrive
            self._ray_on_sigterm = signal.signal(signal.SIGTERM, self._on_sigterm)
        # Before any of the user's own, so that it is called after all of those.
        atexit.register(self._end_process)

    def __repr__(self) -> str:
        return self._label

    def serve(
        self,
        factory: Packed | None,
        concurrency: int,
        paths: Sequence[str] = (),
        writable: bool = False,  # noqa: FBT001, FBT002 - Ray's call
    ) -> None:
        """Build the instance, then run calls until the worker is killed.

        Args:
            factory: makes the instance.
            concurrency: how many calls run at once.
            paths: where the caller looks for modules.
            writable: whether what is unpacked here may be written to.
        """
        become_worker()
        add_paths(paths)
        try:
            self._is_alone = concurrency == 1
            self._loop = loop = calls_loop(self._inbox, concurrency)
            self._keeper = Keeper(loop)
            instance = self._keeper.make(None if factory is None else _unpack_factory(factory, writable=writable))
            self._classes = type_names(instance)
            self._shelf = FunctionShelf(instance)
            if self._logs is not None:
                self._logs.name_of = self._shelf.name_of
            runner = Runner(self._inbox, self._shelf, self, concurrency, loop=loop, writable=writable)
        except BaseException as error:  # noqa: BLE001 - a constructor may well call sys.exit()
            self._failure = pack_exception(error, skip_frames=3)
            self._built.set()
            return
        self._built.set()
        runner.run(self._leave)
        if self._is_closing:
            self._may_end.wait()
            _ray.actor.exit_actor()  # which lets `atexit` functions run, as a kill does not

    def _leave(self) -> None:
        """Close what the factory made, if the caller has asked for it: not if the caller is gone."""
        if self._is_closing and self._keeper is not None:
            self._closed.put(self._keeper.leave())

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        """Ask for the worker to be replaced, the first time; a child of the user's code ends as it would without us."""
        ray_on_sigterm = self._ray_on_sigterm
        signal.signal(signal.SIGTERM, ray_on_sigterm)
        if os.getpid() == self._pid:
            self._news.put(("SIGTERM",))
        elif callable(ray_on_sigterm):
            ray_on_sigterm(number, frame)

    def _end_process(self) -> None:
        """End the process as soon as the user's `atexit` functions have run; Ray would take 0.3 s more for it."""
        if self._may_end.is_set() and os.getpid() == self._pid:
            end_at_once()

    @_in_group("control")
    def hello(self) -> tuple[int, str]:
        """Return the process id and Ray's id of the node, at once."""
        return os.getpid(), ray.get_runtime_context().get_node_id()

    @_in_group("control")
    def ready(self) -> tuple[TypeNames, Packed | None]:
        """Wait for the instance; return its classes, and the constructor's exception if there was one."""
        self._built.wait()
        return self._classes, self._failure

    @_in_group("control")
    def close(self) -> list[str] | None:
        """Begin nothing more; close what the factory made, and say what went wrong with that.

        Returns None at once if there is nothing to be closed yet.
        """
        if not self._built.is_set() or self._failure is not None:
            self._end_logs()
            return None
        self._is_closing = True
        self._news.put(None)  # Ray lets no actor end while a call of it runs
        self._inbox.close()
        failures = self._closed.get()
        self._end_logs()
        return failures

    def _end_logs(self) -> None:
        if self._logs is not None:
            self._logs.end()

    @_in_group("signals")
    def news(self) -> News | None:
        """Wait for what the worker has to say of itself; None if the pool closes it."""
        return self._news.get()

    @_in_group("signals")
    def logs(self) -> LogBatch | None:
        """Wait for what is logged and goes by Ray; None if nothing more will."""
        return None if self._logs is None else self._logs.pull()

    @_in_group("control")
    def set_levels(self, levels: Levels) -> None:
        """Log at the levels that the caller has now."""
        if self._logs is not None:
            self._logs.set_levels(levels)

    @_in_group("control")
    def stacks(self) -> str:
        """What the worker is doing."""
        return stacks(loop=None if self._loop is None else self._loop.turning)

    @_in_group("control")
    def end(self) -> None:
        """After `close`: let the process end."""
        self._may_end.set()

    @_in_group("control")
    def listen_unix(self, path: str) -> None:
        """Let the caller connect on this node, to a socket at this path, and share memory with it."""
        memory = join_memory(memory_beside(path))
        open_unix(path, partial(self._welcome, memory=memory))

    @_in_group("control")
    def listen_tls(self, identity: tuple[bytes, bytes, bytes], timeout: float) -> tuple[str, int]:
        """Let the caller connect from another node, and return the address and the port."""
        from poise._protocol.tls import Identity, tls_context

        host = _ray.util.get_node_ip_address()
        return host, open_tls(host, tls_context(Identity(*identity), is_server=True), timeout, self._welcome)

    def _welcome(self, connection: Connection, memory: memoryview | None = None) -> None:
        """Serve the express lane on this thread."""
        assert self._shelf is not None
        if memory is not None:
            self._inbox.marks = Marks(marks_of(memory))
        journal = None if memory is None else journal_of(memory)
        self._link = Link(connection, self._inbox, self._shelf, self.reply, journal, is_alone=self._is_alone)
        if self._logs is not None:
            self._logs.use(self._link)
        self._link.run()

    @_in_group("collect")
    def collect(self, call_id: int) -> Crate:
        """Return a reply that the express lane cannot carry."""
        assert self._link is not None
        return crate_answer(self._link.kept.pop(call_id))

    @_in_group("collect")
    def collect_item(self, number: int) -> Crate:
        """Return a stream item that the express lane cannot carry."""
        assert self._link is not None
        return crate_item(self._link.kept_items.pop(number))

    @_in_group("freight")
    def perform(self, crated: Crate, deposit: tuple[Packed] | None = None) -> Crate:
        """Run a call and wait for its end, or for the first items of a stream."""
        message = uncrate_call(crated, deposit)
        call_id, arguments, credit = message.call_id, message.arguments, message.credit
        awaited: list[Any] = []
        if not isinstance(arguments, bytes) and arguments.awaited:
            refusal = self._fetch(call_id, arguments, awaited)
            if refusal is not None:
                return self._crate_end(refusal) if credit is None else self._crate_stream([], refusal)
        call = Arrival(message, awaited)
        call.announced = self._link is None  # the freight lane takes every call that it sent to have begun
        if credit is None:
            replies = self._values[call_id] = SimpleQueue()
            self._enter(call)
            return self._crate_end(replies.get())
        self._streams[call_id] = Outgoing()
        self._enter(call)
        return self._next_items(call_id)

    @_in_group("pull")
    def pull(self, call_id: int, items: int) -> Crate:
        """Let a stream send this many more items, and wait for its next ones or its end."""
        if items:
            self._inbox.credit(call_id, items)
        return self._next_items(call_id)

    @_in_group("control")
    def credit(self, call_id: int, items: int) -> None:
        """Let a stream send this many more items."""
        self._inbox.credit(call_id, items)

    @_in_group("control")
    def cancel(self, call_id: int) -> None:
        """Drop the call if it has not begun, or tell it to stop if it can."""
        if call_id in self._fetching:
            self._fetching.discard(call_id)
        elif self._inbox.cancel(call_id):
            self.reply(Answer(call_id, NOT_BEGUN, None))

    # The runner's outlet: runs on its threads.

    def reply(self, answer: Answer) -> None:
        """Hand the end of a call to the `perform` or `pull` that waits for it, or to the express lane."""
        call_id = answer.call_id
        if (replies := self._values.get(call_id)) is not None:
            if answer.value is not None and self._link is not None:  # the next call may be here already, and change it
                answer = answer._replace(value=detach(answer.value))
            del self._values[call_id]  # only now: if there was no memory for a copy, that is the reply
            replies.put(answer)
        elif (stream := self._streams.get(call_id)) is not None:
            stream.end(answer)
        elif self._link is not None:
            self._link.reply(answer)

    def item(self, call_id: int, item: Packed) -> None:
        """Hand an item to the `perform` or `pull` that waits for it, or to the express lane."""
        if (stream := self._streams.get(call_id)) is not None:
            stream.add(detach(item))  # the producer goes on, and may change it
        elif self._link is not None:
            self._link.item(call_id, item)

    def retire(self) -> None:
        """Ask to be replaced: heard before the reply to the call that asks, on whichever way that goes."""
        if self._retires:
            return
        self._retires = True
        if self._link is not None:
            self._link.retire()
        else:
            self._news.put(("retire",))
        self._inbox.retire()

    def _gauged_inbox(self, most_bytes: int) -> Inbox:
        from poise._worker.memory import GaugedInbox

        return GaugedInbox(self._announce, most_bytes, lambda own, is_fresh: self._news.put(("grown", own, is_fresh)))

    def _announce(self, call_ids: Sequence[int]) -> bool:
        return self._link is not None and self._link.announce(call_ids)

    def _enter(self, call: Arrival) -> None:
        """Put a call into the inbox, unless it was recalled or cancelled on a faster way than it came itself."""
        self._inbox.put((call,))
        if self._inbox.has_missed(call.call_id):
            self.cancel(call.call_id)

    def _next_items(self, call_id: int) -> Crate:
        outgoing = self._streams.get(call_id)
        if outgoing is None:  # it has ended and its end has been sent
            return self._crate_stream([], None)
        items, end = outgoing.take()
        if end is not None:
            self._streams.pop(call_id, None)
        return self._crate_stream(items, end)

    def _crate_end(self, answer: Answer) -> Crate:
        return crate_end(answer, retires=self._retires)

    def _crate_stream(self, items: list[Packed], end: Answer | None) -> Crate:
        return crate_stream(items, end, retires=self._retires)

    def _fetch(self, call_id: int, arguments: Payload, awaited: list[Any]) -> Answer | None:
        """Get the values of ObjectRef arguments; return the call's end if it cannot begin.

        Ray would do it too, but it would hold up every later call to this actor meanwhile, and the failure of another
        actor that was to produce the value would look like the failure of this one.
        """
        self._fetching.add(call_id)
        try:
            awaited.extend(ray.get(ref) for ref in arguments.awaited)
        except BaseException as error:  # noqa: BLE001 - the error of the user's own task may be anything
            self._fetching.discard(call_id)
            return Answer(call_id, RAISED, pack_exception(own_error(error), skip_frames=1))
        if call_id not in self._fetching:
            return Answer(call_id, NOT_BEGUN, None)
        self._fetching.discard(call_id)
        return None


def end_at_once() -> NoReturn:
    """End this process after the user's `atexit` functions, with what was registered before them."""
    logging.shutdown()
    if (processes := sys.modules.get("multiprocessing.util")) is not None:
        processes._exit_function()  # noqa: SLF001 - ends the children that the user's code has started
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def _forwarder(levels: Levels) -> Forwarder:
    from poise._worker.logs import Forwarder

    return Forwarder(levels)


def _unpack_factory(factory: Packed, *, writable: bool) -> Any:
    try:
        return unpack(factory, writable=writable)
    except BaseException as error:
        raise PayloadError("the factory", describe(error), started=False) from error
