"""Clients' calls in the owner: what comes of one is told to the client that has made it, and nobody unpacks it."""

from __future__ import annotations

import math
import pickle
from typing import TYPE_CHECKING, Any, ClassVar

from poise._answers import NOT_BEGUN, RAISED, RETURNED, Answer
from poise._core.retry import Retry
from poise._core.states import AHEAD, DONE
from poise._engine.call import new_record
from poise._engine.dispatcher import Dispatcher
from poise._engine.engine import Engine
from poise._lanes.lane import Parcel
from poise._protocol.payloads import PROTOCOL
from poise._shared.batches import BatchedFunctions, RelayBatches
from poise._shared.terms import pack_with_cause
from poise.errors import LeaseExpired, WorkerLost
from poise.options import CallOptions

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from poise._core.calls import CallRecord
    from poise._engine.runtime import Runtime
    from poise._lanes.lane import Launcher
    from poise._protocol.functions import Target
    from poise._protocol.messages import Headers
    from poise._protocol.payloads import Packed
    from poise._shared.client import Client
    from poise._shared.terms import Terms
    from poise.options import PoolOptions


class RelayedCall:
    """One call of a client's. To the dispatcher it is what a `Call` is, and no future: nobody here awaits it."""

    __slots__ = (
        "_given",
        "arguments",
        "call_id",
        "client",
        "function",
        "is_over",
        "mark",
        "name",
        "record",
        "stream",
        "worker_id",
    )

    options: ClassVar[CallOptions] = CallOptions()
    """Of these the dispatcher asks for what the client sees to itself."""

    def __init__(
        self,
        client: Client,
        call_id: int,
        function: Target,
        arguments: Packed,
        credit: int | None,
        mark: int | None,
        name: str,
        headers: Headers | None,
    ) -> None:
        self.client = client
        self.call_id = call_id
        """Its number at the client."""
        self.function: Any = function
        self.arguments: Packed = arguments
        self.stream: RelayedStream | None = None if credit is None else RelayedStream(client, call_id, credit)
        self.mark = mark
        self.name = name
        self._given = headers
        self.record: CallRecord | None = None
        self.worker_id = -1
        """The worker that it was last given to."""
        self.is_over = False
        """Whether the client has been told how it ended, or waits for nothing but its end."""

    def may_begin(self) -> bool:
        """Whether it may be given to a worker: from then on the owner's death leaves the client in doubt of it."""
        marks, record = self.client.marks, self.record
        return self.mark is None or marks is None or record is None or marks.begin(self.mark, record.past_attempts + 1)

    def parcel(self, record: CallRecord) -> Parcel:
        """What goes to a worker."""
        self.worker_id = -1 if record.worker is None else record.worker.id
        credit = None if self.stream is None else self.stream.window
        packed: Any = self.arguments
        return Parcel(record.id, self.function, packed, {}, record.state is AHEAD, credit, self._given)

    def headers(self, record: CallRecord) -> Headers | None:  # noqa: ARG002 (as of a `Call`)
        """What else a worker is told."""
        return self._given

    def done(self) -> bool:
        """Whether nothing more is to be told of it."""
        return self.is_over

    def answer(self, answer: Answer) -> None:
        """A worker has ended it."""
        self.is_over = True
        if answer.ending == RAISED:
            self.client.failed_on(self.call_id, self.worker_id)
        value = answer.value  # which is an exception where the lane has ended it by itself
        packed = pack_with_cause(value) if isinstance(value, BaseException) else value
        self.client.reply(self, answer.ending, packed, answer.service_time)

    def set_result(self, worker_id: int) -> None:
        """It asked for a worker, and has it."""
        self.is_over = True
        self.client.leased(self)
        self.client.reply(self, RETURNED, pickle.dumps(worker_id, PROTOCOL))

    def set_exception(self, error: BaseException) -> None:
        """It has ended with an error of the pool's."""
        self.is_over = True
        self.client.reply(self, RAISED, pack_with_cause(error))

    def cancel(self) -> bool:
        """The client gives it up; it hears of the end of what a worker still holds."""
        if self.is_over:
            return False
        self.is_over = True
        self.client.give_up(self)
        return True

    def drop(self) -> None:
        """The same."""
        self.cancel()

    @property
    def has_ended(self) -> bool:
        """Whether no worker holds it, and none will."""
        return self.record is None or self.record.state is DONE

    def ended(self) -> None:
        """A worker held it for longer than its client, who hears of it only now."""
        self.client.reply(self, NOT_BEGUN, None)

    def release(self) -> None:
        """Let go of what is not needed any more."""
        self.arguments = b""
        if self.record is not None:
            self.record.tag = None


