"""Pools for unit tests: workers in this process, failures on demand, and a clock that stands still.

`LocalPool` is a `Pool` whose workers are threads with the same inbox and runner as a real worker's. It starts in a
millisecond and needs no Ray. `Faults` scripts what goes wrong, `ManualClock` decides what time it is, and `local_pools`
makes every `poise.Pool` of the code under test such a pool. The fixtures of `poise.pytest_plugin` wrap them.
"""

from poise.testing.clock import ManualClock
from poise.testing.faults import Faults
from poise.testing.pool import LocalPool, local_pools

__all__ = ["Faults", "LocalPool", "ManualClock", "local_pools"]
