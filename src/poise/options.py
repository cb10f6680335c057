"""What a pool and a call can be told: frozen, and checked when they are made."""

from __future__ import annotations

import difflib
import math
import numbers
import os
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Required, TypedDict, get_args

from poise.checks import check_flag, check_moment, check_one_of, check_seconds, check_share, check_whole, is_a
from poise.errors import ConfigError, UnknownOption
from poise.events import Observer, check_observer
from poise.policies import Elastic, Health, Recycle, Size, check_size

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

LaneName = Literal["auto", "express", "freight"]
"""How calls reach the workers."""

LogsName = Literal["ray", "forward"]
"""Where what workers log goes."""

OnError = Literal["raise", "return", "skip"]
"""What becomes of a call of a map that fails."""


class CallArguments(TypedDict, total=False):
    """What `View.options` takes; `CallOptions` has the defaults and the meaning of each."""

    timeout: float | None
    deadline: float | None
    priority: int
    retries: int
    retry_on: tuple[type[Exception], ...] | type[Exception]
    retry_delay: float
    kill_on_cancel: bool
    tenant: Hashable | None
    weight: float
    key: str | int | bytes | None
    patience: float


class WindowArguments(TypedDict, total=False):
    """What `View.map` takes beside the function and the items, which explains each, whatever becomes of errors."""

    buffersize: int | None
    progress: bool


class MapArguments(WindowArguments, total=False):
    """The same where an error is never among the results."""

    on_error: Literal["raise", "skip"]


class ReturningArguments(WindowArguments, total=False):
    """The same where errors are among the results."""

    on_error: Required[Literal["return"]]


class WorkerArguments(TypedDict, total=False):
    """What every kind of pool takes but its size; `PoolOptions` has the defaults, `poise.Pool` the meaning of each."""

    concurrency: int
    backlog: int | None
    backlog_per_tenant: int | None
    min_ready: int
    start_timeout: float
    close_timeout: float
    kill_after: float | None
    poison_after: int
    retry_budget: float | None
    lane: LaneName
    link_timeout: float
    writable: bool
    recycle: Recycle | None
    health: Health | None
    observers: Iterable[Observer]
    record: str | os.PathLike[str] | None
    traces: bool
    context: Iterable[ContextVar[Any]]
    logs: LogsName
    watch: bool
    ray_options: dict[str, Any] | None
    ray_init: dict[str, Any] | None


