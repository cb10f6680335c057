"""What the engine asks of any wire: start workers, hand them calls, hear their answers.

A `Launcher` starts workers; each started worker is reached through its `Lane`; everything that a worker says comes
back through the `Listener` that the engine gave to the launcher. All of it happens on the engine's loop: a lane that
hears something on another thread brings it over with `loop.call_soon_threadsafe` first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from poise._core.pace import AHEAD_CALLS as AHEAD_CALLS
from poise._core.pace import UNFENCED_CALLS as UNFENCED_CALLS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from poise._answers import Answer
    from poise._protocol.messages import Headers


BY_ITSELF: Final = "it asks for it"
"""Why a worker retires that nobody told to."""


@dataclass(slots=True, eq=False)
class Parcel:
    """One attempt of one call, as the caller gave it; the lane packs it."""

    call_id: int
    function: Callable[..., Any] | str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    is_ahead: bool = False
    """Whether it was sent beyond the worker's slots, so that the worker must announce it before it begins."""
    credit: int | None = None
    """For a stream, how many items the worker may send before it is given more; None for a call with one result."""
    headers: Headers | None = None
    """What else the worker is told."""


class Listener(Protocol):
    """The engine's ear. Every method is called on the engine's loop, and unknown ids are ignored by it."""

    def on_answers(self, worker_id: int, answers: Sequence[Answer]) -> None:
        """Attempts have ended. Recalled and cancelled calls that had not begun come with `NOT_BEGUN`."""

    def on_begun(self, worker_id: int, call_ids: Sequence[int]) -> None:
        """Calls that were sent ahead may have begun: from now on the worker's death leaves them in doubt."""

    def on_recall_done(self, worker_id: int) -> None:
        """The worker has answered a recall; what was still in its inbox came as `NOT_BEGUN` before this."""

    def on_items(self, worker_id: int, call_id: int, items: Sequence[Any]) -> None:
        """A stream has produced these items, in order."""

    def on_retire(self, worker_id: int, reason: str) -> None:
        """The worker is to be given nothing more, and closed when it is done: it was told so, or asks for it."""

    def on_grown(self, worker_id: int, resident: int, *, is_fresh: bool) -> None:
        """The worker has so many bytes of memory, more than it was told to have; if it is fresh it has run nothing."""

    def on_lost(self, worker_id: int, reason: str, *, all_in_doubt: bool = False) -> None:
        """The worker is dead, or out of reach; may be told more than once.

        `all_in_doubt` says that it may have begun calls without our having heard of it.
        """


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a worker runs."""

    pid: int | None = None
    node: str | None = None
    lane: str = ""
    """The lane's name: "freight", "express" or "local"."""
    is_far: bool = False
    """Whether it is known to be on another node than the caller."""


class Lane(Protocol):
    """The way to one started worker. No method blocks; none raises for what happens to the worker."""

    origin: Origin
    most_ahead: int
    """How many calls beyond its slots the worker may be sent: none if it keeps no inbox and answers no recalls."""

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Give the worker these calls, in order. A call that cannot be packed is answered at once with the error."""

    def recall(self, call_ids: Sequence[int]) -> None:
        """Ask for these calls back; those that have not begun are answered `NOT_BEGUN`, then `on_recall_done`."""

    def withdraw(self, call_ids: Sequence[int]) -> None:
        """The worker does not answer a recall: take from it those of these calls that were sent ahead and cannot begin.

        Whether they have begun is known without the worker's help, or they are left alone. Those that have not are
        answered `NOT_BEGUN` before this returns, and `on_recall_done` comes when the worker has let them go.
        """

    def cancel(self, call_id: int) -> None:
        """The caller is gone: drop the call if it has not begun; stop it if it is a coroutine or a stream."""

    def credit(self, call_id: int, items: int) -> None:
        """Let the stream send this many more items."""

    async def stacks(self) -> str:
        """What the threads and tasks of the worker are doing. It may never answer.

        Raises:
            PoiseError: the worker is gone, or no such question can be put to it.
        """
        ...

    async def close(self, timeout: float) -> None:
        """Let an idle worker close what it holds, for so many seconds at most, then end it as `kill` does."""

    async def kill(self) -> None:
        """End the worker at once and return when it is gone. Safe to call again, and after the worker's death."""


async def undo_start(lane: Lane, close_timeout: float) -> None:
    """End a worker whose start goes no further: let it close what it has made, then kill it, whatever came of that."""
    try:
        await lane.close(close_timeout)
    finally:
        await lane.kill()  # waits for that same end, if the start is given up meanwhile


class StartFailed(Exception):
    """The worker could not be started; `__cause__` is the constructor's exception if that is what failed."""


class Launcher(Protocol):
    """Starts workers of one kind."""

    replaces: bool
    """Whether it can start another worker in place of a dead one."""

    async def open(self, listener: Listener) -> None:
        """Get ready to launch, for example by starting Ray."""

    async def default_size(self) -> int:
        """How many workers there is room for: what `size=None` means."""
        ...

    async def launch(self, worker_id: int) -> Lane:
        """Start one worker and return when its instance is constructed.

        Raises:
            StartFailed: the worker could not be started. Nothing of it is left.

        Cancelling ends the half-started worker and leaves nothing.
        """
        ...

    async def shortage(self) -> str | None:
        """Say which resource the launches under way wait for a place with, or None if none waits for one."""

    async def has_room(self) -> bool:
        """Whether one more worker could be placed now; True if that is not known."""
        ...

    async def again(self, factory: Any) -> Launcher:
        """What starts workers that this factory makes, or the same one as it is now if None, with all else as here.

        It needs no opening, and is closed with this one.

        Raises:
            ConfigError, PayloadError: they cannot be made so.
        """
        ...

    async def aclose(self, within: float) -> None:
        """Undo `open`, in so many seconds at most. Every lane has been killed before. Safe to call again."""
