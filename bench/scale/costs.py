"""What calls cost the processes that they pass through, as the simulation takes it.

Measured on two virtual cores of an AMD EPYC that other programs used too, by the processor time of each process
(psutil), with a shared pool of two workers that echo and its clients in processes of their own: 54,500 to 78,000 calls
of a throng, and 15,800 one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BY_BYTES: Final = {1: 22.8e-6, 1_000: 28.2e-6, 10_000: 39.0e-6, 100_000: 185e-6, 1_000_000: 768e-6}
"""Seconds of the owner's processor for a call whose argument and result have so many bytes each, in a throng."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds each."""

    turn: float
    """Of the owner, for each turn of its loop: it is woken, and asks which sockets have something."""
    take: float
    """Of the owner, for each call that it takes from a client and gives to a worker."""
    hear: float
    """Of the owner, for each answer that it takes from a worker and gives to a client."""
    worker: float
    """Of the worker, beside the call itself."""
    probe: float
    """Of the owner, for each question that it answers, and for each call that another owner asks for."""
    hop: float
    """From one process to the next, beside what it costs them."""

    def of_bytes(self, size: int) -> Costs:
        """The same for calls whose argument and result have so many bytes each."""
        half = BY_BYTES[size] / 2
        return Costs(self.turn, half, half, self.worker, self.probe, self.hop)


FREE: Final = Costs(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
"""For comparing the simulation with theory."""
MEASURED: Final = Costs(turn=24e-6, take=11.4e-6, hear=11.4e-6, worker=4.7e-6, probe=4.7e-6, hop=30e-6)
"""A call costs the owner 22.8 us in a throng, half of it each way (the split is assumed), and 71 us if it is alone, in
which it is woken twice. A message that is read and answered costs what an echo costs the worker. A hop is half of what
one byte takes there and back between two processes (docs/benchmarks.md, "bare ping-pong")."""
NETWORK: Final = Costs(turn=24e-6, take=11.4e-6, hear=11.4e-6, worker=4.7e-6, probe=4.7e-6, hop=250e-6)
"""The same between nodes that are a quarter of a millisecond apart; that is assumed and not measured."""
READ: Final = 2400
"""Calls that an owner reads from one client in a turn at most: about 256 KB of the smallest ones, its window."""
