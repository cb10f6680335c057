"""What it costs to be seen: `python -m bench observing`, as `python -m bench policies` does it for policies.

Pools that are alike but for who looks at them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry

import poise
from bench.policies import Contender, Listener, compare
from poise import prometheus

if TYPE_CHECKING:
    import poise.events


class Follower(Listener):
    """Hears of every step of a call."""

    def call_granted(self, event: poise.events.CallGranted, /) -> None:
        """Given to a worker."""

    def call_begun(self, event: poise.events.CallBegun, /) -> None:
        """Begun."""


def scraped(pool: poise.Pool[None]) -> None:
    """Give it metrics that nobody reads."""
    prometheus.watch(pool, "bench", registry=CollectorRegistry())


CONTENDERS: Final = {
    "off": Contender({}),
    "off, once more": Contender({}),
    "metrics": Contender({}, then=scraped),
    "an observer of calls' ends": Contender({"observers": [Listener()]}),
    "an observer of every step": Contender({"observers": [Follower()]}),
    "record=": Contender({"record": os.devnull}),
    "traces=True, without a provider": Contender({"traces": True}),
    'logs="forward"': Contender({"logs": "forward"}),
}


def main(arguments: list[str]) -> int:
    """Measure as the arguments say."""
    return compare(CONTENDERS, "observing", __doc__, arguments)
