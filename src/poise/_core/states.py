"""The states of calls and workers, and the tables by which they move."""

from __future__ import annotations

import enum


class IllegalTransitionError(Exception):
    """An event that the state does not allow: a fault of the core itself. Nothing was changed."""


class CallState(enum.IntEnum):  # int, because a plain Enum's hash is a Python call and this is the hot path
    """Where a call stands between its submission and its outcome."""

    PARKED = enum.auto()
    """Its caller waits for room in the backlog."""
    WAITING = enum.auto()
    """Accepted, not yet given a slot."""
    PAUSED = enum.auto()
    """An attempt has failed, and it is not yet time for the next one."""
    AHEAD = enum.auto()
    """Sent to a worker beyond its slots, where it has not begun as far as is known."""
    RUNNING = enum.auto()
    """Holds a slot: it may have begun."""
    ABANDONED = enum.auto()
    """Its caller is gone; the worker still holds it."""
    DONE = enum.auto()
    """Has had its outcome."""


# Python finds a member by way of its class six times as slowly as a global, and the decision asks for many.
PARKED, WAITING, PAUSED, AHEAD, RUNNING, ABANDONED, DONE = CallState


class CallEvent(enum.IntEnum):
    """What can happen to a call."""

    PARK = enum.auto()
    ADMIT = enum.auto()
    GRANT = enum.auto()
    SEND_AHEAD = enum.auto()
    BEGIN = enum.auto()
    RETURN = enum.auto()
    PAUSE = enum.auto()
    RESUME = enum.auto()
    ABANDON = enum.auto()
    END = enum.auto()


PARK, ADMIT, GRANT, SEND_AHEAD, BEGIN, RETURN, PAUSE, RESUME, ABANDON, END = CallEvent

CALL_TRANSITIONS: dict[tuple[CallState, CallEvent], CallState] = {
    (CallState.WAITING, CallEvent.PARK): CallState.PARKED,
    (CallState.PARKED, CallEvent.ADMIT): CallState.WAITING,
    (CallState.PARKED, CallEvent.END): CallState.DONE,
    (CallState.WAITING, CallEvent.GRANT): CallState.RUNNING,
    (CallState.WAITING, CallEvent.SEND_AHEAD): CallState.AHEAD,
    (CallState.WAITING, CallEvent.END): CallState.DONE,
    (CallState.PAUSED, CallEvent.RESUME): CallState.WAITING,
    (CallState.AHEAD, CallEvent.BEGIN): CallState.RUNNING,
    (CallState.AHEAD, CallEvent.RETURN): CallState.WAITING,
    (CallState.AHEAD, CallEvent.PAUSE): CallState.PAUSED,
    (CallState.AHEAD, CallEvent.ABANDON): CallState.ABANDONED,
    (CallState.AHEAD, CallEvent.END): CallState.DONE,
    (CallState.RUNNING, CallEvent.RETURN): CallState.WAITING,
    (CallState.RUNNING, CallEvent.PAUSE): CallState.PAUSED,
    (CallState.RUNNING, CallEvent.ABANDON): CallState.ABANDONED,
    (CallState.RUNNING, CallEvent.END): CallState.DONE,
    (CallState.ABANDONED, CallEvent.END): CallState.DONE,
}


class WorkerState(enum.IntEnum):
    """Where a worker stands between being wanted and being gone."""

    PENDING = enum.auto()
    """Wanted; its start waits for the backoff to pass."""
    STARTING = enum.auto()
    READY = enum.auto()
    RETIRING = enum.auto()
    """Finishes what it holds and is given nothing more."""
    GONE = enum.auto()


PENDING, STARTING, READY, RETIRING, GONE = WorkerState


class WorkerEvent(enum.IntEnum):
    """What can happen to a worker."""

    START = enum.auto()
    READY = enum.auto()
    RETIRE = enum.auto()
    LOST = enum.auto()
    STOP = enum.auto()


WORKER_TRANSITIONS: dict[tuple[WorkerState, WorkerEvent], WorkerState] = {
    (WorkerState.PENDING, WorkerEvent.START): WorkerState.STARTING,
    (WorkerState.PENDING, WorkerEvent.RETIRE): WorkerState.GONE,
    (WorkerState.PENDING, WorkerEvent.STOP): WorkerState.GONE,
    (WorkerState.STARTING, WorkerEvent.READY): WorkerState.READY,
    (WorkerState.STARTING, WorkerEvent.RETIRE): WorkerState.GONE,
    (WorkerState.STARTING, WorkerEvent.LOST): WorkerState.GONE,
    (WorkerState.STARTING, WorkerEvent.STOP): WorkerState.GONE,
    (WorkerState.READY, WorkerEvent.RETIRE): WorkerState.RETIRING,
    (WorkerState.READY, WorkerEvent.LOST): WorkerState.GONE,
    (WorkerState.READY, WorkerEvent.STOP): WorkerState.GONE,
    (WorkerState.RETIRING, WorkerEvent.LOST): WorkerState.GONE,
    (WorkerState.RETIRING, WorkerEvent.STOP): WorkerState.GONE,
}


class Hold(enum.IntEnum):
    """Who has a worker for himself."""

    FREE = enum.auto()
    CLAIMED = enum.auto()
    """A call that needs all of it waits until it is empty; nothing is granted from the backlog meanwhile."""
    LEASED = enum.auto()
    """A caller: it is given the calls of that lease and no others."""
    ALONE = enum.auto()
    """A suspect, which runs alone: it is given nothing else."""


class Duty(enum.IntEnum):
    """What a worker has to answer."""

    NONE = enum.auto()
    RECALLED = enum.auto()
    """It was asked to give calls back, and has time left for that; it is given others meanwhile, but none ahead."""
    SILENT = enum.auto()
    """It has not answered in time: it is given nothing, not even for a free slot, until it does."""


_SERVING = (WorkerState.READY, WorkerState.RETIRING)
JOINT: frozenset[tuple[WorkerState, Hold, Duty]] = frozenset(
    {
        # What has not started holds nothing, so nobody has it and there is nothing to ask back.
        (WorkerState.PENDING, Hold.FREE, Duty.NONE),
        (WorkerState.STARTING, Hold.FREE, Duty.NONE),
        # A claim is for a worker that will be empty soon: it is dropped when the worker retires or falls silent.
        (WorkerState.READY, Hold.CLAIMED, Duty.NONE),
        (WorkerState.READY, Hold.CLAIMED, Duty.RECALLED),
        # Otherwise state, hold and duty have nothing to do with each other: who retires keeps its lease, and an empty
        # worker may be leased, or run a suspect, before it has answered the recall that has made it empty.
        *((s, h, d) for s in _SERVING for h in (Hold.FREE, Hold.LEASED, Hold.ALONE) for d in Duty),
    }
)
"""What a worker can be at once: claim, lease, suspect and recall are machines of their own beside its state."""