class RelayedStream:
    """Passes a stream's items on; the client bounds them, by its credit."""

    __slots__ = ("_call_id", "_client", "window")

    is_read: ClassVar[bool] = True
    is_full: ClassVar[bool] = False

    def __init__(self, client: Client, call_id: int, window: int) -> None:
        self._client = client
        self._call_id = call_id
        self.window = window
        """Items that the client takes at first."""

    def put(self, items: Sequence[Any]) -> None:
        """Pass items on."""
        for item in items:
            self._client.item(self._call_id, item)


class RelayDispatcher(Dispatcher):
    """Gives packed answers to whom they belong."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.batches = RelayBatches()

    def _resolve(self, call: Any, answer: Answer) -> None:
        if call is not None:
            if not call.is_over:
                call.answer(answer)
            self._forget(call)


class OwnerEngine(Engine):
    """The engine of a shared pool, in its owner."""

    _dispatchers = RelayDispatcher

    def __init__(self, launcher: Launcher, settings: PoolOptions, runtime: Runtime) -> None:
        """Start nothing before `open`."""
        super().__init__(launcher, settings, runtime)
        self._batched = BatchedFunctions()

    def is_batch(self, call_id: int) -> bool:
        """Whether it is a batch that travels under this number, and whose answer is to be taken apart."""
        return call_id in self._opened.batches.sent

    @property
    def dispatcher(self) -> Dispatcher:
        """What does the work."""
        return self._opened

    def accept(self, call: Any, terms: Terms | None, parks: bool, tenant: str) -> None:  # noqa: FBT001 - one of a row
        """Accept a client's call, or refuse it.

        Args:
            call: a `RelayedCall`.
            terms: what it asks for.
            parks: whether it may wait for room.
            tenant: for whom it is made if it does not say so.

        Raises:
            PoiseError: as `Engine.submit` says.
        """
        dispatcher = self._opened
        function: Hashable = call.function if type(call.function) is str else call.name
        if terms is None:
            record = dispatcher.scheduler.shares.new_record(tenant, 1)(
                dispatcher.next_call_id(), function, name=call.name
            )
        else:
            record = self._record(call, function, terms, tenant)
        dispatcher.submit(call, record, may_park=parks)

    def _record(self, call: RelayedCall, function: Hashable, terms: Terms, tenant: str) -> CallRecord:
        dispatcher, asked = self._opened, terms.get
        if "batch" in terms:
            function = self._batched.batching(call.function, *terms["batch"])
        scheduler = dispatcher.scheduler
        timeout = deadline = math.inf
        if (left := asked("left")) is not None:
            deadline, timeout = dispatcher.clock.time() + left[0], left[1]
        tenant, weight = asked("tenant", tenant), asked("weight", 1)
        options: Any = _Sharing(tenant, weight, asked("key"), asked("patience", 0.0))
        record = new_record(scheduler, options)(
            dispatcher.next_call_id(),
            function,
            name=call.name,
            priority=asked("priority", 0),
            deadline=deadline,
            timeout=timeout,
            retries=asked("retries", 0),
            retry_delay=asked("pause", 0.0),
            lease=None if (under := asked("under")) is None else self._lease(call.client, under),
            is_lease="leases" in terms,
        )
        record.deaths = asked("deaths", 0)
        if "again" in terms:
            record.retry = Retry(0, 0.0)  # the client tries again; this side knows where it has failed
            record.retry.avoids = call.client.avoided(call.call_id)
        if (worker_id := asked("worker")) is not None:
            record.bound_for = scheduler.worker(worker_id)
            if record.bound_for is None:
                raise WorkerLost(worker_id, "it was gone when the call was submitted", started=False)
        return record

    def _lease(self, client: Client, under: Sequence[int]) -> CallRecord:
        """The lease that the client has by this call, which gave it this worker."""
        call_id, worker_id = under
        lease = client.leases.get(call_id)
        if lease is None:  # that was of another owner
            raise LeaseExpired(worker_id, "lost")
        return lease


class _Sharing:
    """What `new_record` looks at in a call's options."""

    __slots__ = ("key", "patience", "tenant", "weight")

    def __init__(self, tenant: str | bytes, weight: float, key: str | int | bytes | None, patience: float) -> None:
        self.tenant = tenant
        self.weight = weight
        self.key = key
        self.patience = patience
