"""What `poise run` calls in the tests."""

from __future__ import annotations

import sys
import time
from typing import Any

from tests.gate import wait_at

HELD_FROM = 100


class Model:
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def double(self, x: int) -> dict[str, int]:
        self.calls += 1
        sys.stdout.write("a worker speaks\n")
        return {"doubled": 2 * x}

    @staticmethod
    def triple(x: int) -> int:
        return 3 * x


def held(x: tuple[int, str]) -> int:
    """Wait at line 100 until the test opens the gate."""
    number, gate = x
    if number == HELD_FROM:
        wait_at(gate, number)
    return number


def uneven(x: int) -> int:
    """The first lines take longest."""
    time.sleep(0.05 if x < 4 else 0)
    return x


def picky(x: int) -> Any:
    if x == 3:
        raise ValueError("not three")
    if x == 5:
        return {1, 2}  # no JSON
    return x


NOT_A_FUNCTION = 7
