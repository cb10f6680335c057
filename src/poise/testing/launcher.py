"""What starts workers as threads of this process."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from poise._lanes.redefined import KnownClasses
from poise._ray.options import unwrap_factory
from poise.testing.faults import Faults
from poise.testing.lane import LocalLane

if TYPE_CHECKING:
    from collections.abc import Callable

    from poise._lanes.lane import Lane, Listener


@dataclass(slots=True)
class _Place:
    """What all generations of one pool's workers share."""

    room: int | None = None
    hold: asyncio.Event | None = None
    waiting: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class LocalLauncher:
    """Starts workers as threads of this process.

    Attributes:
        lanes: the lanes of the workers that live, by worker id.
        room: how many workers there is room for; further launches wait, and `shortage` says so. None for no limit.
    """

    replaces: bool = True

    def __init__(
        self,
        factory: Callable[[], Any] | None = None,
        *,
        concurrency: int = 1,
        sends_ahead: bool = True,
        writable: bool = False,
        size: int = 2,
        faults: Faults | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            factory: makes the instance, in the worker's thread. It is called as it is, so it may share with the test
                what could not be pickled, such as a `threading.Event`.
            concurrency: how many calls each worker runs at once.
            sends_ahead: whether the lanes take calls beyond their slots.
            writable: whether large arrays arrive writable, as small ones do.
            size: what `default_size` answers.
            faults: what is to go wrong.
        """
        self._take(factory)
        self._concurrency = concurrency
        self._sends_ahead = sends_ahead
        self._writable = writable
        self._size = size
        self._listener: Listener | None = None
        self._faults = Faults() if faults is None else faults
        self.lanes: dict[int, LocalLane] = {}
        self._place = _Place()

    def _take(self, factory: Callable[[], Any] | None) -> None:
        self._factory = factory
        self._known = KnownClasses(factory)
        self._name = getattr(factory, "__name__", "functions" if factory is None else "local")

    def __repr__(self) -> str:
        return self._name

    @property
    def room(self) -> int | None:
        """How many workers there is room for."""
        return self._place.room

    @room.setter
    def room(self, room: int | None) -> None:
        self._place.room = room

    async def open(self, listener: Listener) -> None:
        """Get ready to launch."""
        self._listener = listener

    async def default_size(self) -> int:
        """What `size=None` means here."""
        return self._size

    async def launch(self, worker_id: int) -> Lane:
        """Start one worker and return when its instance is constructed.

        Raises:
            StartFailed: the constructor raised, or `refuse` said so.
        """
        assert self._listener is not None
        if self._place.hold is not None:
            await self._place.hold.wait()
        await self._wait_for_room()
        self._faults.on_start()
        lane = LocalLane(
            worker_id,
            self._listener,
            self._forget,
            self._faults,
            sends_ahead=self._sends_ahead,
            writable=self._writable,
        )
        lane.known = self._known
        self.lanes[worker_id] = lane
        try:
            await lane.start(self._factory, self._concurrency)
        except BaseException:
            await lane.kill()
            raise
        return lane

    async def shortage(self) -> str | None:
        """Say that there is no room, if launches wait for it."""
        return f"slots: each worker needs 1, 0 of {self.room} are free" if self._place.waiting else None

    async def has_room(self) -> bool:
        """Whether there is room for one more."""
        return self.room is None or len(self.lanes) < self.room

    async def again(self, factory: Any) -> LocalLauncher:
        """What starts workers that this factory makes, in the same place."""
        other = copy.copy(self)
        if factory is not None:
            other._take(unwrap_factory(factory)[0])  # noqa: SLF001 (it is one of this class)
        return other

    async def aclose(self, within: float) -> None:  # noqa: ARG002 - nothing here can be late
        """Undo `open`."""
        self._listener = None

    # -----------------------------------------------------------------------------------------------------------------
    # Levers of the test

    def refuse(self, times: int = 1, cause: BaseException | None = None) -> None:
        """Let the next launches fail."""
        self._faults.refuse_start(times, cause=cause)

    def hold(self) -> None:
        """Let launches wait until `let_go`."""
        self._place.hold = asyncio.Event()

    def let_go(self) -> None:
        """Let the launches go on that `hold` keeps."""
        if self._place.hold is not None:
            self._place.hold.set()
            self._place.hold = None

    async def _wait_for_room(self) -> None:
        while self.room is not None and len(self.lanes) >= self.room:
            self._place.waiting += 1
            try:
                await self._place.changed.wait()
            finally:
                self._place.waiting -= 1

    def _forget(self, worker_id: int, lane: LocalLane) -> None:
        if self.lanes.get(worker_id) is lane:
            del self.lanes[worker_id]
        self._place.changed.set()
        self._place.changed = asyncio.Event()
