"""Keeping in view what people look at: a pool's model hears of its calls, and once a second it looks at the rest."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary, ref

from poise._engine.desk import Desk
from poise._watch.model import Model
from poise._watch.server import Server
from poise._watch.sockets import new_path
from poise.errors import LoopBlocked, PoiseError, PoolClosed, WorkerLost
from poise.events import Observer

if TYPE_CHECKING:
    from poise._engine.engine import Engine
    from poise.events import PoolEnded
    from poise.stats import Stats

_log = logging.getLogger("poise")

VARIABLE: Final = "POISE_WATCH"
"""With 1 in it every pool of a program is shown."""
EVERY: Final = 1.0
"""Seconds between two looks."""
WAITS: Final = 0.2
"""Seconds for which a look waits for the owner of a shared pool, while the loop waits too."""


def watched(engine: Engine) -> Model:
    """The model of a pool, which is kept from the first time on that it is asked for. On the pool's loop alone."""
    return _watch(engine).model


def show(engine: Engine, *, is_wanted: bool) -> None:
    """Let this user's `poise top` look at a pool, if that is asked for here or by the variable; or log why it cannot.

    The pool lives on either way.
    """
    if is_wanted or os.environ.get(VARIABLE) == "1":
        _watch(engine).listen(engine)


def _watch(engine: Engine) -> _Watch:
    watch = _WATCHES.get(engine)
    if watch is None:
        watch = _WATCHES[engine] = _Watch(engine)
        engine.observers.add(watch.model)
        engine.observers.add(watch)
        watch.look()
    return watch


class _Watch(Observer):
    """Looks at one pool for as long as that is there."""

    def __init__(self, engine: Engine) -> None:
        self._engine = ref(engine, self._forgotten)  # a pool that is forgotten is closed, watched or not
        self.model = Model(repr(engine), self)
        self._timer: asyncio.TimerHandle | None = None
        self._server: Server | None = None

    def look(self) -> None:
        """Do it, now and then every second."""
        if self._engine() is not None:
            self._timer = asyncio.get_running_loop().call_later(EVERY, self.look)
            self.model.tick()

    def listen(self, engine: Engine) -> None:
        """Let others look too."""
        try:
            self._server = Server(new_path(), Desk(engine, self.model).answer)
        except (OSError, PoiseError, AttributeError) as error:  # Windows has no such sockets
            _log.warning("pool of %r: `poise top` cannot look at it: %s", engine, error)

    def pool_ended(self, _event: PoolEnded, /) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._forgotten()

    def _forgotten(self, _: object = None) -> None:  # runs on any thread, where the collector comes by
        if self._server is not None:
            self._server.close()

    def time(self) -> float:
        """See `Source`."""
        return 0.0 if (engine := self._engine()) is None else engine.time()

    def phase(self) -> str:
        """See `Source`."""
        return "closed" if (engine := self._engine()) is None else engine.phase

    def stats(self) -> Stats | None:
        """See `Source`."""
        try:
            return None if (engine := self._engine()) is None else engine.stats(WAITS)
        except (PoolClosed, WorkerLost, LoopBlocked):  # the last two of the owner of a shared pool
            return None


_WATCHES: Final[WeakKeyDictionary[Engine, _Watch]] = WeakKeyDictionary()