class PoolArguments(WorkerArguments, total=False):
    """What `poise.Pool` takes."""

    size: Size | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """What one view of a pool asks for each of its calls."""

    timeout: float | None = None
    """Seconds for waiting and running together; None waits for ever."""
    deadline: float | None = None
    """The moment, by the clock of the pool's loop, at which every call of the view expires; the earlier one counts."""
    priority: int = 0
    """Higher starts first; equal ones start in the order of submission."""
    retries: int = 0
    """How many more times a call may run after its worker died, or after an exception that `retry_on` names."""
    retry_on: tuple[type[Exception], ...] = ()
    """Exceptions of the user's code after which a call is run again, beside the death of its worker."""
    retry_delay: float = 0.1
    """Seconds, at most, of the pause before the second attempt; it doubles with each, up to 30 s, and each pause is a
    random part of it. 0 is none."""
    kill_on_cancel: bool = False
    """Whether cancelling a call that runs ends its worker, if nothing else stops it."""
    tenant: Hashable | None = None
    """For whom the calls are made: tenants share a priority by what their calls take. None is nobody in particular."""
    weight: float = 1
    """The tenant's part beside the others'."""
    key: str | int | bytes | None = None
    """What the calls are about: they prefer the worker that served it last."""
    patience: float = 0.0
    """Seconds that a call may wait for that worker when its turn has come, though another is free."""

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            ConfigError: an option is outside its range.
        """
        if self.timeout is not None:
            check_seconds("timeout", self.timeout)
        if self.deadline is not None:
            check_moment("deadline", self.deadline)
        check_whole("priority", self.priority, None)
        check_whole("retries", self.retries, 0)
        check_seconds("retry_delay", self.retry_delay, zero=True, none=False)
        check_flag("kill_on_cancel", self.kill_on_cancel)
        _check_tenant(self.tenant, self.weight)
        _check_key(self.key)
        check_seconds("patience", self.patience, zero=True, none=False)
        given: Any = self.retry_on
        is_tuple = isinstance(given, tuple)
        kinds: tuple[Any, ...] = given if is_tuple else (given,)  # pyright: ignore[reportUnknownVariableType]
        for kind in kinds:
            if not (is_a(kind, type) and issubclass(kind, Exception)):
                raise ConfigError("retry_on", kind, "give exception classes, each derived from Exception")
        object.__setattr__(self, "retry_on", kinds)

    def but(self, **changes: Any) -> CallOptions:
        """These options with some changed.

        Raises:
            UnknownOption: there is no such option.
            ConfigError: it is outside its range, or there is patience and nothing to be patient for.
        """
        _check_names(changes, self.__slots__, "a call")
        if self.key is None and "key" not in changes and (given := changes.get("patience")):
            raise ConfigError("patience", given, "give it with a key: pool.options(key=session, patience=0.5)")
        return replace(self, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapOptions:
    """How many calls are made of many items. See `poise.View.map` for the meaning of each."""

    buffersize: int | None = None
    on_error: OnError = "raise"
    progress: bool = False

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            ConfigError: an option is outside its range.
        """
        if self.buffersize is not None:
            check_whole("buffersize", self.buffersize, 1)
        check_one_of("on_error", self.on_error, get_args(OnError))

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> MapOptions:
        """The options that were given by name.

        Raises:
            UnknownOption: there is none of that name; says what to use instead.
            ConfigError: an option is outside its range.
        """
        _check_names(given, cls.__slots__, "a map")
        return cls(**given)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """What a pool is told when it is made. See `poise.Pool` for the meaning of each."""

    size: Size | None = None
    concurrency: int = 1
    backlog: int | None = 100_000
    backlog_per_tenant: int | None = None
    min_ready: int = 1
    start_timeout: float = 60.0
    close_timeout: float = 5.0
    kill_after: float | None = 5.0
    poison_after: int = 3
    retry_budget: float | None = None
    lane: LaneName = "auto"
    link_timeout: float = 5.0
    writable: bool = False
    recycle: Recycle | None = None
    health: Health | None = None
    observers: Iterable[Observer] = ()
    record: str | os.PathLike[str] | None = None
    traces: bool = False
    context: Iterable[ContextVar[Any]] = ()
    logs: LogsName = "ray"
    watch: bool = False
    ray_options: dict[str, Any] = field(default_factory=dict[str, Any])
    ray_init: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            ConfigError: an option is outside its range.
        """
        if self.size is not None:
            object.__setattr__(self, "size", check_size("size", self.size))
        check_whole("concurrency", self.concurrency, 1, 1000)
        if self.backlog is not None:
            check_whole("backlog", self.backlog, 0)
        if self.backlog_per_tenant is not None:
            check_whole("backlog_per_tenant", self.backlog_per_tenant, 1)
        check_whole("min_ready", self.min_ready, 0)
        if (most := self.most) is not None and self.min_ready > most:
            raise ConfigError("min_ready", self.min_ready, f"at most size, which is {most}")
        check_seconds("start_timeout", self.start_timeout, none=False)
        check_seconds("close_timeout", self.close_timeout, zero=True, none=False)
        if self.close_timeout == math.inf:
            raise ConfigError("close_timeout", self.close_timeout, "seconds, zero or more, and finite")
        if self.kill_after is not None:
            check_seconds("kill_after", self.kill_after, zero=True)
        check_whole("poison_after", self.poison_after, 1)
        if self.retry_budget is not None:
            check_share("retry_budget", self.retry_budget)
        check_one_of("lane", self.lane, get_args(LaneName))
        check_seconds("link_timeout", self.link_timeout, none=False)
        if self.link_timeout < 1 or self.link_timeout == math.inf:
            raise ConfigError("link_timeout", self.link_timeout, "seconds, at least 1: the kernel counts in whole ones")
        check_flag("writable", self.writable)
        _check_policy("recycle", self.recycle, Recycle, "poise.Recycle(calls=10_000)")
        _check_policy("health", self.health, Health, "poise.Health(Model.check)")
        object.__setattr__(self, "observers", _observers(self.observers))
        _check_record(self.record)
        check_flag("traces", self.traces)
        object.__setattr__(self, "context", _variables(self.context))
        check_one_of("logs", self.logs, get_args(LogsName))
        check_flag("watch", self.watch)
        object.__setattr__(self, "ray_options", _dict("ray_options", self.ray_options, "Ray gives to an actor"))
        object.__setattr__(self, "ray_init", _dict("ray_init", self.ray_init, "ray.init() takes"))

    @property
    def wanted(self) -> int | Elastic | None:
        """What `size` means."""
        assert not isinstance(self.size, tuple), "it was made bounds"
        return self.size

    @property
    def most(self) -> int | None:
        """The most workers that there may be, None if Ray is to say how many."""
        return self.wanted.max if isinstance(self.wanted, Elastic) else self.wanted

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> PoolOptions:
        """The options that were given by name.

        Raises:
            UnknownOption: there is none of that name; says what to use instead.
            ConfigError: an option is outside its range.
        """
        _check_names(given, cls.__slots__, "a pool")
        return cls(**given)


def _check_policy(option: str, value: Any, kind: type[Any], example: str) -> None:
    if value is not None and not isinstance(value, kind):
        raise ConfigError(option, value, f"a poise.{kind.__name__}, such as {example}, or None")


def _observers(given: Any) -> tuple[Observer, ...]:
    try:
        observers = tuple(given)
    except TypeError as error:
        raise ConfigError("observers", given, "a list of observers, such as [MyObserver()]") from error
    for each in observers:
        check_observer("observers", each)
    return observers


def _variables(given: Any) -> tuple[ContextVar[Any], ...]:
    allowed = "a list of variables, such as [request_id], each a contextvars.ContextVar"
    try:
        variables = tuple(given)
    except TypeError as error:
        raise ConfigError("context", given, allowed) from error
    for each in variables:
        if not isinstance(each, ContextVar):
            raise ConfigError("context", each, allowed)
    return variables


def _check_record(path: Any) -> None:
    if path is None:
        return
    try:
        folder, file = os.path.split(os.fsdecode(path))
    except TypeError as error:
        raise ConfigError("record", path, "the path of a file, or None") from error
    if not os.path.isdir(folder or os.curdir) or not file or os.path.isdir(path):
        raise ConfigError("record", path, "the path of a file in a folder that there is")


def _dict(option: str, value: Any, what: str) -> dict[str, Any]:
    options: Any = {} if value is None else value
    if not isinstance(options, dict):
        raise ConfigError(option, value, f"a dict of options that {what}")
    return options  # pyright: ignore[reportUnknownVariableType]


_OTHERS_OPTIONS: Final = {
    "max_workers": "a pool's is size=; poise.Executor has max_workers=",
    "num_workers": "use size=",
    "workers": "use size=",
    "processes": "use size=",
    "max_concurrency": "use concurrency=",
    "max_pending_calls": "use backlog=",
    "initializer": "give a factory, which runs in each worker; poise.Executor has initializer=",
    "initargs": "give a factory, which runs in each worker; poise.Executor has initargs=",
    "max_tasks_per_child": "use recycle=poise.Recycle(calls=...); poise.Executor has max_tasks_per_child=",
    "maxtasksperchild": "use recycle=poise.Recycle(calls=...)",
}
"""Names that users bring from elsewhere, for a pool, and what to do instead."""

_OF_ACTORS: Final = frozenset(
    {
        "accelerator_type",
        "fallback_strategy",
        "label_selector",
        "memory",
        "num_cpus",
        "num_gpus",
        "resources",
        "runtime_env",
        "scheduling_strategy",
    }
)
"""Options of Ray's for an actor that `ray_options` hands on."""


