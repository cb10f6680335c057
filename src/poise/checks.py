"""Checks of what users give, which say what was wrong with it."""

from __future__ import annotations

import math
import numbers
from typing import Any

from poise.errors import ConfigError


def check_moment(option: str, value: Any) -> None:
    """Check a time of the loop.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
        raise ConfigError(option, value, "a time of the loop, such as loop.time() + 0.5, or None")


def check_seconds(option: str, value: Any, *, zero: bool = False, none: bool = True) -> None:
    """Check a length of time.

    Args:
        option: its name.
        value: what was given.
        zero: whether none at all is one too.
        none: whether the option may be None instead, which an error says.

    Raises:
        ConfigError: it is none.
    """
    if not is_a(value, numbers.Real) or math.isnan(value) or value < 0 or (value == 0 and not zero):
        allowed = "seconds, zero or more" if zero else "seconds, more than zero"
        raise ConfigError(option, value, f"{allowed}, or None for no limit" if none else allowed)


def check_share(option: str, value: Any) -> None:
    """Check a part of a whole, of an option that may be None instead.

    Raises:
        ConfigError: it is none.
    """
    if not is_a(value, numbers.Real) or not 0 <= value <= 1:
        raise ConfigError(option, value, "a share from 0 to 1, such as 0.2, or None for no bound")


def check_one_of(option: str, value: object, allowed: tuple[Any, ...]) -> None:
    """Check a value that is one of a few.

    Raises:
        ConfigError: it is none of them.
    """
    if value not in allowed:
        raise ConfigError(option, value, f"one of {', '.join(map(repr, allowed))}")


def check_whole(option: str, value: Any, least: int | None, most: int | None = None) -> None:
    """Check a whole number; `operator.index` would let a bool through.

    Raises:
        ConfigError: it is none, or outside its range.
    """
    is_whole = is_a(value, numbers.Integral)
    if not is_whole or (least is not None and value < least) or (most is not None and value > most):
        span = "a whole number" if least is None else f"a whole number of at least {least}"
        raise ConfigError(option, value, span if most is None else f"{span} and at most {most}")


def is_a(value: Any, kind: Any) -> bool:
    """Whether the value is of that kind and no bool, which Python counts among the numbers."""
    return isinstance(value, kind) and not isinstance(value, bool)


def check_flag(option: str, value: object) -> None:
    """Check a choice between two.

    Raises:
        ConfigError: it is neither True nor False.
    """
    if type(value) is not bool:
        raise ConfigError(option, value, "True or False")
