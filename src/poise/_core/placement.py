"""Which ready worker takes the next call."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from poise._core.alarms import OVERDUE_SECONDS
from poise._core.backlog import Backlog

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from poise._core.alarms import Alarms
    from poise._core.calls import CallRecord
    from poise._core.workers import WorkerId, WorkerRecord


class Placement:
    """Knows which workers could take a call now, in O(1) per question.

    Open workers stand in queues by load, so that the least loaded is taken and equals take turns, but those whose last
    answer was an exception come after their equals: a sick worker fails at once, is free at once, and would take most.
    Of those that are still equal, the ones on another node than the caller come last: a call has a longer way to them.
    That is no reason to load one worker more than another: the way is short beside a call that is worth a worker.
    Where calls are to be packed the most loaded one that has a free slot is taken, so that others are idle.

    All of it follows from the records of the workers, which are not changed here.
    """

    __slots__ = (
        "_alarms",
        "_by_rank",
        "_far_ranks",
        "_full",
        "_least",
        "_packs",
        "_rank",
        "_ranks",
        "_roomy",
        "_slots",
        "awaited",
        "changed",
    )

    def __init__(self, slots: int, alarms: Alarms) -> None:
        self._alarms = alarms
        self._slots = slots
        self._packs = False
        self._full = 2 * slots
        """The rank from which on a worker has no free slot."""
        self._ranks = list(range(self._full + 2))
        """Which rank those of each load have: they are as many slots as are used, twice: well, then failed."""
        self._far_ranks = self._ranks
        """The same for those on other nodes: once there are some, ranks of their own, each after that of its equals."""
        self._by_rank: list[OrderedDict[WorkerId, WorkerRecord]] = [OrderedDict() for _ in self._ranks]
        """Open workers in the order in which they are taken, from `_full` on those without a free slot."""
        self._rank: dict[WorkerId, int] = {}
        """Where in `_by_rank` each of them stands."""
        self._least = 0
        """No open worker stands in a queue before this one."""
        self._roomy: OrderedDict[WorkerId, WorkerRecord] = OrderedDict()
        """Open workers that had room to be sent calls ahead when last seen."""
        self.awaited: dict[WorkerId, Backlog] = {}
        """Calls that wait for a worker because of their key. Invariant: none is empty; the workers are not in `_roomy`:
        what was sent ahead would go before these calls."""
        self.changed: dict[WorkerId, WorkerRecord] = {}
        """Those of these workers that have changed. Invariant: every one of them that has a free slot."""

    def update(self, worker: WorkerRecord) -> None:
        """Have the worker stand where it belongs: to be called after every change of its record."""
        worker_id = worker.id
        ranks = self._far_ranks if worker.is_far else self._ranks
        rank = ranks[2 * len(worker.running) + worker.has_failed] if worker.is_open else None
        known = self._rank.get(worker_id)
        if known != rank:
            if known is not None:
                del self._by_rank[known][worker_id]
                del self._rank[worker_id]
            if rank is not None:
                self._by_rank[rank][worker_id] = worker
                self._rank[worker_id] = rank
                self._least = min(self._least, rank)
        if rank is not None and rank >= self._full and worker.most_ahead:
            self._roomy[worker_id] = worker
        else:
            self._roomy.pop(worker_id, None)
        if self.awaited and worker_id in self.awaited:
            self._roomy.pop(worker_id, None)
            self.changed[worker_id] = worker
        if worker.ahead or worker.recalled or self._alarms.lines:
            self._alarms.watch(worker)

    def arrange(self, *, packs: bool) -> None:
        """Have calls packed on few workers from now on, or spread over all."""
        if packs != self._packs:
            self._packs = packs
            self._arrange()

    def tell_far(self) -> None:
        """Tell workers on other nodes from those on the caller's from now on: there are some."""
        if self._far_ranks is self._ranks:
            self._full *= 2
            self._far_ranks = []
            self._arrange()

    def _arrange(self) -> None:
        loads = list(range(2 * self._slots))
        if self._packs:
            loads = [loads[-2] - load + 2 * (load % 2) for load in loads]
        loads += [2 * self._slots, 2 * self._slots + 1]
        workers = [worker for queue in self._by_rank for worker in queue.values()]
        if self._far_ranks is self._ranks:
            self._ranks = self._far_ranks = loads
        else:
            self._ranks, self._far_ranks = [2 * load for load in loads], [2 * load + 1 for load in loads]
        self._by_rank = [OrderedDict() for _ in {*self._ranks, *self._far_ranks}]
        self._least = 0
        self._rank.clear()
        for worker in workers:
            self.update(worker)

    def prefer(self, worker: WorkerRecord) -> None:
        """Have an open worker come before its equals instead of after them, until its record changes."""
        self._by_rank[self._rank[worker.id]].move_to_end(worker.id, last=False)

    def _first(self) -> WorkerRecord | None:
        """The open worker that is taken next; among equals the one that has been so for longest."""
        if not self._rank:
            self._least = 0
            return None
        while not self._by_rank[self._least]:
            self._least += 1
        return next(iter(self._by_rank[self._least].values()))

    def least_loaded(self) -> WorkerRecord | None:
        """The open worker that uses the fewest slots."""
        return self._first_of(self._of_loads(0, len(self._ranks)))

    def free_worker(self) -> WorkerRecord | None:
        """The open worker that is taken next, if it has a free slot."""
        worker = self._first()
        return worker if self._least < self._full else None

    def empty_worker(self) -> WorkerRecord | None:
        """An open worker that holds nothing, or None."""
        return self._first_of(self._of_loads(0, 2))

    def _of_loads(self, first: int, end: int) -> list[int]:
        """The ranks of these loads, in the order in which they are taken where calls are spread."""
        if self._far_ranks is self._ranks:
            return self._ranks[first:end]
        return [rank for load in range(first, end) for rank in (self._ranks[load], self._far_ranks[load])]

    def _first_of(self, ranks: Iterable[int]) -> WorkerRecord | None:
        return next((worker for rank in ranks for worker in self._by_rank[rank].values()), None)

    def least_loaded_ones(self) -> Iterator[WorkerRecord]:
        """The open workers that use no more slots than the least loaded, which has a free one, and a quarter of all."""
        loads = range(2 * self._slots)
        least = next((load for load in loads if any(self._by_rank[rank] for rank in self._of_loads(load, load + 1))), 0)
        for rank in self._of_loads(least, min(len(loads), least + self._slots // 4 * 2 + 1)):
            yield from self._by_rank[rank].values()

    def other_worker(self, call: CallRecord) -> WorkerRecord | None:
        """The worker that is taken next of those that have room for this call and that it does not avoid, or None.

        If it avoids every open worker there is no use in that: it may have any of them.
        """
        avoided: frozenset[WorkerId] = call.avoids
        if sum(worker_id in self._rank for worker_id in avoided) == len(self._rank):
            avoided = frozenset()
        for rank in self._of_loads(0, 2) if call.needs_whole_worker else range(self._least, self._full):
            for worker in self._by_rank[rank].values():
                if worker.id not in avoided:
                    return worker
        return None

    def roomy_worker(self, limit: int, now: float, awaited: Container[object]) -> WorkerRecord | None:
        """A worker to which a call can be sent ahead, or None. Those found full wait for their next answer.

        Args:
            limit: how many such calls a worker may hold beyond its slots.
            now: when.
            awaited: workers for whose next free slot a call waits already.
        """
        while limit and self._roomy:
            worker = next(iter(self._roomy.values()))
            is_stuck = (
                now >= worker.progress_at + OVERDUE_SECONDS or worker.recalled or (worker.sent_long and worker.ahead)
            )
            has_room = len(worker.ahead) < limit and len(worker.ahead) < worker.most_ahead
            if has_room and not is_stuck and worker not in awaited:
                self._roomy.move_to_end(worker.id)  # in turn, so that a burst is spread
                return worker
            del self._roomy[worker.id]
        return None

    def put_first(self, worker: WorkerRecord) -> None:
        """Ask this worker first whether it has room to be sent a call ahead."""
        if worker.id in self._roomy:
            self._roomy.move_to_end(worker.id, last=False)

    # ---------------------------------------------------------------- workers that are waited for

    def await_worker(self, worker: WorkerRecord, call: CallRecord) -> None:
        """A call waits for this worker."""
        self._roomy.pop(worker.id, None)
        self.awaited.setdefault(worker.id, Backlog()).add(call)

    def await_no_more(self, worker: WorkerRecord, call: CallRecord) -> None:
        """It does so no more."""
        queue = self.awaited[worker.id]
        queue.discard(call)
        if not queue:
            del self.awaited[worker.id]
            self.changed.pop(worker.id, None)
            self.update(worker)

    @property
    def free_workers(self) -> int:
        """How many of them have a free slot."""
        queues = self._by_rank
        full = len(queues[-2]) + len(queues[-1])
        if self._far_ranks is not self._ranks:
            full += len(queues[-4]) + len(queues[-3])
        return len(self._rank) - full

    def check_invariants(self, workers: Iterable[WorkerRecord]) -> None:
        """Check that this is what the workers say; for tests."""
        workers = list(workers)
        assert self._far_ranks is not self._ranks or not any(w.is_far for w in workers)
        ranks = {False: self._ranks, True: self._far_ranks}
        assert self._rank == {w.id: ranks[w.is_far][2 * len(w.running) + w.has_failed] for w in workers if w.is_open}
        for rank, queue in enumerate(self._by_rank):
            assert list(queue) == [worker_id for worker_id in queue if self._rank[worker_id] == rank]
        assert all(rank >= self._least for rank in self._rank.values())
        assert sorted({*self._ranks, *self._far_ranks}) == list(range(len(self._by_rank)))
        for worker in self._roomy.values():
            assert worker.is_open, worker
            assert worker.most_ahead, worker
            assert not worker.free_slots, worker
            assert worker.id not in self.awaited, worker
        assert self.changed.keys() <= self.awaited.keys()
        assert all(self.awaited.values())
