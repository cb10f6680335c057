"""The shape of a picture: plain dicts and lists that JSON carries.

Every time is in seconds. A moment is one of the pool's own clock: `now` is that of the picture, and `wall` the same
moment since 1970, so that `moment - now + wall` is a date.
"""

from __future__ import annotations

from typing import TypedDict


class Quantiles(TypedDict):
    """Of some times: half were not longer than the first, and all but one in a hundred not longer than the second.

    Within 5 %, which is how finely times are told apart.
    """

    p50: float
    p99: float


class SecondPicture(TypedDict):
    """One second of a pool."""

    at: int
    """The moment at which it began."""
    ended: dict[str, int]
    """Calls that ended, by their outcome: "returned", "raised", "cancelled", "expired", "lost"."""
    refused: int
    """Calls that were not accepted."""
    waits: Quantiles | None
    """For how long those that ended had waited; None if none has ended."""
    runs: Quantiles | None
    """For how long those of them ran that were on a worker."""
    busy: float | None
    """The share of the slots that was in use, 0 to 1; None while no worker is ready, or in the present second."""
    backlog: int
    """Calls that waited, at its end or now."""
    deaths: int
    """Workers that were lost."""


class CallPicture(TypedDict):
    """A call that holds a slot now."""

    call: int
    function: str
    row: int
    """Which slot of the worker, from 0."""
    since: float
    """The moment at which it was given that."""


class WorkerPicture(TypedDict):
    """A worker, now."""

    id: int
    state: str
    """"pending", "starting", "ready" or "retiring"; more is said by the next two."""
    leased: bool
    quarantined: bool
    pid: int | None
    node: str | None
    is_here: bool
    """Whether its process is of this machine, as far as is known, and one of its own."""
    lane: str
    generation: int
    slots: int
    running: int
    """Calls that hold a slot, or share one."""
    ahead: int
    """Calls that were sent ahead of their slot."""
    finished: int
    """Calls that it has answered."""
    age: float
    """Seconds in its state."""
    calls: list[CallPicture]
    """What it runs, the oldest first; calls that began before anybody looked are not among them."""
    resident: int | None
    """Bytes of memory, as of a second ago at most; None where it cannot be told."""
    cpu: float | None
    """Seconds of processor time that it has taken, likewise."""
    read: float | None
    """When both were read, as `wall` is: the share of a processor is the difference of two `cpu` by that of these."""


class DeathPicture(TypedDict):
    """A worker that was lost, the latest last."""

    at: float
    worker: int
    pid: int | None
    cause: str
    """"crash", "kill" or "start"."""
    reason: str
    functions: list[str]
    """What it may have begun and not ended."""
    replaced_in: float | None
    """Seconds until another was to start in its place; None if none was."""


class BarPicture(TypedDict):
    """What one slot of a worker ran, from when to when.

    Of short calls that follow each other closely, of one function and outcome, many are one bar, which grows.
    """

    id: int
    """One with the same number takes the place of the one before."""
    worker: int
    row: int
    function: str
    begin: float
    end: float
    outcome: str
    """That of the call, or "retry" if it is to be tried again."""
    calls: int


class Picture(TypedDict):
    """A pool, now and in the last fifteen minutes."""

    pool: str
    """What its workers hold."""
    program: int
    """The process that it belongs to."""
    state: str
    """"new", "opening", "open", "broken", "draining" or "closed"."""
    mark: int
    """What to ask for changes since."""
    now: float
    wall: float
    size: int
    """Workers that are wanted; `least` and `most` are the bounds of an elastic pool."""
    least: int
    most: int
    generation: int
    ready: int
    starting: int
    waiting: int
    parked: int
    running: int
    ahead: int
    abandoned: int
    free_slots: int
    slots: int
    """Calls that the ready workers can run at once."""
    totals: dict[str, int]
    """Counters since the pool was opened, by their names in `Stats`."""
    rate: float
    """Calls that ended in a second, in the last ten; so are the next three."""
    waits: Quantiles | None
    runs: Quantiles | None
    busy: float | None
    workers: list[WorkerPicture]
    deaths: list[DeathPicture]
    seconds: list[SecondPicture]
    """The latest last, each second once; of a picture of changes those that may have changed."""
    bars: list[BarPicture]
    """In the order of their first call's end; of a picture of changes those that are new, or have grown."""
    hidden: int
    """Bars that were left out since the pool is watched, because too many came in one second."""