def _check_names(given: Mapping[str, Any], known: Iterable[str], whose: str) -> None:
    """Refuse what `whose` options do not have.

    Raises:
        UnknownOption: says what to use instead.
    """
    for name, value in given.items():
        if name not in known:
            raise UnknownOption(name, value, _instead(name, known, whose))


def _instead(name: str, known: Iterable[str], whose: str) -> str:
    """What to use instead of an option that `whose` has not."""
    if whose == "a pool":
        if name in _OTHERS_OPTIONS:
            return _OTHERS_OPTIONS[name]
        if name in _OF_ACTORS:
            return f"it is Ray's: use ray_options={{{name!r}: ...}}"
    if whose != "a call" and name in CallOptions.__slots__:
        return f"it is an option of calls: use pool.options({name}=...)"
    if whose != "a pool" and name in PoolOptions.__slots__:
        return f"it is an option of the pool: use poise.Pool(..., {name}=...)"
    known = sorted(known)
    near = [f"{each}=" for each in difflib.get_close_matches(name, known, n=2)]
    return f"did you mean {' or '.join(near)}?" if near else f"{whose} has the options {', '.join(known)}"


def _check_tenant(tenant: Any, weight: Any) -> None:
    try:
        hash(tenant)
    except Exception as error:
        raise ConfigError("tenant", tenant, "what can be a key of a dict, such as a name, or None") from error
    if not is_a(weight, numbers.Real) or not 0 < weight < math.inf:
        raise ConfigError("weight", weight, "a finite number, more than zero")


def _check_key(key: Any) -> None:
    if key is not None and (not is_a(key, str | int | bytes) or type(key).__hash__ is None):
        raise ConfigError("key", key, "text, a whole number or bytes, such as the id of a session, or None")
