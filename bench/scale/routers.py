"""How a client chooses among several owners whose workers are disjoint."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from bench.samples import quantile

if TYPE_CHECKING:
    from bench.scale.world import Owner, World

POOL: Final = 16
"""Answers to probes that a client of Prequal keeps."""
RATE: Final = 3
"""Owners that it asks for each call."""
HOT: Final = 0.84
"""Which quantile of the calls that owners hold makes one of them hot (2 ** -0.25: the paper's default)."""
USES: Final = 2
"""Calls for which an answer is used at most."""
OLD: Final = 1.0
"""Seconds after which it is not used any more."""
LATEST: Final = 48
"""Calls whose latency an owner remembers, with how many it held when they came."""
ALIKE: Final = 9
"""Its latency is the median of so many: those that found it most nearly as it is."""


class Router:
    """Any owner, by chance; where there is one, that one."""

    def __init__(self, world: World) -> None:
        self.world = world

    def route(self, number: int, client: int) -> None:
        """Give a call to an owner, now or when it is known to which."""
        self.world.give(number, client, self.any_owner())

    def any_owner(self) -> Owner:
        """An owner that was drawn."""
        owners = self.world.owners
        return owners[self.world.chance.randrange(len(owners))]

    def turned(self, owner: Owner) -> None:
        """An owner has done a turn of its loop."""

    def answered(self, owner: Owner, number: int, latency: float) -> None:
        """A call has ended so many seconds after it came."""


class TwoChoices(Router):
    """Ask two owners that were drawn, and take the one that holds fewer calls (Mitzenmacher, 2001)."""

    def route(self, number: int, client: int) -> None:
        """Ask both."""
        world, heard = self.world, list[tuple[int, int]]()
        drawn = world.chance.sample(world.owners, 2)

        def hear(place: int, held: int) -> None:
            heard.append((held, place))
            if len(heard) == len(drawn):
                # Of equals the one that has answered first: that is as good as chance.
                world.give(number, client, drawn[min(heard, key=lambda each: each[0])[1]])

        for place, owner in enumerate(drawn):
            world.ask(owner, partial(hear, place))


class JoinIdleQueue(Router):
    """Owners tell clients that are drawn of their idle workers, once of each (Lu et al., 2011)."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._tokens: list[deque[Owner]] = [deque() for _ in range(world.clients)]
        self._told: dict[Owner, int] = {}
        """Tokens of each owner that no client has used."""
        for owner in world.owners:
            self.turned(owner)

    def route(self, number: int, client: int) -> None:
        """To an owner that has said so, else to any."""
        tokens = self._tokens[client]
        owner = self.any_owner()
        if tokens:
            owner = tokens.popleft()
            self._told[owner] -= 1
        self.world.give(number, client, owner)

    def turned(self, owner: Owner) -> None:
        """Tell of workers that have become idle."""
        told, world = self._told.get(owner, 0), self.world
        idle = owner.workers - owner.held
        for _ in range(told, idle):
            world.later(world.costs.hop, self._tokens[world.chance.randrange(world.clients)].append, owner)
        self._told[owner] = max(told, idle)


@dataclass(slots=True)
class _Probe:
    owner: Owner
    held: int
    latency: float
    since: float
    uses: int = 0


class Prequal(Router):
    """Choose by answers to earlier probes: of the owners that are not hot the quickest (Wydrowski et al., 2024)."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._pools: list[deque[_Probe]] = [deque(maxlen=POOL) for _ in range(world.clients)]
        self._latest: dict[Owner, deque[tuple[int, float]]] = {owner: deque(maxlen=LATEST) for owner in world.owners}
        self._found: dict[int, int] = {}
        """What the owner of each call held when it came."""
        self._worst_next = itertools.cycle((False, True))

    def route(self, number: int, client: int) -> None:
        """Choose by what is known, and ask others for the calls to come."""
        world, pool = self.world, self._pools[client]
        for owner in world.chance.sample(world.owners, min(RATE, len(world.owners))):
            world.ask(owner, partial(self._heard, client, owner))
        while pool and pool[0].since < world.now - OLD:
            pool.popleft()
        if len(pool) < 2:
            self._give(number, client, self.any_owner())
            return
        limit = self._limit(pool)
        best = min(pool, key=lambda probe: _badness(probe, limit))
        best.held += 1
        best.uses += 1
        if best.uses == USES:
            pool.remove(best)
        if len(pool) == POOL:
            pool.remove(max(pool, key=lambda probe: _badness(probe, limit)) if next(self._worst_next) else pool[0])
        self._give(number, client, best.owner)

    def _limit(self, pool: deque[_Probe]) -> float:
        """Calls above which an owner is hot."""
        return quantile([probe.held for probe in pool], HOT)

    def _give(self, number: int, client: int, owner: Owner) -> None:
        self._found[number] = owner.held
        self.world.give(number, client, owner)

    def _heard(self, client: int, owner: Owner, held: int) -> None:
        alike = sorted(self._latest[owner], key=lambda each: abs(each[0] - held))[:ALIKE]
        latency = quantile([seconds for _, seconds in alike], 0.5) if alike else 0.0
        self._pools[client].append(_Probe(owner, held, latency, self.world.now))

    def answered(self, owner: Owner, number: int, latency: float) -> None:
        """Note how long it took."""
        self._latest[owner].append((self._found.pop(number), latency))


class PrequalByHeld(Prequal):
    """The same with every owner hot: of those known the one that holds the fewest calls."""

    def _limit(self, pool: deque[_Probe]) -> float:  # noqa: ARG002 (as the other)
        return -1.0


def _badness(probe: _Probe, limit: float) -> tuple[bool, float]:
    is_hot = probe.held > limit
    return is_hot, probe.held if is_hot else probe.latency
