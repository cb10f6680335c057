"""What is taken off."""

from __future__ import annotations

from typing import NamedTuple


class Rebate(NamedTuple):
    """So many percent."""

    percent: int

    def of(self, price: float) -> float:
        return round(price * (100 - self.percent) / 100, 2)
