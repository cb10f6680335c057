"""What a pool does by itself, if it is asked to: frozen, and checked when it is made."""

from __future__ import annotations

import math
import numbers
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from poise.checks import check_flag, check_seconds, check_whole, is_a
from poise.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

_UNITS: Final = {
    "": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate(("", "k", "m", "g", "t"))},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate(("k", "m", "g", "t"), 1)},
}
"""Bytes, by the name of the unit in small letters."""

LEAST_MEMORY: Final = 1 << 20
"""Bytes: less is a slip of the pen, such as a number that was meant in gigabytes."""

LEAST_SECONDS: Final = 0.001
"""Between two checks of a worker, and for one: less would leave no time for anything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recycle:
    """When a healthy worker is old, and is replaced: against leaks, and whatever else piles up in a process.

    The replacement is started first; only when it is ready does the old worker take nothing more, finish what it holds,
    close what the factory made, and end. No call fails or waits for it. One worker is replaced at a time, or a tenth of
    the pool. What a lease holds is left alone until that ends.
    """

    calls: int | None = None
    """How many calls a worker answers."""
    age: float | None = None
    """Seconds for which it works."""
    memory: int | str | None = None
    """Its resident set, in bytes, or as text: "2GiB", "500MB". Ray's object store does not count. Each worker looks
    between its calls."""
    jitter: float = 0.1
    """By up to which part of them `calls` and `age` are less, by chance for each worker, so that workers which started
    together do not grow old together."""
    surge: bool = True
    """Whether the replacement starts first, and takes room beside the old worker; if not, or if Ray has no such room,
    the old one ends first."""
    exact: bool = False
    """Whether a worker is given no call beyond `calls`. It then retires at once, however many others do, and calls may
    wait for its replacement. With more than one slot it may still be one call for each of the others too many."""

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            ConfigError: one is outside its range, or none says when.
        """
        if self.calls is not None:
            check_whole("calls", self.calls, 1)
        if self.age is not None:
            check_seconds("age", self.age)
        if self.memory is not None:
            object.__setattr__(self, "memory", _bytes("memory", self.memory))
        if not is_a(self.jitter, numbers.Real) or not 0 <= self.jitter < 1:
            raise ConfigError("jitter", self.jitter, "a part, at least 0 and less than 1")
        check_flag("surge", self.surge)
        check_flag("exact", self.exact)
        if self.calls is None and self.age is None and self.memory is None:
            raise ConfigError("recycle", self, "say when: give calls=, age= or memory=")
        if self.exact and self.calls is None:
            raise ConfigError("exact", self.exact, "give calls= too: it is about their number")

    @property
    def most_bytes(self) -> int | None:
        """What `memory` means, None if that is not limited."""
        assert not isinstance(self.memory, str), "it was made a number"
        return self.memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """When a worker is sick, and is replaced: because a check of it fails, or because its calls do.

    *The check* runs in the worker as a call does, on the same thread or loop, and takes a slot while it runs. A worker
    counts as ready when it has passed its first one, within `start_timeout`; if that fails, its start has failed. Later
    ones are left out while a worker is leased, or has no free slot and runs a call that is within its time: one
    without a timeout always is. After `strikes` failures in a row the worker is replaced. If it does not answer at all
    any more (a deadlock, a process that is stopped, C code that keeps the interpreter) it is killed, and its calls end
    as at any death.

    *The calls* of users tell as well, if `counts` says which exceptions are a worker's fault: whoever fails `failures`
    times in a row, or clearly more often than its fellows, is sick, unless most of them fail too. A call that is
    retried and fails on another worker as well counts against nobody.

    A sick worker is given nothing more, as long as another works, and leaves when its replacement is ready. If that
    cannot start it works on: a sick worker is better than none.
    """

    check: Callable[..., Any] | str | None = field(default=None, kw_only=False)
    """A method of the workers' class, its name, or a function that gets what the factory made; where there is no
    factory, a function without arguments. It fails if it raises or returns False."""
    every: float = 10.0
    """Seconds from one check of a worker to the next."""
    timeout: float = 5.0
    """Seconds that a check may take before it counts as failed; not the first one. A coroutine is cancelled then."""
    strikes: int = 3
    """Failures in a row after which the worker is replaced."""
    counts: tuple[type[Exception], ...] | type[Exception] = ()
    """Exceptions of calls that are the fault of the worker; none, unless it is told. One alone need not be a tuple."""
    failures: int = 5
    """How many of those, in a row, make a worker sick; and the least with which it can stand out against others."""
    most_out: float = 0.1
    """The part of the pool that may be on its way to be replaced for being sick, and at least one worker. Those that
    do not answer at all are killed however many they are."""

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            ConfigError: one is outside its range, or none says what a sick worker is.
        """
        check: Any = self.check
        if check is not None and not (callable(check) or isinstance(check, str)):
            raise ConfigError("check", check, "a method of the workers' class, its name, or a function")
        for option, value in (("every", self.every), ("timeout", self.timeout)):
            check_seconds(option, value, none=False)
            if value < LEAST_SECONDS:
                raise ConfigError(option, value, f"seconds, at least {LEAST_SECONDS:g}")
        check_whole("strikes", self.strikes, 1)
        check_whole("failures", self.failures, 1)
        if not is_a(self.most_out, numbers.Real) or not 0 < self.most_out <= 1:
            raise ConfigError("most_out", self.most_out, "a part of the pool, more than 0 and at most 1, such as 0.1")
        given: Any = self.counts
        kinds: tuple[Any, ...] = given if isinstance(given, tuple) else (given,)  # pyright: ignore[reportUnknownVariableType]
        for kind in kinds:
            if not (is_a(kind, type) and issubclass(kind, Exception)):
                raise ConfigError("counts", kind, "give exception classes, each derived from Exception")
        object.__setattr__(self, "counts", kinds)
        if check is None and not kinds:
            raise ConfigError("health", self, "say what a sick worker is: give a check, or counts=")

    @property
    def faults(self) -> tuple[type[Exception], ...]:
        """What `counts` means."""
        assert isinstance(self.counts, tuple), "it was made one"
        return self.counts

    @property
    def check_name(self) -> str:
        """What the check is called in messages."""
        return self.check if isinstance(self.check, str) else getattr(self.check, "__qualname__", "its check")


@dataclass(frozen=True, slots=True)
class Elastic:
    """A number of workers between bounds, by what there is to do.

    The pool grows when calls wait for longer than it takes to start a worker, as it has measured: at once to as many
    workers as these calls can use. A worker that nobody has used for `idle` seconds leaves. None leaves that runs
    something or is leased, and no call fails because of either.
    """

    min: int
    """The fewest workers. With 0 the pool sleeps while nobody calls, and the first call waits for a worker to start."""
    max: int
    """The most workers."""
    idle: float = field(default=30.0, kw_only=True)
    """Seconds for which a worker has nothing to do before it leaves."""

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            ConfigError: one is outside its range.
        """
        check_whole("min", self.min, 0)
        check_whole("max", self.max, 1)
        if self.max < self.min:
            raise ConfigError("max", self.max, f"at least min, which is {self.min}")
        check_seconds("idle", self.idle, none=False)


