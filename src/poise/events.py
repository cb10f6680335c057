"""What happens in a pool: a frozen event for each thing, and the observer that hears of them.

Each event says when it was, `at`, in seconds by the clock of the pool's loop, and what the `pool` holds, as its
`repr` does. A call's number is its place in the order of submission; a worker's is never given twice in one pool.
"""

from __future__ import annotations

import difflib
import inspect
from typing import Any, Literal, NamedTuple, TypeAlias

from poise.errors import ConfigError

Outcome: TypeAlias = Literal["returned", "raised", "cancelled", "expired", "lost"]
"""How a call ends, as `Stats` counts it: it has returned, or raised an exception; its caller gave it up; its timeout is
over; or it ended without an answer, because its worker died, the pool is broken or closed, or its lease was over."""

Cause: TypeAlias = Literal["crash", "kill", "start"]
"""Why a worker is lost: it died by itself; it was killed, for a call past its deadline or one that was given up; or it
could not start."""

# Tuples, because one of these is made for each call, and a frozen dataclass of twelve fields takes 2 us to make.


class CallAdmitted(NamedTuple):
    """A call was accepted: it runs, waits in the backlog, or waits for room in that."""

    at: float
    pool: str
    call: int
    function: str
    """Its name; "lease" for a caller that asks for a whole worker."""


class CallRefused(NamedTuple):
    """A call was not accepted, and never had an effect."""

    at: float
    pool: str
    function: str
    error: type[BaseException]
    """What its caller was given: `Overloaded`, `PoolClosed`, `PoolBroken`, `LeaseExpired` or `WorkerLost`."""


class CallGranted(NamedTuple):
    """A call is on its way to a worker."""

    at: float
    pool: str
    call: int
    function: str
    worker: int
    attempt: int
    """1, and more if it was tried before."""
    is_ahead: bool
    """Whether it was sent ahead of its slot, which another holds."""


class CallBegun(NamedTuple):
    """A call holds a slot of its worker, so that it may have begun.

    A worker does not say when it begins: this is as near as the pool knows. For a call that was sent ahead and was as
    short as those before it, no such event comes.
    """

    at: float
    pool: str
    call: int
    function: str
    worker: int
    attempt: int


class CallPutBack(NamedTuple):
    """A call has left its worker without an outcome, and waits again."""

    at: float
    pool: str
    call: int
    function: str
    worker: int
    attempt: int
    is_retry: bool
    """Whether this attempt may have begun, so that the next one repeats it; else it was only taken back."""


class CallEnded(NamedTuple):
    """A call has had its outcome. `waiting`, `travelling` and `running` add up to all of its time, in seconds."""

    at: float
    pool: str
    call: int
    function: str
    worker: int | None
    """Which it was given to last; None if it never was."""
    attempt: int
    """How many times it was tried; 0 if it never was. To be given to a worker and taken back does not count."""
    outcome: Outcome
    error: type[BaseException] | None
    """What its caller was given, if that is an exception."""
    waiting: float
    """While it held no slot: in the backlog, for room in that, between two attempts, on a worker ahead of its turn."""
    travelling: float
    """While it held a slot and did not run: on its way there and back, and until this process came to it."""
    running: float
    """While it ran, by the worker's own clock: from its packed arguments to its packed result, or to the last item of a
    stream, in all attempts; in a batch, while that ran. Where the worker does not say it, because it has died or has
    not answered yet, or as the call is a lease: while it held its slot. Actors that existed before are timed by the
    caller, so that their travelling is a part of it."""
    is_abandoned: bool
    """Whether its worker still holds it. `CallReleased` follows then."""


class CallReleased(NamedTuple):
    """A worker has let go of a call whose caller was answered before, and its slot is free."""

    at: float
    pool: str
    call: int
    function: str
    worker: int
    attempt: int
    running: float
    """As in `CallEnded`."""


class WorkerStarting(NamedTuple):
    """A worker is being started."""

    at: float
    pool: str
    worker: int
    generation: int
    """Of which factory, as in `Stats.generation`."""
    is_spare: bool
    """Whether the one that it is to replace works until it is ready."""


class WorkerReady(NamedTuple):
    """A worker has started."""

    at: float
    pool: str
    worker: int
    pid: int | None
    """Its process, where that is known."""
    node: str | None
    """Ray's id of the node that it runs on, where that is known."""
    lane: str
    """How calls reach it: "express", "freight" or, in tests, "local"."""
    ready: int
    """How many workers are ready now."""
    size: int
    """How many were asked for."""


class WorkerDied(NamedTuple):
    """A worker is lost: it died, was killed, or could not start."""

    at: float
    pool: str
    worker: int
    pid: int | None
    cause: Cause
    reason: str
    """The same for people."""
    functions: tuple[str, ...]
    """What it may have begun and not ended: one name for each call."""
    replaced_in: float | None
    """Seconds until another is started in its place; None if none will be."""


class WorkerReplacing(NamedTuple):
    """A worker that lives is to be replaced, because it is old, because somebody asks, or by a reload."""

    at: float
    pool: str
    worker: int
    pid: int | None
    heir: int
    """The one that takes its place."""
    reason: str
    is_heir_first: bool
    """Whether that one starts before the old one leaves."""
    is_sick: bool
    """Whether it is replaced because `health` finds it sick."""


