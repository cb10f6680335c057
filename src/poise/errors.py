"""Every error that poise raises by itself.

```
PoiseError
├── Overloaded          rejected at admission, never sent
├── DeadlineExceeded    the timeout passed (also a TimeoutError)
├── WorkerLost          the worker died while the call was on it, or waited for it
│   └── PoisonCall      ... at each of the last n deaths
├── PoolBroken          workers cannot start
├── ReplaceFailed       a new worker cannot start, so the old one stays
├── PoolClosed          submitted to, or still waiting in, a closed pool
├── PayloadError        an argument or a result cannot travel
│   ├── PayloadRefused      ... because of a PicklingError (as which it can be caught)
│   └── PayloadTypeError    ... because of a TypeError (likewise)
├── BatchError          a batched function returned no list with a result for each value
├── RemoteError         the user's exception cannot travel as itself
├── ConfigError         a bad option (also a ValueError)
│   └── UnknownOption   there is none of that name (also a TypeError)
├── WrongLoop           used from another loop or thread (also a RuntimeError)
├── LoopBlocked         looked at from another thread while the loop is blocked (also a TimeoutError)
└── LeaseExpired        a worker used after its lease has ended
```

An exception that the user's own code raises arrives as itself, with the remote traceback as its `__cause__`.
`asyncio.CancelledError` means that the caller cancelled, and nothing else.
"""

from __future__ import annotations

import pickle
from typing import Any, ClassVar, Final, Literal

_LONGEST_VALUE: Final = 200
"""Characters of a value that a message shows."""


class PoiseError(Exception):
    """The root of every error that poise raises by itself."""

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild from the arguments and the fields, whatever the signature of `__init__`."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[PoiseError], args: tuple[object, ...], fields: dict[str, object]) -> PoiseError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class Overloaded(PoiseError):
    """The backlog is full: the call was rejected and never sent, so retrying is safe.

    Attributes:
        depth: calls waiting when this one was rejected; those of its tenant, if its part of the backlog is full.
        limit: the most that may wait (`backlog=`, or `backlog_per_tenant=`).
        retry_after: seconds until room is likely, from the pool's recent pace.
        tenant: the tenant whose part is full; None if the whole backlog is.
    """

    def __init__(self, depth: int, limit: int, retry_after: float, tenant: Any = None) -> None:
        """Say how full the backlog is and when to come back."""
        what, option = "the backlog is full", "backlog"
        if tenant is not None:
            what, option = f"the backlog of tenant {tenant!r} is full", "backlog_per_tenant"
        super().__init__(
            f"{what}: {depth} calls wait and the limit is {limit}; retry in about {retry_after:.3g} s, "
            f"use run() or map() to wait for room, or open the pool with a larger {option}="
        )
        self.tenant = tenant
        self.depth = depth
        self.limit = limit
        self.retry_after = retry_after


class DeadlineExceeded(PoiseError, TimeoutError):
    """The call's timeout, which covers waiting and running, has passed.

    Attributes:
        timeout: the timeout that was set, in seconds.
        started: whether the call may have run. False means that it never will.
    """

    def __init__(self, timeout: float, *, started: bool) -> None:
        """Say how long the call had, and whether it may have run."""
        fate = "it had been sent and may have run" if started else "it was still waiting and will never run"
        super().__init__(f"no answer within the timeout of {timeout:g} s; {fate}")
        self.timeout = timeout
        self.started = started


class WorkerLost(PoiseError):
    """The worker died, or was killed, while the call was on it or waited for it alone.

    Attributes:
        worker_id: the worker's number in the pool.
        reason: how the death was noticed.
        started: whether the call may have run. False means that it waited for this worker, as the calls of a
            broadcast do, and never will.
    """

    _again: ClassVar[str] = "use pool.options(retries=...)"

    def __init__(self, worker_id: int, reason: str, *, started: bool = True) -> None:
        """Say which worker died and why, as far as it is known."""
        fate = (
            f"while the call was on it, so the call may have run: {reason}; if it is safe to run twice, {self._again}"
            if started
            else f"before the call that waited for it could start, so the call has not run: {reason}"
        )
        super().__init__(f"worker {worker_id} was lost {fate}")
        self.worker_id = worker_id
        self.reason = reason
        self.started = started


class PoisonCall(WorkerLost):
    """The call was on the worker at each of the last `deaths` deaths, so it is taken to be their cause.

    Attributes:
        deaths: how many workers have died with this call.
        function: the name of the function that was called.
    """

    def __init__(self, worker_id: int, reason: str, deaths: int, function: str) -> None:
        """Name the call and count the workers that died with it."""
        super().__init__(worker_id, reason)
        PoiseError.__init__(
            self, f"{function} was running at each of {deaths} worker deaths and is not tried again: {reason}"
        )
        self.deaths: int = deaths
        self.function: str = function


class PoolBroken(PoiseError):
    """Workers cannot start. The constructor's own exception, if there is one, is the `__cause__`.

    Attributes:
        failures: failed starts in a row.
        reason: the last failure, as text.
    """

    def __init__(self, reason: str, failures: int) -> None:
        """Say how many starts failed and how the last one did."""
        count = f" ({failures} failed in a row)" if failures else ""
        super().__init__(f"no worker could start{count}: {reason}")
        self.failures = failures
        self.reason = reason


