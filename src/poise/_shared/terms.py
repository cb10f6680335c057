"""What clients of a shared pool and its owner tell each other: who opens it and how, and what each call asks for."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from poise._protocol.exceptions import pack_exception, unpack_exception
from poise._protocol.payloads import PROTOCOL
from poise.errors import ConfigError, PoiseError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from poise._protocol.functions import TypeNames
    from poise._protocol.payloads import Packed
    from poise.options import CallOptions

NAMESPACE: Final = "poise"
"""Ray's namespace for the names of owners."""

LONGEST_NAME: Final = 100
"""Characters of a shared pool's name."""

LARGEST: Final = 2**63 - 1
"""The largest whole number that a message carries."""

LATE: Final = 0.05
"""Seconds after a call's deadline at which its own process answers for an owner that has not."""

Terms: TypeAlias = dict[str, Any]
"""What a call asks for beyond being run: only what is not as it is by default, in what msgpack can carry.

| key | |
|---|---|
| `left` | seconds until its deadline, and those that its caller had granted |
| `priority`, `retries`, `pause`, `weight`, `key`, `patience` | as in `CallOptions` |
| `tenant` | as text, or pickled, which nobody unpickles |
| `parks` | whether it may wait for room |
| `leases` | whether it asks for a worker, and runs nothing |
| `under` | the number of the call that asked for the worker on which it runs |
| `worker` | the number of the one worker on which it is to run |
| `batch` | the most calls of its function in one batch, and the seconds that it may wait for company |
| `again` | whether its client may try it again, after a failure that only that can judge |
| `deaths` | workers that died with it before |
"""


class PackedFactory(NamedTuple):
    """What makes the instances of the workers, which the owner hands on as it is."""

    packed: Packed | None
    label: str
    """What the workers are called."""
    defaults: dict[str, Any]
    """Options of Ray's that came with it."""


class Opening(NamedTuple):
    """What the first client opens a pool with."""

    factory: PackedFactory
    options: dict[str, Any]
    """The pool's options as they were given; those not given are as they are by default."""
    is_detached: bool
    """Whether the pool stays when its last client leaves."""
    paths: Sequence[str]
    """Where the client looks for modules."""


class Greeting(NamedTuple):
    """What a client is told that may join."""

    pid: int
    node: str
    """Ray's id of the owner's node."""
    classes: TypeNames
    slots: int
    """Calls that one worker runs at once."""
    most: int
    """The most workers that there may be."""
    options: dict[str, Any]
    """What the pool was opened with: so it is opened again if the owner dies."""
    is_detached: bool
    is_writable: bool


def check_name(name: Any) -> str:
    """Check the name of a shared pool.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise ConfigError("name", name, f"a name of 1 to {LONGEST_NAME} printable characters, such as 'models'")
    return name


def refuse_difference(name: str, asked: Mapping[str, Any], has: Mapping[str, Any], defaults: Any) -> None:
    """Refuse a client that asks for another pool than there is by that name.

    Args:
        name: the pool's.
        asked: the options that the client gives.
        has: those that the pool was opened with.
        defaults: has, as an attribute, what each option is that was not given.

    Raises:
        ConfigError: names the first option that differs.
    """
    for option, value in asked.items():
        known = has.get(option, getattr(defaults, option, False))
        if value != known:
            remedy = "give the same, or leave the option out, which takes the pool as it is"
            raise ConfigError(option, value, f"the shared pool {name!r} was opened with {option}={known!r}: {remedy}")


def terms_of(options: CallOptions) -> Terms:
    """What each call with these options asks for.

    Raises:
        ConfigError: a number is too large to travel.
    """
    terms: Terms = {}
    for name in ("priority", "retries"):
        if abs(getattr(options, name)) > LARGEST:
            raise ConfigError(name, getattr(options, name), f"at most {LARGEST:,} in a shared pool")
    if options.priority:
        terms["priority"] = int(options.priority)
    if options.retries and not options.retry_on:  # else the client tries again: it alone knows the exceptions
        terms["retries"], terms["pause"] = int(options.retries), float(options.retry_delay)
    if options.retries and options.retry_on:
        terms["again"] = True
    if options.tenant is not None:
        terms["tenant"], terms["weight"] = packed_tenant(options.tenant), float(options.weight)
    if options.key is not None:
        terms["key"], terms["patience"] = packed_key(options.key), float(options.patience)
    return terms


def packed_tenant(tenant: Any) -> str | bytes:
    """A tenant as it travels."""
    return tenant if type(tenant) is str and tenant.isascii() else pickle.dumps(tenant, PROTOCOL)


def packed_key(key: str | int | bytes) -> str | int | bytes:
    """A key as it travels: as it is, unless no message can carry it."""
    if isinstance(key, int):
        return int(key) if abs(key) <= LARGEST else b"%d" % key
    if isinstance(key, str):
        return str(key) if key.isascii() else key.encode("utf-8", "surrogatepass")
    return bytes(key)


# ---------------------------------------------------------------------------------------------------------------------
# What is asked of the owner beside calls

Outcome: TypeAlias = tuple[bool, Any]
"""Whether it was done, and what it gave, or the packed error."""


def pack_with_cause(error: BaseException) -> Packed:
    """Pack an error of the pool's own whose cause is a constructor's."""
    if error.__cause__ is not None:
        error.__dict__[_CAUSE] = pack_exception(error.__cause__)
    return pack_exception(error)


def with_cause(error: BaseException) -> BaseException:
    """The same error that was packed so, with its cause."""
    if isinstance(error, PoiseError) and (packed := error.__dict__.pop(_CAUSE, None)) is not None:
        error.__cause__ = unpack_exception(packed)
    return error


_CAUSE: Final = "_packed_cause"


def told(error: BaseException) -> Outcome:
    """An error on its way, with its cause."""
    return False, pack_with_cause(error)


def heard(outcome: Outcome) -> Any:
    """What was asked for.

    Raises:
        Exception: what befell the owner at it.
    """
    is_done, value = outcome
    if is_done:
        return value
    raise with_cause(unpack_exception(value))
