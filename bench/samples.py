"""What repeated measurements say: median, spread, ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

QUANTILES: Final = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
"""What is kept of a long series of latencies."""


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which this part (0 to 1) of the others lies, interpolated between neighbours.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values, so no quantile")
    ordered = sorted(values)
    position = part * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """The quantiles that are kept, by name."""
    ordered = sorted(values)
    return {f"{part:g}": quantile(ordered, part) for part in QUANTILES}


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure, measured several times."""

    median: float
    low: float
    """A quarter of the repetitions were below."""
    high: float
    """A quarter of the repetitions were above."""
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up the repetitions.

        Raises:
            ValueError: there are none.
        """
        return cls(quantile(values, 0.5), quantile(values, 0.25), quantile(values, 0.75), len(values))


def ratios(above: dict[int, float], below: dict[int, float]) -> list[float]:
    """The ratio in each round in which both were measured, so that a slow minute of the machine hurts both."""
    return [above[turn] / below[turn] for turn in sorted(above) if turn in below and below[turn] > 0]
