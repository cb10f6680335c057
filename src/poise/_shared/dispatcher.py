"""A client's dispatcher, whose one worker is the owner of the shared pool; and what its calls ask for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

from poise._answers import NOT_BEGUN, RAISED, RETRYABLE, Answer
from poise._engine.call import is_plain
from poise._engine.carrying import CarryingCall
from poise._engine.dispatcher import Dispatcher
from poise._shared.terms import packed_tenant, with_cause
from poise.errors import DeadlineExceeded, Overloaded, PoisonCall, WorkerLost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poise._core.calls import CallRecord
    from poise._core.relaying import RelayScheduler
    from poise._engine.call import Call
    from poise._shared.lane import OwnerLane
    from poise._shared.terms import Terms

R = TypeVar("R")


class SharedCall(CarryingCall[R]):
    """A call of a shared pool."""

    __slots__ = ("asks", "deadline", "deaths", "own", "owner_id", "parks")

    asks: Terms | None
    """What all calls of its view ask for."""
    deadline: float
    """Of its own, in seconds by the pool's clock."""
    deaths: int
    """Workers that died with it, where this side tries again."""
    own: Terms | None
    """What it asks for by itself: a worker, or one certain worker, or company."""
    owner_id: int | None
    """The owner that it was last sent to."""
    parks: bool
    """Whether it may wait for room."""

    def parcel(self, record: CallRecord) -> Any:
        """What goes to the owner of an attempt.

        Raises:
            PayloadError: a variable cannot be pickled.
        """
        from poise._shared.lane import SharedParcel

        terms = self.asks
        if self.deadline != math.inf or self.own is not None or self.deaths:
            terms = {**(terms or {}), **(self.own or {})}
            if self.deadline != math.inf:
                terms["left"] = (max(0.0, self.deadline - self._dispatcher.clock.time()), float(record.timeout))
            if self.deaths:
                terms["deaths"] = self.deaths
        if record.retry is not None and terms is not None and "retries" in terms:
            terms = {**terms, "retries": int(record.retry.left)}  # another owner may have used some
        parks = self.parks or self.owner_id is not None  # another owner has accepted it before
        self.owner_id = None if record.worker is None else record.worker.id
        credit = None if self.stream is None else self.stream.window
        headers = self.headers(record) or None
        call = record.id, self.function, self.args, self.kwargs, False, credit, headers
        return SharedParcel(*call, self.name, [parks, terms])

    def kill(self) -> bool:
        """Cancel the call, and end the worker that runs it; see `Call.kill`."""
        if super().kill():
            return True
        if not self.done() or self.cancelled() or self.record is None:
            return False
        error = self._exception
        dispatcher: Any = self._dispatcher
        return isinstance(error, DeadlineExceeded) and error.started and dispatcher.kill_there(self, 0.0)


class ClientDispatcher(Dispatcher):
    """Runs the one worker that is the owner."""

    lanes: dict[int, Any]
    scheduler: RelayScheduler

    @property
    def lane(self) -> OwnerLane | None:
        """The way to the owner, None while there is none."""
        return next(iter(self.lanes.values()), None)

    def cancel(self, call: Call[Any]) -> None:
        """The future was cancelled."""
        if call.options.kill_on_cancel:
            self.kill(call, 0.0 if call.stream is None and is_plain(call.function) else None)
        else:
            super().cancel(call)
            record = call.record
            if record is not None and record.worker is not None:
                self._take_back([record.id])

    def close(self, *, reject_waiting: bool) -> None:
        """Accept nothing more; what waits at the owner is taken back, if it is to be refused."""
        super().close(reject_waiting=reject_waiting)
        worker = self.scheduler.worker(next(iter(self.lanes), -1))
        if reject_waiting and worker is not None:
            for call_id in self._take_back([*worker.running]):
                self.lanes[worker.id].cancel(call_id)

    def _take_back(self, call_ids: Sequence[int]) -> list[int]:
        """Have these calls end, or wait, as calls do that a worker gives back, as far as they have not begun."""
        taken: list[int] = []
        for worker_id, lane in list(self.lanes.items()):
            taken = lane.take_back(call_ids)
            if taken:
                self.on_answers(worker_id, [Answer(call_id, NOT_BEGUN, None) for call_id in taken])
        return taken

    async def aclose(self, until: float) -> None:
        """Give up every call, and leave the pool."""
        self.close(reject_waiting=True)
        await super().aclose(until)

    def kill(self, call: Call[Any], grace: float | None) -> None:
        """The future was cancelled, and a worker that still runs the call after `grace` seconds is to end."""
        if call.record is not None:
            self.kill_there(call, grace)
            self._perform(self.scheduler.cancel(call.record, self.clock.time()))
            self._forget(call)
            self._take_back([call.record.id])

    def kill_there(self, call: Any, grace: float | None) -> bool:
        """Have the owner kill the worker of a call that was sent to it, once it is cancelled there."""
        lane = self.lanes.get(call.owner_id) if call.owner_id is not None else None
        if lane is None:
            return False
        lane.cancel(call.record.id)
        lane.kill_call(call.record.id, grace)
        return True

    def on_answers(self, worker_id: int, answers: Sequence[Answer]) -> None:
        """Calls have ended."""
        super().on_answers(worker_id, [each if each.ending != RAISED else self._own(each) for each in answers])

    def _own(self, answer: Answer) -> Answer:
        """What an error of the owner's means here, where some of what it is about is known better."""
        error = with_cause(answer.value)
        call: Any = self._calls.get(answer.call_id)
        if type(error) is Overloaded and error.tenant is not None:
            record = self._record(answer.call_id)
            tenant = None if record is None or record.tag is None else record.tag.options.tenant
            if tenant is not None and packed_tenant(tenant) == error.tenant:
                return answer._replace(value=Overloaded(error.depth, error.limit, error.retry_after, tenant))
        elif type(error) is DeadlineExceeded and not error.started:
            record = self._record(answer.call_id)
            if record is not None and record.past_attempts:  # which the owner knows nothing of
                return answer._replace(value=DeadlineExceeded(error.timeout, started=True))
        elif call is not None and call.options.retry_on and isinstance(error, WorkerLost) and error.started:
            call.deaths += 1
            return answer if isinstance(error, PoisonCall) else answer._replace(ending=RETRYABLE)
        return answer

    def _record(self, call_id: int) -> CallRecord | None:
        worker = self.scheduler.worker(next(iter(self.lanes), -1))
        return None if worker is None else worker.running.get(call_id)

    def on_lost(self, worker_id: int, reason: str, *, all_in_doubt: bool = False) -> None:
        """The owner has died: what it is known not to have begun goes to the next one."""
        lane, worker = self.lanes.get(worker_id), self.scheduler.worker(worker_id)
        if lane is not None and lane.marks is not None and worker is not None:
            lane.take_back(worker.running)  # the owner may live, if only the connection has ended
            self.scheduler.take_note(worker_id, lane.marks.attempts(worker.running))
        super().on_lost(worker_id, reason, all_in_doubt=all_in_doubt)

    def on_stopped(self) -> None:
        """Somebody has ended the pool for all that use it."""
        self.scheduler.fleet.heals = False
        self.close(reject_waiting=True)
