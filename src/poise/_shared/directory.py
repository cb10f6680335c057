"""The shared pools of a Ray, for whoever looks after them: which there are, and the end of one."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from poise._ray.here import find_ray
from poise._ray.init import address_of
from poise._shared.terms import NAMESPACE
from poise.errors import PoiseError

if TYPE_CHECKING:
    from collections.abc import Generator

    from poise.stats import Stats

_ray: Any = ray  # its own types leave out some of what it takes and gives

ENDS_WITHIN: Final = 120.0
"""Seconds that an owner has to end in good order, which is more than closing takes a pool, before it is killed."""
ANSWERS_WITHIN: Final = 5.0
"""Seconds after which an owner that says nothing is taken to be stuck."""

_PREFIX: Final = "pool "


@dataclass(frozen=True, slots=True)
class KnownPool:
    """One shared pool, at one moment."""

    name: str
    state: str
    """As of any pool, or "silent" if its owner has not answered in time."""
    holds: str = ""
    """What its workers hold."""
    clients: int = 0
    """Processes, or rather pools in them, that use it."""
    is_detached: bool = False
    pid: int | None = None
    """The owner's process."""
    stats: Stats | None = None


def ray_name(name: str) -> str:
    """What the owner of the pool of this name is called in Ray."""
    return _PREFIX + name


@contextlib.contextmanager
def on_ray(address: str | None) -> Generator[None]:
    """Be connected to a Ray within the block: the one at this address, or that programs here would use by themselves.

    Raises:
        PoiseError: there is none.
    """
    hold = None
    if not address and os.environ.get("RAY_ADDRESS") and not os.environ.get("POISE_RAY"):
        address, _ = address_of({}, is_here_held=False)
    if not address:
        hold = find_ray()
        if hold is None:
            raise PoiseError(
                "no Ray is shared by programs on this machine; give --address if a pool is shared on another"
            )
        address, _ = hold.wait()
    try:
        _ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        try:
            yield
        finally:
            _ray.shutdown()
    except ConnectionError as error:
        raise PoiseError(f"no Ray answers at {address}: {error}") from error
    finally:
        if hold is not None:
            hold.close()


def known_pools() -> list[KnownPool]:
    """The shared pools of the Ray that this process is connected to, by name."""
    named: Any = _ray.util.list_named_actors(all_namespaces=True)
    names = [each["name"] for each in named if each["namespace"] == NAMESPACE and each["name"].startswith(_PREFIX)]
    pools = [_look_at(name.removeprefix(_PREFIX)) for name in sorted(names)]
    return [pool for pool in pools if pool is not None]


def _look_at(name: str) -> KnownPool | None:
    try:
        about = _ray.get(_owner(name).describe.remote(), timeout=ANSWERS_WITHIN)
    except GetTimeoutError:
        return KnownPool(name, "silent")
    except (PoiseError, RayError):
        return None  # it has just ended
    return KnownPool(name, **about)


def end_pool(name: str, *, drains: bool) -> None:
    """End a shared pool for all that use it, and return when nothing of it is left.

    Args:
        name: the pool's.
        drains: whether every call that it has accepted ends first.

    Raises:
        PoiseError: there is none of that name.
    """
    owner = _owner(name)
    try:
        _ray.get(owner.stop.remote(drains), timeout=None if drains else ENDS_WITHIN)
    except RayActorError:  # which is how it tells that it has ended
        return
    except GetTimeoutError:  # it hangs
        _ray.kill(owner, no_restart=True)


def _owner(name: str) -> Any:
    try:
        return _ray.get_actor(ray_name(name), namespace=NAMESPACE)
    except ValueError:
        raise PoiseError(f"there is no shared pool {name!r} here; `poise ls` lists those that there are") from None
