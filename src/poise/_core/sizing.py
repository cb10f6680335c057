"""How many workers are wanted: a number, or bounds between which a policy decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poise._core.elastic import Elasticity
from poise.policies import Elastic

if TYPE_CHECKING:
    from poise._core.alarms import Alarms
    from poise._core.effects import Outbox
    from poise._core.fleet import Fleet
    from poise._core.pace import Pace
    from poise._core.placement import Placement
    from poise._core.queues import Queues
    from poise._core.renewals import Renewals


class Sizing:
    """Has the pool be of another size."""

    __slots__ = ("_alarms", "_fleet", "_parts", "_placement", "_policy", "_renewals", "bounds")

    def __init__(
        self,
        fleet: Fleet,
        queues: Queues,
        pace: Pace,
        placement: Placement,
        alarms: Alarms,
        renewals: Renewals,
        outbox: Outbox,
    ) -> None:
        self.bounds: tuple[int, int] | None = None
        """The fewest and the most workers, where a policy decides. Invariant: as many are wanted, once it is open."""
        self._policy: Elasticity | None = None
        """It stays when it is not asked any more, because it knows how long a start takes."""
        self._fleet = fleet
        self._alarms = alarms
        self._placement = placement
        self._renewals = renewals
        self._parts = fleet, queues, pace, placement, renewals, outbox

    @property
    def most(self) -> int:
        """The most workers that there may be."""
        return self._fleet.size if self.bounds is None else self.bounds[1]

    def change(self, wanted: int | Elastic, now: float) -> Elasticity | None:
        """Want another number of workers; those over it finish what they hold, the least busy ones first.

        Returns:
            Who decides from now on, None if nobody does: the number is what it is.
        """
        policy = None
        if self.bounds is not None:
            assert self._policy is not None
            self._alarms.remove(self._policy)
            self._placement.arrange(packs=False)
            self.bounds = None
        if isinstance(wanted, Elastic):
            policy = self._policy = self._policy or Elasticity(*self._parts)
            self._alarms.add(policy)
            self.bounds = wanted.min, wanted.max
            self._resize(min(max(self._fleet.size, wanted.min), wanted.max), now)
            policy.begin(wanted, now)
        else:
            self._resize(wanted, now)
        return policy

    def _resize(self, size: int, now: float) -> None:
        self._fleet.size = size
        for _ in range(size - len(self._fleet.members())):
            self._fleet.add(now)
        for worker in self._fleet.surplus():
            self._renewals.dismiss(worker, now)
        self._renewals.changed(now)

    def check_invariants(self) -> None:
        """Check what is stated at the fields; for tests."""
        if self.bounds is not None:
            assert self._policy is not None
            assert self._fleet.size == 0 or self.bounds[0] <= self._fleet.size <= self.bounds[1], self._fleet.size
            self._policy.check_invariants()
