"""The targets of the design, and whether a run met them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from bench.samples import Spread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MET: Final = "met"
NOT_MET: Final = "NOT met"
UNKNOWN: Final = "not measured"


@dataclass(frozen=True, slots=True)
class Finding:
    """One target, and what was measured."""

    part: str
    """"P1" to "P8"."""
    claim: str
    target: str
    measured: str
    verdict: str
    values: tuple[float, ...] = ()
    """The measured figure in each repetition."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def at_least(part: str, claim: str, limit: float, values: Sequence[float], unit: str = "x") -> Finding:
    """The median must reach the limit."""
    return _judge(part, claim, f">= {limit:g}{unit}", values, unit, lambda median: median >= limit)


def at_most(part: str, claim: str, limit: float, values: Sequence[float], unit: str = "x") -> Finding:
    """The median must stay within the limit."""
    return _judge(part, claim, f"<= {limit:g}{unit}", values, unit, lambda median: median <= limit)


def _judge(
    part: str, claim: str, target: str, values: Sequence[float], unit: str, is_met: Callable[[float], bool]
) -> Finding:
    if not values:
        return Finding(part, claim, target, "-", UNKNOWN)
    spread = Spread.of(values)
    measured = f"{spread.median:.3g}{unit}"
    if spread.count > 1:
        measured += f" ({spread.low:.3g} to {spread.high:.3g})"
    return Finding(part, claim, target, measured, MET if is_met(spread.median) else NOT_MET, tuple(values))
