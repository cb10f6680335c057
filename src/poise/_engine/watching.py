"""Keeping in view what people look at: a pool's model hears of its calls, and once a second it looks at the rest."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary, ref

from poise._watch.model import Model
from poise.errors import PoolClosed
from poise.events import Observer

if TYPE_CHECKING:
    from poise._engine.engine import Engine
    from poise.events import PoolEnded
    from poise.stats import Stats

EVERY: Final = 1.0
"""Seconds between two looks."""


def watched(engine: Engine) -> Model:
    """The model of a pool, which is kept from the first time on that it is asked for. On the pool's loop alone."""
    watch = _WATCHES.get(engine)
    if watch is None:
        watch = _WATCHES[engine] = _Watch(engine)
        engine.observers.add(watch.model)
        engine.observers.add(watch)
        watch.look()
    return watch.model


class _Watch(Observer):
    """Looks at one pool for as long as that is there."""

    def __init__(self, engine: Engine) -> None:
        self._engine = ref(engine)  # a pool that is forgotten is closed, watched or not
        self.model = Model(repr(engine), self)
        self._timer: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """Do it, now and then every second."""
        if self._engine() is not None:
            self.model.tick()
            self._timer = asyncio.get_running_loop().call_later(EVERY, self.look)

    def pool_ended(self, _event: PoolEnded, /) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def time(self) -> float:
        """See `Source`."""
        return 0.0 if (engine := self._engine()) is None else engine.time()

    def phase(self) -> str:
        """See `Source`."""
        return "closed" if (engine := self._engine()) is None else engine.phase

    def stats(self) -> Stats | None:
        """See `Source`."""
        try:
            return None if (engine := self._engine()) is None else engine.stats()
        except PoolClosed:
            return None


_WATCHES: Final[WeakKeyDictionary[Engine, _Watch]] = WeakKeyDictionary()
