"""A pool whose workers do what the test says: for tests that read as a story."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

from poise._answers import NOT_BEGUN, RETURNED, Answer, Ending
from poise._core.affinity import KeyedCallRecord
from poise._core.calls import CHECK_IDS, CallRecord
from poise._core.effects import (
    Cancel,
    Check,
    Effect,
    Grown,
    Kill,
    Lease,
    Lost,
    Oversized,
    Recall,
    Reject,
    Replacing,
    Resolve,
    Send,
    SendBatch,
    Shrunk,
    Start,
    Struck,
    Withdraw,
)
from poise._core.pace import AHEAD_CALLS
from poise._core.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from poise._core.states import CallState
    from poise._core.workers import WorkerRecord
    from poise.errors import PoiseError
    from poise.policies import Elastic, Health, Recycle

SHORT = "short"
"""A function that `learn_pace` makes known as short, so that it is sent ahead."""


def state(call: CallRecord) -> CallState:
    """Where the call stands now: unlike the field itself, not narrowed by a check of it before."""
    return call.state


class Scene:
    """One scheduler, its clock, and all that it has asked for, sorted by kind."""

    def __init__(
        self,
        size: int | Elastic = 1,
        slots: int = 1,
        *,
        backlog: int | None = None,
        backlog_per_tenant: int | None = None,
        ready: int | None = None,
        sends_ahead: bool = False,
        kill_after: float | None = None,
        poison_after: int = 3,
        retry_budget: float | None = None,
        heals: bool = True,
        recycle: Recycle | None = None,
        health: Health | None = None,
        chance: Callable[[], float] = lambda: 1.0,
        pool: Scheduler | None = None,
    ) -> None:
        self.now = 0.0
        self.sends_ahead = sends_ahead
        self.pool = pool or Scheduler(
            size=size,
            slots=slots,
            backlog=backlog,
            backlog_per_tenant=backlog_per_tenant,
            kill_after=kill_after,
            poison_after=poison_after,
            retry_budget=retry_budget,
            heals=heals,
            recycle=recycle,
            health=health,
            chance=chance,
        )
        self.sent: dict[int, list[CallRecord]] = defaultdict(list)
        """Every call that was sent to each worker, in order."""
        self.batches: list[list[CallRecord]] = []
        """Those that were sent together, whichever worker to."""
        self.results: dict[CallRecord, Any] = {}
        self.errors: dict[CallRecord, PoiseError] = {}
        self.cancels: list[tuple[int, int]] = []
        self.recalls: list[tuple[int, list[int]]] = []
        self.withdrawals: list[tuple[int, list[int]]] = []
        self.leases: dict[CallRecord, int] = {}
        self.started: list[int] = []
        self.killed: list[int] = []
        self.closed: list[int] = []
        """Those of them that may go gently."""
        self.losses: list[Lost] = []
        self.replacing: list[tuple[int, int]] = []
        """Workers that are to be replaced, and by whom."""
        self.oversized: list[int] = []
        self.checks: list[int] = []
        """Workers that were to be checked, in order."""
        self.strikes: list[tuple[int, int, bool]] = []
        """Checks that have failed: of which worker, the how manieth in a row, and whether it was answered."""
        self.grown: list[tuple[int, int]] = []
        """From how many workers to how many."""
        self.shrunk: list[int] = []
        """Workers that were not wanted any more."""
        self._next_id = 0
        self.act(self.pool.open(self.now))
        for worker_id in range(len(self.started) if ready is None else ready):
            self.ready(worker_id)

    def act(self, effects: list[Effect]) -> None:  # noqa: C901, PLR0912 (a list of what can be asked for)
        """Note what the scheduler decided."""
        for effect in effects:
            match effect:
                case Send(worker_id, calls):
                    self.sent[worker_id] += calls
                case SendBatch(worker_id, calls):
                    self.sent[worker_id] += calls
                    self.batches.append(list(calls))
                case Resolve(call, answer):
                    assert call not in self.results
                    assert call not in self.errors
                    self.results[call] = answer.value
                case Reject(call, error):
                    assert call not in self.results
                    assert call not in self.errors
                    self.errors[call] = error
                case Cancel(worker_id, call_id):
                    self.cancels.append((worker_id, call_id))
                case Recall(worker_id, call_ids):
                    assert {*call_ids} <= {call.id for call in self.sent[worker_id]}, "asked for before it was sent"
                    self.recalls.append((worker_id, list(call_ids)))
                case Withdraw(worker_id, call_ids):
                    self.withdrawals.append((worker_id, list(call_ids)))
                case Lease(call, worker_id):
                    self.leases[call] = worker_id
                case Start(worker_id):
                    self.started.append(worker_id)
                case Kill(worker_id, _, gently):
                    self.killed.append(worker_id)
                    self.closed += [worker_id] * gently
                case Lost():
                    self.losses.append(effect)
                case Replacing(worker_id, heir_id):
                    self.replacing.append((worker_id, heir_id))
                case Oversized(worker_id):
                    self.oversized.append(worker_id)
                case Check(worker_id, call_id):
                    assert call_id == CHECK_IDS + worker_id
                    self.checks.append(worker_id)
                case Struck(worker_id, _, strikes, _, is_answered):
                    self.strikes.append((worker_id, strikes, is_answered))
                case Grown(before, after):
                    self.grown.append((before, after))
                case Shrunk(worker_id):
                    self.shrunk.append(worker_id)
        self.pool.check_invariants()

    # ---------------------------------------------------------------- callers

    def new(self, function: Hashable = "f", *, timeout: float | None = None, **fields: Any) -> CallRecord:
        """A call that was not submitted yet."""
        self._next_id += 1
        member: WorkerRecord | None = fields.pop("member", None)
        deadline = math.inf if timeout is None else self.now + timeout
        given = math.inf if timeout is None else timeout
        name, weight = fields.pop("tenant", None), fields.pop("weight", 1.0)
        key, patience = fields.pop("key", None), fields.pop("patience", 0.0)
        new = CallRecord if name is None else self.pool.shares.new_record(name, weight)
        if key is not None:
            new = partial(
                KeyedCallRecord, key, patience, None if name is None else self.pool.shares.tenant(name, weight)
            )
        call = new(self._next_id, function, deadline=deadline, timeout=given, tag="tag", **fields)
        call.bound_for = member
        return call

    def submit(self, function: Hashable = "f", *, may_park: bool = False, **fields: Any) -> CallRecord:
        call = self.new(function, **fields)
        self.act(self.pool.submit(call, self.now, may_park=may_park))
        return call

    def lease(self, *, may_park: bool = True, **fields: Any) -> CallRecord:
        return self.submit("lease", is_lease=True, may_park=may_park, **fields)

    def cancel(self, call: CallRecord) -> None:
        self.act(self.pool.cancel(call, self.now))

    def kill(self, call: CallRecord, grace: float = 0.0) -> None:
        self.act(self.pool.kill(call, self.now, grace))

    def release(self, lease: CallRecord) -> None:
        self.act(self.pool.release(lease, self.now))

    # ---------------------------------------------------------------- workers

    def ready(self, worker_id: int, *, is_far: bool = False) -> None:
        most_ahead = AHEAD_CALLS if self.sends_ahead else 0
        self.act(self.pool.worker_ready(worker_id, self.now, most_ahead=most_ahead, is_far=is_far))

    def lose(self, worker_id: int, reason: str = "it died", cause: BaseException | None = None) -> None:
        self.act(self.pool.worker_lost(worker_id, reason, self.now, cause=cause))

    def answer(
        self, *calls: CallRecord, ending: Ending = RETURNED, service_time: float = 0.1, outcome: Any = "result"
    ) -> None:
        """The worker that holds these calls answers all of them at once."""
        assert calls[0].worker is not None
        worker_id = calls[0].worker.id
        answers = [Answer(call.id, ending, outcome, service_time) for call in calls]
        self.act(self.pool.finished(worker_id, answers, self.now))

    def answer_check(self, worker_id: int, ending: Ending = RETURNED, outcome: Any = None) -> None:
        """The worker has run its check."""
        answer = Answer(CHECK_IDS + worker_id, ending, outcome, 0.1)
        self.act(self.pool.finished(worker_id, [answer], self.now))

    def begun(self, *calls: CallRecord) -> None:
        for call in calls:
            assert call.worker is not None
            self.pool.begun(call.worker.id, [call.id])
        self.pool.check_invariants()

    def give_back(self, worker_id: int, *calls: CallRecord) -> None:
        """The worker answers a recall with these calls."""
        if calls:
            self.answer(*calls, ending=NOT_BEGUN)
        self.act(self.pool.recall_done(worker_id, self.now))

    def learn_pace(self, service_time: float = 0.00001) -> None:
        """Have one call of the short function measured."""
        self.answer(self.submit(SHORT), service_time=service_time)

    def worker(self, worker_id: int) -> WorkerRecord:
        worker = self.pool.worker(worker_id)
        assert worker is not None
        return worker

    # ---------------------------------------------------------------- time and size

    def wait(self, seconds: float) -> None:
        """Time passes, and the timer fires whenever it is due."""
        end = self.now + seconds
        while (due := self.pool.next_tick()) <= end:
            assert due > self.now or due == 0.0
            self.now = due
            self.act(self.pool.tick(self.now))
        self.now = end

    def resize(self, size: int | Elastic) -> None:
        self.act(self.pool.resize(size, self.now))

    def close(self, *, reject_waiting: bool) -> None:
        self.act(self.pool.close(self.now, reject_waiting=reject_waiting))

    def stop(self) -> None:
        self.act(self.pool.stop(self.now))

    # ---------------------------------------------------------------- looking

    def functions(self, worker_id: int) -> list[str]:
        """What was sent to this worker, by name."""
        return [call.name for call in self.sent[worker_id]]

    @property
    def sizes(self) -> list[int]:
        """How many calls each batch of several had."""
        return [len(batch) for batch in self.batches]

    @property
    def counts(self) -> dict[str, int]:
        """Where calls stand: those numbers that are not zero."""
        stats = self.pool.stats(self.now)
        names = ("waiting", "parked", "running", "ahead", "abandoned", "free_slots", "leased")
        return {name: getattr(stats, name) for name in names if getattr(stats, name)}
