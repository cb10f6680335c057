"""The dispatcher: futures, the one timer, effects in and replies out.

It owns the scheduler and is the only one to call it, always on its own loop. Whatever the scheduler returns is
performed before the next event is looked at.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Any

from poise._answers import NOT_BEGUN, RAISED, RETURNED, Answer
from poise._core.batches import Batching
from poise._core.effects import Check, Kill, Lease, News, Recall, Reject, Resolve, SendBatch, Sending, Start, Withdraw
from poise._core.observed import note_company
from poise._engine.batches import Batches
from poise._engine.call import is_plain, judged
from poise._engine.carrying import parcels_of
from poise._engine.loops import check_loop
from poise._engine.supervisor import Supervisor
from poise._engine.watchers import Watchers
from poise._protocol.words import describe
from poise.errors import ConfigError, PoolClosed

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Sequence

    from poise._core.calls import CallRecord
    from poise._core.effects import Cancel, Effect
    from poise._core.reloading import Reload
    from poise._core.renewal import Renewal
    from poise._core.scheduler import Scheduler
    from poise._engine.call import Call
    from poise._engine.checks import Checks
    from poise._engine.clock import Clock, Timer
    from poise._engine.observers import Observers
    from poise._lanes.lane import Lane, Launcher
    from poise.policies import Elastic

logger = logging.getLogger("poise")


class Dispatcher:
    """Runs one scheduler on one event loop."""

    def __init__(
        self,
        scheduler: Scheduler,
        launcher: Launcher,
        loop: asyncio.AbstractEventLoop,
        start_timeout: float,
        close_timeout: float,
        clock: Clock,
        observers: Observers,
    ) -> None:
        self.loop = loop
        self.thread: int = threading.get_ident()
        self._process = os.getpid()
        self.clock = clock
        """What deadlines, backoff and every other time are read from: the loop, unless a test has its own."""
        self.scheduler = scheduler
        self.supervisor: Supervisor = Supervisor(launcher, self, start_timeout, close_timeout)
        self.observers = observers
        observers.begin(loop, clock, scheduler.shares)
        self.lanes: dict[int, Lane] = {}
        """The way to each worker that has started. Invariant: every READY or RETIRING worker has one."""
        self._calls: dict[int, Call[Any]] = {}
        """Calls whose answers need a look on their way in: streams, and those with `retry_on`."""
        self.batches: Batches = Batches()
        self.checks: Checks | None = None
        """What has workers checked, if they are."""
        self.next_call_id: Callable[[], int] = count(1).__next__
        """A number for a new call, greater than all before it."""
        self._pending: deque[Effect] = deque()
        """Effects still to be performed. A lane may answer while it is sent to, which adds to them."""
        self._is_performing = False
        self._is_given_up = False
        self._timer: Timer | None = None
        self._timer_at = math.inf
        self.watchers: Watchers = Watchers(loop, clock)
        """Those who wait for something to become true of the scheduler; they look after every step."""

    # ---------------------------------------------------------------- callers

    def check_loop(self) -> None:
        """Refuse, with `WrongLoop`, to be used from anywhere but the loop that opened the pool."""
        check_loop(self.loop, self.thread, self._process)

    def submit(self, call: Call[Any], record: CallRecord, *, may_park: bool) -> None:
        """Hand a new call to the scheduler.

        Raises:
            PoolClosed, PoolBroken, Overloaded, LeaseExpired: see `Scheduler.submit`.
        """
        record.tag = call
        call.record = record
        if call.stream is not None or call.options.retry_on:
            self._calls[record.id] = call
        try:
            effects = self.scheduler.submit(record, self.clock.time(), may_park=may_park)
        except BaseException as error:
            record.refused(error)
            self._forget(call)
            raise
        is_timed = self.scheduler.is_timed or record.deadline < math.inf or record.is_keyed
        if effects or is_timed or type(record.function) is Batching:
            self._perform(effects)  # else it waits, and no time is to be kept for it

    def cancel(self, call: Call[Any]) -> None:
        """The future was cancelled."""
        grace = self._grace(call) if call.options.kill_on_cancel else None
        if grace is not None:
            self.kill(call, grace)
        elif call.record is not None:
            self._perform(self.scheduler.cancel(call.record, self.clock.time()))
            self._forget(call)

    def kill(self, call: Call[Any], grace: float) -> None:
        """The future was cancelled, and a worker that still runs the call after `grace` seconds is to end."""
        if call.record is not None:
            self._perform(self.scheduler.kill(call.record, self.clock.time(), grace))
            self._forget(call)

    def check_may_kill(self, option: str, value: object) -> None:
        """Refuse, with `ConfigError`, what would end a worker that the pool has not started."""
        if not self.scheduler.replaces:
            raise ConfigError(
                option, value, "actors that exist already are not the pool's to kill; cancel() gives a call up"
            )

    def _grace(self, call: Call[Any]) -> float | None:
        """Seconds for a worker to stop a cancelled call: none for what nothing stops, None if it has all the time."""
        return 0.0 if call.stream is None and is_plain(call.function) else self.scheduler.kill_after

    def release(self, lease: CallRecord) -> None:
        """The holder of a lease gives its worker back."""
        self._perform(self.scheduler.release(lease, self.clock.time()))

    def credit(self, call: Call[Any], items: int) -> None:
        """Let a stream's producer go on."""
        record = call.record
        if record is not None and record.worker is not None and (lane := self.lanes.get(record.worker.id)) is not None:
            lane.credit(record.id, items)

    # ---------------------------------------------------------------- the pool

    def resize(self, size: int | Elastic) -> None:
        """Ask for the first workers, or for another number of them."""
        self._perform(self.scheduler.resize(size, self.clock.time()))

    def replace(self, worker_id: int) -> Renewal | None:
        """Have a worker replaced; None if it is none that works."""
        renewal, effects = self.scheduler.renewals.replace(worker_id, self.clock.time())
        self._perform(effects)
        return renewal

    def reload(self, launcher: Launcher, surge: int) -> Reload:
        """Have every worker replaced by one that this starts, some at a time; no reload is under way."""
        reload, effects = self.scheduler.reloading.begin(surge, self.clock.time())
        kept = {reload.before, *(worker.generation for worker in self.scheduler.members())}
        self.supervisor.use(launcher, reload.generation, kept)
        self._perform(effects)
        return reload

    def close(self, *, reject_waiting: bool) -> None:
        """Accept nothing more, and end the streams of which nobody is about to take an item: they would never end."""
        self._perform(self.scheduler.close(self.clock.time(), reject_waiting=reject_waiting))
        for call in list(self._calls.values()):
            if call.stream is not None and not call.stream.is_read:
                call.drop()

    def stalled_streams(self) -> list[Call[Any]]:
        """Those whose worker waits until the consumer takes an item."""
        return [call for call in self._calls.values() if call.stream is not None and call.stream.is_full]

    async def aclose(self, until: float) -> None:
        """Give up every call and every worker, and return when they are gone, or at this time of the loop."""
        self._is_given_up = True
        self._perform(self.scheduler.stop(self.clock.time()))
        await self.supervisor.aclose(until)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---------------------------------------------------------------- the supervisor

    def worker_ready(self, worker_id: int, lane: Lane) -> bool:
        """A worker has started; False if it is not wanted any more."""
        if not self.scheduler.fleet.is_starting(worker_id):
            return False
        self.lanes[worker_id] = lane
        now, place, fleet = self.clock.time(), self.observers.place, self.scheduler.fleet
        effects = self.scheduler.worker_ready(worker_id, now, most_ahead=lane.most_ahead, is_far=lane.origin.is_far)
        self.observers.ready(worker_id, lane.origin, len(fleet.ready), fleet.size, now, place)
        self._perform(effects)
        return True

    def worker_lost(
        self, worker_id: int, reason: str, cause: BaseException | None = None, *, all_in_doubt: bool = False
    ) -> None:
        """A worker is dead, or could not start."""
        self.lanes.pop(worker_id, None)
        self.batches.lost(worker_id)
        if self.scheduler.worker(worker_id) is None:
            self.observers.retired(worker_id)
        happened = worker_id, reason, self.clock.time()
        self._take(self.scheduler.worker_lost, *happened, cause=cause, all_in_doubt=all_in_doubt)

    def no_room(self, worker_id: int, shortage: str) -> None:
        """A worker that is to replace one that works has no room beside that."""
        self._perform(self.scheduler.renewals.no_room(worker_id, shortage, self.clock.time()))

    # ---------------------------------------------------------------- the wire (Listener)

    def on_answers(self, worker_id: int, answers: Sequence[Answer]) -> None:
        """Attempts have ended."""
        if self.batches.sent:
            answers = self.batches.opened(answers)
        answers = [each if each.ending != RAISED else judged(self._calls.get(each.call_id), each) for each in answers]
        self._take(self.scheduler.finished, worker_id, answers, self.clock.time())

    def on_begun(self, worker_id: int, call_ids: Sequence[int]) -> None:
        """Calls sent ahead may have begun."""
        self.scheduler.begun(worker_id, call_ids)

    def on_recall_done(self, worker_id: int) -> None:
        """A recall was answered."""
        self._take(self.scheduler.recall_done, worker_id, self.clock.time())

    def on_items(self, worker_id: int, call_id: int, items: Sequence[Any]) -> None:  # noqa: ARG002 (Listener's shape)
        """A stream has produced items."""
        call = self._calls.get(call_id)
        if call is not None and call.stream is not None and call.record is not None and not call.done():
            self.scheduler.forgo_retries(call.record)
            call.stream.put(items)

    def on_retire(self, worker_id: int, reason: str) -> None:
        """A worker is to be given nothing more, and another takes its place; the start of one not ready has failed."""
        if self.scheduler.fleet.is_starting(worker_id):
            self.worker_lost(worker_id, f"it was to be replaced before it was ready: {reason}")
        self._take(self.scheduler.renewals.retire, worker_id, reason, self.clock.time())

    def on_grown(self, worker_id: int, resident: int, *, is_fresh: bool) -> None:
        """A worker has more memory than it is to have."""
        if (recycling := self.scheduler.recycling) is not None:
            self._take(recycling.grown, worker_id, resident, self.clock.time(), is_fresh=is_fresh)

    def on_lost(self, worker_id: int, reason: str, *, all_in_doubt: bool = False) -> None:
        """A worker has died by itself."""
        if (lane := self.lanes.pop(worker_id, None)) is not None:
            self.supervisor.bury(lane)
        self.worker_lost(worker_id, reason, all_in_doubt=all_in_doubt)

    # ---------------------------------------------------------------- effects

    def _take(self, decide: Callable[..., list[Effect]], *news: Any, **details: Any) -> None:
        """Have the scheduler decide about news of a worker or of the clock, which no caller waits to hear about.

        If that fails, poise itself is at fault, and what the scheduler knows can no longer be trusted: the pool is
        given up loudly, because a call that nobody answers would be worse (G1).
        """
        try:
            effects = decide(*news, **details)
        except Exception:
            logger.exception("poise has a fault and gives this pool up; please report it")
            effects = self.scheduler.stop(self.clock.time())
        self._perform(effects)

    def _perform(self, effects: Iterable[Effect]) -> None:
        """Do what the scheduler decided, in order, whatever is decided meanwhile after it."""
        self._pending.extend(effects)
        if self._is_performing:
            return
        self._is_performing = True
        try:
            pending = self._pending
            while pending:
                effect = pending.popleft()
                if type(effect) is Resolve:
                    self._resolve(effect.call.tag, effect.answer)
                else:
                    self._perform_one(effect)
        finally:
            self._is_performing = False
        self._arm_timer()
        if self.watchers.watching:
            self.watchers.look()

    def _perform_one(self, effect: Effect) -> None:
        if isinstance(effect, Sending):
            self._send(effect)
        elif isinstance(effect, Reject):
            self._reject(effect.call.tag, effect.error)
        elif isinstance(effect, Lease):
            self._finish(effect.call.tag, effect.worker_id)
        elif isinstance(effect, Start):
            self.observers.starting(effect.worker_id, effect.generation, is_spare=effect.is_spare)
            self.supervisor.start(effect.worker_id, generation=effect.generation, is_spare=effect.is_spare)
        elif isinstance(effect, Kill):
            if effect.worker_id not in self.lanes:
                self.observers.retired(effect.worker_id)  # before it was ready: nobody will say that it has ended
            self.supervisor.end(effect.worker_id, effect.reason, gently=effect.gently)
        elif isinstance(effect, News):
            if self.observers.news(effect, self.scheduler.fleet.broken):
                self.supervisor.watch_shortage()
        elif not isinstance(effect, Resolve) and (lane := self.lanes.get(effect.worker_id)) is not None:
            self._tell(lane, effect)

    def _tell(self, lane: Lane, effect: Recall | Withdraw | Cancel | Check) -> None:
        if isinstance(effect, Recall):
            lane.recall(effect.call_ids)
        elif isinstance(effect, Check):
            if self.checks is not None:
                self.checks.send(effect.worker_id, lane)
        elif isinstance(effect, Withdraw):
            lane.withdraw(effect.call_ids)
        elif (call_id := self.batches.given_up(effect.call_id)) is not None:
            lane.cancel(call_id)

    def _send(self, effect: Sending) -> None:
        lane = self.lanes.get(effect.worker_id)
        if lane is None:
            return  # lost while this was pending: the scheduler has settled these calls
        calls: list[tuple[CallRecord, Call[Any]]] = []
        for record in effect.calls:
            call: Call[Any] | None = record.tag
            if call is None or (call.may_begin is not None and not call.may_begin()):
                self._give_back(record, call, effect.worker_id)
            else:
                calls.append((record, call))
        if isinstance(effect, SendBatch):
            note_company(effect.calls)
            parcels, refused = self.batches.parcels(effect.worker_id, calls)
        else:
            parcels, refused = parcels_of(calls)
        if refused:
            self.on_answers(effect.worker_id, refused)
        if not parcels:
            return
        try:
            lane.send(parcels)
        except Exception as error:
            # A lane answers for what cannot be sent, so this is a fault of poise's own. What was sent is not known, and
            # only the end of the worker settles it.
            logger.exception("poise has a fault and gives worker %d up; please report it", effect.worker_id)
            self.on_lost(effect.worker_id, f"calls could not be sent to it: {describe(error)}", all_in_doubt=True)

    def _give_back(self, record: CallRecord, call: Call[Any] | None, worker_id: int) -> None:
        """The caller left between the grant and now: there is nothing to send, and the slot is given back."""
        if call is not None:
            call.cancel()
        self.on_answers(worker_id, [Answer(record.id, NOT_BEGUN, None)])

    def _resolve(self, call: Call[Any] | None, answer: Answer) -> None:
        if call is None or answer.ending == RETURNED:
            self._finish(call, answer.value)
        else:
            self._fail(call, answer.value)

    def _finish(self, call: Call[Any] | None, value: Any) -> None:
        if call is not None and not call.done():
            call.set_result(value)
            self._forget(call)

    def _reject(self, call: Call[Any] | None, error: BaseException) -> None:
        if call is not None:
            self._fail(call, error)
            if isinstance(error, PoolClosed) or self._is_given_up:
                call.drop()  # whoever closes a pool knows it: asyncio need not report what nobody asks for

    def _fail(self, call: Call[Any], error: BaseException) -> None:
        if not call.done():
            # Without the frames it came through: these hold their callers, and so the calls of others.
            call.set_exception(BaseException.with_traceback(error, None))
        self._forget(call)

    def _forget(self, call: Call[Any]) -> None:
        """The call has had its outcome: keep nothing of it."""
        if self._calls and call.record is not None:
            self._calls.pop(call.record.id, None)
        call.release()

    def _arm_timer(self) -> None:
        """Keep the one timer at or before the scheduler's next tick; a timer that fires early is set again then."""
        due = self.scheduler.next_tick()
        if due < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = due
            self._timer = self.clock.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, math.inf
        self._take(self.scheduler.tick, self.clock.time())
