"""What a pool does by itself, if it is asked to: frozen, and checked when it is made."""

from __future__ import annotations

import math
import numbers
import re
from dataclasses import dataclass
from typing import Any, Final

from poise.checks import check_flag, check_seconds, check_whole, is_a
from poise.errors import ConfigError

_UNITS: Final = {
    "": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate(("", "k", "m", "g", "t"))},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate(("k", "m", "g", "t"), 1)},
}
"""Bytes, by the name of the unit in small letters."""

LEAST_MEMORY: Final = 1 << 20
"""Bytes: less is a slip of the pen, such as a number that was meant in gigabytes."""


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