class WorkerRetired(NamedTuple):
    """A worker has ended as it was to: it was replaced, or is not wanted any more."""

    at: float
    pool: str
    worker: int
    pid: int | None


class PoolOpening(NamedTuple):
    """A pool is being opened."""

    at: float
    pool: str


class PoolWhole(NamedTuple):
    """As many workers are ready as were asked for, for the first time or again."""

    at: float
    pool: str
    size: int


class PoolResized(NamedTuple):
    """An elastic pool wants another number of workers: because calls wait, or because one has nothing to do."""

    at: float
    pool: str
    before: int
    size: int
    worker: int | None
    """Which leaves; None if the pool grows."""


class PoolBroke(NamedTuple):
    """No worker can start, so that calls are refused until one can: `WorkerReady` says so."""

    at: float
    pool: str
    reason: str
    is_final: bool
    """Whether no start is tried any more, as with actors that existed before."""


class PoolEnded(NamedTuple):
    """A pool was closed, and nothing follows."""

    at: float
    pool: str


Event: TypeAlias = (
    CallAdmitted
    | CallRefused
    | CallGranted
    | CallBegun
    | CallPutBack
    | CallEnded
    | CallReleased
    | WorkerStarting
    | WorkerReady
    | WorkerDied
    | WorkerReplacing
    | WorkerRetired
    | PoolOpening
    | PoolWhole
    | PoolResized
    | PoolBroke
    | PoolEnded
)


class Observer:
    """Hears what happens in a pool: override the methods of the events that you want, for others are not even made.

    They are called on the pool's own event loop (an `Executor` has it on a thread of its own), a moment after the
    event and in order, between two of the pool's steps: so they may call the pool. They hold the loop up for as long as
    they take. One that raises is logged, and its observer hears nothing more.

    One observer may observe several pools.
    """

    __slots__ = ()

    def call_admitted(self, event: CallAdmitted, /) -> None:
        """A call was accepted."""

    def call_refused(self, event: CallRefused, /) -> None:
        """A call was not accepted."""

    def call_granted(self, event: CallGranted, /) -> None:
        """A call is on its way to a worker."""

    def call_begun(self, event: CallBegun, /) -> None:
        """A call may have begun."""

    def call_put_back(self, event: CallPutBack, /) -> None:
        """A call has left its worker and waits again."""

    def call_ended(self, event: CallEnded, /) -> None:
        """A call has had its outcome."""

    def call_released(self, event: CallReleased, /) -> None:
        """A worker has let go of a call that had had its outcome before."""

    def worker_starting(self, event: WorkerStarting, /) -> None:
        """A worker is being started."""

    def worker_ready(self, event: WorkerReady, /) -> None:
        """A worker has started."""

    def worker_died(self, event: WorkerDied, /) -> None:
        """A worker is lost, and nobody had asked for it, or it could not start."""

    def worker_replacing(self, event: WorkerReplacing, /) -> None:
        """A worker that lives is to be replaced."""

    def worker_retired(self, event: WorkerRetired, /) -> None:
        """A worker has ended as it was to."""

    def pool_opening(self, event: PoolOpening, /) -> None:
        """A pool is being opened."""

    def pool_whole(self, event: PoolWhole, /) -> None:
        """As many workers are ready as were asked for."""

    def pool_resized(self, event: PoolResized, /) -> None:
        """An elastic pool wants another number of workers."""

    def pool_broke(self, event: PoolBroke, /) -> None:
        """No worker can start."""

    def pool_ended(self, event: PoolEnded, /) -> None:
        """A pool was closed."""


class Counting(Observer):
    """One of poise's own that counts calls: it is told of each end in the very step, without an event.

    So it may neither raise nor call the pool. An event for each call would take three times as long.
    """

    __slots__ = ()

    def count(self, function: str, outcome: Outcome, attempts: int, waiting: float, running: float) -> None:
        """A call has had its outcome; the figures are those of `CallEnded`."""


def check_observer(option: str, value: Any) -> None:
    """Check something that is to hear of events.

    Raises:
        ConfigError: it is no observer, or has a method that is named as if an event had it, and none has.
    """
    if not isinstance(value, Observer):
        raise ConfigError(option, value, "an object of a class of yours that is derived from poise.Observer")
    heard = [name for name in vars(Observer) if not name.startswith("_")]
    for name in heard:
        if inspect.iscoroutinefunction(getattr(value, name)):
            raise ConfigError(option, value, f"give it plain methods: nobody awaits {name}")
    for kind in type(value).__mro__:
        if issubclass(kind, Observer):
            for name, method in vars(kind).items():
                if inspect.isfunction(method) and name not in heard and _is_like_one_of(name, heard):
                    raise ConfigError(option, value, _no_event(name, heard))


def _is_like_one_of(name: str, heard: list[str]) -> bool:
    """Whether who wrote it has most likely meant an event's: a helper may be called otherwise."""
    if name.startswith(("call_", "worker_", "pool_")):
        return True
    return name.lower().removeprefix("on_").replace("_", "") in {each.replace("_", "") for each in heard}


def _no_event(name: str, heard: list[str]) -> str:
    near = difflib.get_close_matches(name.lower().removeprefix("on_"), heard, n=1)
    meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(heard)}."
    return f"no event has a method {name}: {meant} A helper of your own is to be called otherwise, such as _{name}"
