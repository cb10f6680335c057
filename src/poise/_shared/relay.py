"""The owner's way to its workers: packed calls go on as they came, and packed answers come back as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poise._answers import Answer
from poise._core.calls import CHECK_IDS
from poise._lanes.answers import unpack_answer
from poise._lanes.express import Express
from poise._lanes.freight import Fetch, Freight
from poise._lanes.host_lane import HostLane
from poise._lanes.launcher import HostLauncher
from poise._lanes.redefined import KnownClasses
from poise._protocol.codec import pack_arguments
from poise._protocol.crates import crate_call
from poise._protocol.messages import is_express
from poise._protocol.payloads import Forwarded, Payload

if TYPE_CHECKING:
    from collections.abc import Callable

    from poise._lanes.sockets import Sockets
    from poise._protocol.functions import Target, TypeNames
    from poise._protocol.messages import CallMessage
    from poise._protocol.payloads import Packed
    from poise._shared.terms import PackedFactory


def answer_as_it_is(answer: Answer) -> Answer:
    """Leave a call's answer packed; that of a check is for the pool itself."""
    if answer[0] >= CHECK_IDS:
        return unpack_answer(answer)
    return answer if type(answer) is Answer else Answer._make(answer)  # from a crate it comes as a plain tuple


def items_as_they_are(items: list[Packed]) -> tuple[list[Any], Exception | None]:
    """Leave a stream's items packed."""
    return items, None


class RelayExpress(Express):
    """What goes by a socket."""

    def __init__(self, owner: RelayLane, listener: Any) -> None:
        super().__init__(owner, listener, writable=False)
        self.unpack_answer = answer_as_it_is
        self.unpack_items = items_as_they_are


class RelayFreight(Freight):
    """What goes by Ray: of what is large only the reference passes through here."""

    def __init__(self, *args: Any, is_batch: Callable[[int], bool], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_batch = is_batch
        self.unpack_answer = answer_as_it_is
        self.unpack_items = items_as_they_are

    def crates(self, call: CallMessage) -> tuple[Any, ...]:
        """What `perform` takes: Ray puts what the client has deposited into its place."""
        if type(call.arguments) is not Forwarded:
            return super().crates(call)
        return crate_call(call._replace(arguments=b"")), *call.arguments.nested

    def opened(self, what: int | Fetch, contents: Any, ref: Any) -> Any:
        """The same, with the reference in place of what no socket carries."""
        if self.is_stream(what) or self.is_batch(what.call_id if isinstance(what, Fetch) else what):
            return contents
        if isinstance(what, Fetch):
            if len(contents) == 1:  # an item of a stream
                return (Forwarded(b"", (), (ref,)),)
            call_id, ending, _, service_time = contents
            return call_id, ending, Forwarded(b"", (), (ref,)), service_time
        (call_id, ending, packed, service_time), retires = contents
        if isinstance(packed, Payload) and not is_express(packed):
            packed = Forwarded(b"", (), (ref,))
        return (call_id, ending, packed, service_time), retires


class _Book:
    """Functions come named, or pickled."""

    def target(self, function: Target) -> Target:
        return function


class RelayLane(HostLane):
    """The way to one worker."""

    def __init__(
        self, *args: Any, learn: Callable[[TypeNames], object], is_batch: Callable[[int], bool], **kwargs: Any
    ) -> None:
        self._is_batch = is_batch
        super().__init__(*args, **kwargs)
        self._book: Any = _Book()
        self._tell_of_classes = learn

    @staticmethod
    def _pack(args: Any, kwargs: dict[str, Any]) -> Packed:
        """A client's arguments are packed; those of the pool's own calls, such as checks, are a plain tuple."""
        plain: tuple[Any, ...] = args
        return pack_arguments(plain, kwargs) if type(args) is tuple else args

    def _learn(self, classes: TypeNames) -> None:
        self._tell_of_classes(classes)

    def new_express(self) -> Express:
        """What speaks to the worker over a socket."""
        return RelayExpress(self, self._listener)

    def new_freight(self) -> Freight:
        """What has Ray carry what a socket cannot."""
        hearers = {"refuse": self._refuse, "lose": self._lose, "fail": self._fail}
        return RelayFreight(self.actor, self._listener, **hearers, is_batch=self._is_batch, writable=False)


class RelayLauncher(HostLauncher):
    """Starts the workers of a shared pool, in the owner."""

    def __init__(
        self,
        factory: PackedFactory,
        sockets: Sockets | None,
        learn: Callable[[TypeNames], object],
        is_batch: Callable[[int], bool],
        **own: Any,
    ) -> None:
        """Start nothing yet.

        Args:
            factory: makes the instances.
            sockets: gives the lanes their sockets.
            learn: told the classes of each instance.
            is_batch: whether the answer for the call of this number is that of a batch, which is taken apart here.
            own: the rest, as `HostLauncher` takes it.
        """
        self._learn = learn
        self._is_batch = is_batch
        super().__init__(factory, sockets=sockets, **own)

    def _take(self, factory: Any) -> None:
        given: PackedFactory = factory
        self._given = given
        self._factory = None if given.packed is None else _never_called
        self._options = {**given.defaults, **self._ray_options}
        self._label = given.label
        self._prints_plainly = False
        self._known = KnownClasses(None)
        self._declare()

    def __repr__(self) -> str:
        return self._label

    def _packed_factory(self) -> Packed:
        assert self._given.packed is not None
        return self._given.packed

    def _reach(self, worker_id: int, host: Any, serving: Any) -> HostLane:
        assert self._listener is not None
        hearers: dict[str, Any] = {"learn": self._learn, "is_batch": self._is_batch}
        return RelayLane(worker_id, self._listener, host, serving, unreachables=self._unreachables, **hearers)


def _never_called() -> None:
    """Stands for a factory that only workers unpack."""
