"""What users tell `ray.init`: checked early, and divided between who starts Ray and who joins it."""

from __future__ import annotations

import inspect
import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import ray

from poise.errors import ConfigError, PoiseError

if TYPE_CHECKING:
    from collections.abc import Mapping

_ray: Any = ray  # its own types leave out some of what it takes

HERE: Final = "here"
"""The address of the one Ray that this user's processes share on this machine."""
LOCAL: Final = "local"
"""The address of a Ray of this process's own."""

_JOINING: Final = frozenset(
    {
        "configure_logging",
        "ignore_reinit_error",
        "job_config",
        "log_to_driver",
        "logging_config",
        "logging_format",
        "logging_level",
        "namespace",
        "runtime_env",
    }
)
"""Options that are about the program; all others are about the Ray that is started."""
_JOINED_BY_DEFAULT: Final[Mapping[str, Any]] = {"log_to_driver": True, "logging_level": logging.ERROR}
_STARTED_BY_DEFAULT: Final[Mapping[str, Any]] = {"include_dashboard": False}


def check_ray_init(options: Mapping[str, Any]) -> None:
    """Refuse what `ray.init` does not know, and addresses that cannot be used.

    Raises:
        ConfigError: names it.
    """
    known = inspect.signature(_ray.init).parameters
    for name, value in options.items():
        if not (name in known or str(name).startswith("_")):
            raise ConfigError(f"ray_init[{name!r}]", value, "ray.init() has no such option")
    address = options.get("address")
    if not (address is None or (isinstance(address, str) and address)):
        raise ConfigError("ray_init['address']", address, 'an address, "local", "here" or "auto"')
    if address is not None and "://" in address:
        raise ConfigError("ray_init['address']", address, _CLIENT)


def address_of(options: Mapping[str, Any], *, is_here_held: bool) -> tuple[str, str]:
    """Which Ray to use, and what says so.

    Raises:
        PoiseError: it is one that cannot be used.
    """
    if options.get("address"):
        return options["address"], "ray_init['address']"
    if is_here_held:
        return HERE, "poise.ray_here()"
    shared = os.environ.get("POISE_RAY")
    if shared and shared != HERE:
        raise ConfigError("POISE_RAY", shared, f'"{HERE}", for one Ray that your processes on this machine share')
    if shared:
        return HERE, "POISE_RAY"
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return LOCAL, ""  # and not None, which would join any Ray that somebody runs on this machine
    if "://" in address:
        raise PoiseError(f"RAY_ADDRESS={address} {_CLIENT}")
    return address, "RAY_ADDRESS"


def refuse_client() -> None:
    """Refuse a process that the program itself has connected by Ray Client.

    Raises:
        PoiseError: it is connected so.
    """
    client = sys.modules.get("ray.util.client")
    if client is not None and client.ray.is_connected():
        raise PoiseError(f"the address that ray.init was given, ray://..., {_CLIENT}")


_CLIENT: Final = (
    "names a Ray Client server, through which actors cannot be watched; run this program on a machine of the cluster "
    "with RAY_ADDRESS=auto"
)


def options_to_start(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the process that starts a Ray tells `ray.init`."""
    given = {name: value for name, value in options.items() if name not in _JOINING and name != "address"}
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    return {**_STARTED_BY_DEFAULT, **given, **quiet, "address": LOCAL}


def options_to_join(options: Mapping[str, Any], *, is_started_by_us: bool) -> dict[str, Any]:
    """What the program tells `ray.init`, beside the address; Ray refuses options of a start where it only joins."""
    given = {name: value for name, value in options.items() if name in _JOINING or not is_started_by_us}
    given.pop("address", None)
    return {**_JOINED_BY_DEFAULT, **given}
