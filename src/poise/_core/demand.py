"""How many workers the calls that wait could use."""

from __future__ import annotations

import math
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from poise._core.batches import Batching

if TYPE_CHECKING:
    from poise._core.calls import CallRecord
    from poise._core.fleet import Fleet
    from poise._core.pace import Pace
    from poise._core.queues import Queues

_SAMPLE: Final = 256
"""Waiting calls that are looked at one by one; the rest is taken to be like them."""
_SLIP: Final = 1e-6
"""Workers, by which a sum of parts may be too large."""


def waiting_calls(queues: Queues) -> int:
    """How many calls wait for any worker, or will when it is time for that."""
    return queues.depth + len(queues.claims) + queues.parked_count


def next_call(queues: Queues) -> CallRecord | None:
    """The call that waits for any worker, or with a claim on one, and is next."""
    return queues.first() or next((worker.claim for worker in queues.claims.values()), None)


def useful_workers(fleet: Fleet, queues: Queues, pace: Pace, start_time: float, *, is_late: bool) -> int:
    """How many workers could run at once what runs and waits, without those that would come too late for it.

    A call that takes longer than the start of a worker is worth one of its own; of shorter ones so many go to a worker
    that it is done with them within that time.

    Args:
        fleet: the workers that there are.
        queues: the calls that wait.
        pace: how long calls take.
        start_time: seconds that a worker takes to start.
        is_late: whether calls have waited for longer than that, though by their service times they would not: they wait
            for others than themselves, so that what is there already is of no use to them.
    """
    slots, seconds, room = fleet.slots, 0.0, 0.0
    claims = [worker.claim for worker in queues.claims.values() if worker.claim is not None]
    sample = list(islice(chain(claims, queues.wary.calls.values(), queues.backlog, queues.parked), _SAMPLE))
    for call in sample:
        known = None if call.is_lease else pace.of(call.function) or pace.overall
        part = 1.0 if known is None or not is_late else min(1.0, known / start_time)
        room += part * _room(call, slots)
        seconds += known or 0.0
    count = len(claims) + len(queues.wary.calls) + len(queues.backlog) + len(queues.parked)
    more = count / max(1, len(sample))
    held = sum(slots if worker.lease is not None else len(worker.running) for worker in fleet.members())
    useful = math.ceil((held + room * more) / slots - _SLIP)
    return useful if is_late else min(useful, math.ceil(seconds * more / (start_time * slots) - _SLIP))


def _room(call: CallRecord, slots: int) -> float:
    """How many slots a call takes."""
    if call.needs_whole_worker:
        return slots
    return 1 / call.function.max if type(call.function) is Batching else 1.0