Size: TypeAlias = int | tuple[int, int] | Elastic
"""How many workers: a number, or the fewest and the most."""


def check_size(option: str, value: Any) -> int | Elastic:
    """Check a number of workers, and understand two as bounds.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(value, Elastic):
        return value
    if isinstance(value, tuple):
        bounds: tuple[Any, ...] = value  # pyright: ignore[reportUnknownVariableType]
        if len(bounds) == 2 and all(is_a(bound, numbers.Integral) for bound in bounds):
            least, most = bounds
            if 0 <= least <= most and most:
                return Elastic(least, most)
        raise ConfigError(option, bounds, "the fewest and the most workers, such as (0, 16)")
    if not is_a(value, numbers.Integral) or value < 1:
        raise ConfigError(option, value, "a whole number of at least 1, or the fewest and the most, such as (0, 16)")
    return int(value)


def _bytes(option: str, value: Any) -> int:
    """An amount of memory as a number.

    Raises:
        ConfigError: it is none.
    """
    amount, unit = value, ""
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", value)) is not None:
        amount, unit = float(match[1]), match[2].lower()
    if is_a(amount, numbers.Real) and unit in _UNITS and LEAST_MEMORY <= (number := amount * _UNITS[unit]) < math.inf:
        return int(number)
    raise ConfigError(option, value, 'bytes, at least a mebibyte, or text such as "2GiB" or "500MB"')
