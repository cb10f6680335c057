"""The ideal that P4 compares with: one queue, first come first served, no overhead at all."""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def waits(arrivals: Sequence[float], services: Sequence[float], workers: int) -> list[float]:
    """How long each call waits.

    Args:
        arrivals: when each call comes, in seconds, ascending.
        services: how long each takes, in seconds.
        workers: how many serve the queue.

    Raises:
        ValueError: the arrivals are not in order, or not as many as the service times.
    """
    if any(later < earlier for earlier, later in itertools.pairwise(arrivals)):
        raise ValueError("the arrivals must be in order")
    free_at = [float("-inf")] * workers
    waited: list[float] = []
    for arrival, service in zip(arrivals, services, strict=True):
        begins = max(arrival, free_at[0])
        heapq.heapreplace(free_at, begins + service)
        waited.append(begins - arrival)
    return waited