class ReplaceFailed(PoiseError):
    """A new worker could not start, so that the old one stays. The constructor's own exception is the `__cause__`.

    Attributes:
        reason: why, as text.
    """

    def __init__(self, reason: str) -> None:
        """Say why."""
        super().__init__(f"a new worker could not start, and the old ones stay: {reason}")
        self.reason = reason


class PoolClosed(PoiseError):
    """The pool is closed (or was never opened): the call was not run, or not run again after it had failed."""


class PayloadError(PoiseError):
    """An argument or a result could not be pickled or unpickled.

    Attributes:
        what: which value, for example "argument 2" or "the result".
        reason: why, as text.
        started: whether the call may have run: True for results.
    """

    def __init__(self, what: str, reason: str, *, started: bool) -> None:
        """Say which value could not travel and why."""
        super().__init__(f"{what} could not travel between the caller and the worker: {reason}")
        self.what = what
        self.reason = reason
        self.started = started


class PayloadRefused(PayloadError, pickle.PicklingError):
    """A `PayloadError` because of a `PicklingError`, as which it can be caught too."""


class PayloadTypeError(PayloadError, TypeError):
    """A `PayloadError` because of a `TypeError`, as which it can be caught too."""


def not_pickled(what: str, reason: str, cause: BaseException, *, started: bool) -> PayloadError:
    """The error for a value that could not be pickled, of the kind that pickle itself has raised."""
    kinds = ((pickle.PicklingError, PayloadRefused), (TypeError, PayloadTypeError))
    kind = next((kind for own, kind in kinds if issubclass(type(cause), own)), PayloadError)
    return kind(what, reason, started=started)


class BatchError(PoiseError):
    """A batched function returned what is no list of as many results as it was given values, so nobody has one.

    Attributes:
        function: the name of the function.
        expected: how many values it was given.
        returned: how many results it returned; None if that was no list.
        type_name: the type of what it returned.
    """

    def __init__(self, function: str, expected: int, returned: int | None, type_name: str) -> None:
        """Say what was returned, and what was to be."""
        results = "1 result" if returned == 1 else f"{returned} results"
        got = results if returned is not None else f"a {type_name}, which is no list"
        values = "1 value" if expected == 1 else f"{expected} values"
        remedy = (
            "return a list with one result for each value, in their order, and poise.Failed(error) for one that failed"
        )
        super().__init__(f"{function} was given {values} and returned {got}: {remedy}")
        self.function = function
        self.expected = expected
        self.returned = returned
        self.type_name = type_name


class RemoteError(PoiseError):
    """The user's exception could not travel as itself, so this carries its text.

    Attributes:
        type_name: the exception's qualified type name.
        text: `str()` of the exception.
        traceback_text: the remote traceback, formatted.
    """

    def __init__(self, type_name: str, text: str, traceback_text: str, why: str = "") -> None:
        """Carry the exception's type, text and traceback."""
        super().__init__(f"{type_name}: {text}" + (f" ({why})" if why else "") + f"\n\n{traceback_text}")
        self.type_name = type_name
        self.text = text
        self.traceback_text = traceback_text


class ConfigError(PoiseError, ValueError):
    """An option has a value outside its range.

    Attributes:
        option: the option's name.
        value: the value given.
    """

    def __init__(self, option: str, value: object, allowed: str) -> None:
        """Name the option, the value and the allowed range."""
        shown = _shown(value)
        super().__init__(f"{option}={shown} is not allowed: {allowed}")
        self.option = option
        self.value: str = shown


class UnknownOption(ConfigError, TypeError):
    """There is no option of that name. Python's own error for such a name is a `TypeError`, and so is this.

    Attributes:
        option: the name.
        value: the value given.
    """

    def __init__(self, option: str, value: object, instead: str) -> None:
        """Name the option and what to use instead."""
        shown = _shown(value)
        PoiseError.__init__(self, f"there is no option {option}={shown}: {instead}")
        self.option: str = option
        self.value: str = shown


def _shown(value: object) -> str:
    """The value as in code, if it can be shown, and not at great length."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - it is the user's own code, and the error is about something else
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


class WrongLoop(PoiseError, RuntimeError):
    """The pool was used from another event loop, thread or process than the one that opened it.

    Also: Ray was to be used in a process that was forked from one whose Ray was connected.
    """


class LoopBlocked(PoiseError, TimeoutError):
    """The pool was looked at from another thread, and its loop did not get to answer: something blocks it.

    Attributes:
        seconds: for how long the thread has waited.
    """

    def __init__(self, seconds: float) -> None:
        """Say how long the loop has not answered, and what that means."""
        super().__init__(
            f"the pool's event loop has answered nothing for {seconds:g} s, so a snapshot would not be consistent; "
            "find what blocks the loop (a synchronous call in a coroutine, most likely), or ask from the loop itself"
        )
        self.seconds = seconds


class LeaseExpired(PoiseError):
    """The worker was used after its lease had ended, or after it had died.

    Attributes:
        worker_id: the worker's number in the pool.
        cause: "released" or "lost".
    """

    def __init__(self, worker_id: int, cause: Literal["released", "lost"]) -> None:
        """Say which lease has ended and how."""
        why = "was given back" if cause == "released" else "died"
        super().__init__(f"the lease on worker {worker_id} has ended: the worker {why}; take a new pool.lease()")
        self.worker_id = worker_id
        self.cause = cause
