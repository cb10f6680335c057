"""The checks of workers on their way: as calls that nobody waits for, but for the first of each worker."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from poise._answers import RETURNED, Answer
from poise._core.calls import CHECK_IDS
from poise._lanes.lane import Lane, Listener, Parcel, StartFailed
from poise._protocol.words import describe
from poise.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from poise.policies import Health

logger = logging.getLogger("poise")


class Checks:
    """Sends checks, and stands before the engine's ear, which hears of no worker before it is well."""

    def __init__(self, policy: Health, listener: Listener) -> None:
        """Pass on to this one what is not of a first check."""
        assert policy.check is not None
        self._check: Callable[..., Any] | str = policy.check
        self._name: str = policy.check_name
        self._first: dict[int, asyncio.Future[Answer | str]] = {}
        """The first check of each worker that starts: its answer, or how the worker was lost meanwhile."""
        self._listener = listener

    def send(self, worker_id: int, lane: Lane) -> None:
        """Have a worker checked."""
        try:
            lane.send([self._parcel(worker_id)])
        except Exception as error:  # as with calls: only the end of the worker settles it
            logger.exception("poise has a fault and gives worker %d up; please report it", worker_id)
            self._listener.on_lost(worker_id, f"it could not be checked: {describe(error)}")

    def is_first(self, worker_id: int) -> bool:
        """Whether the worker is about its first check."""
        return worker_id in self._first

    def forget(self, worker_id: int) -> None:
        """The worker is well, or is gone."""
        del self._first[worker_id]

    @property
    def under_way(self) -> str | None:
        """What is to be said of first checks that have not ended."""
        return f"{self._name}, their first check, has not ended on {len(self._first)}" if self._first else None

    async def first(self, worker_id: int, lane: Lane) -> None:
        """Wait until a worker has passed its first check; until `forget` nothing is heard of it.

        Raises:
            StartFailed: it has not. `__cause__` is what the check raised.
        """
        self._first[worker_id] = answered = asyncio.get_running_loop().create_future()
        lane.send([self._parcel(worker_id)])
        answer = await answered
        if isinstance(answer, str):
            raise StartFailed(f"the worker died while its first check ran: {answer}")
        if answer.ending == RETURNED:
            if answer.value is False:
                raise StartFailed(f"its first check failed: {self._name} returned False")
            return
        error: BaseException = answer.value
        text = f"{error.type_name}: {error.text}" if isinstance(error, RemoteError) else describe(error)
        raise StartFailed(f"its first check failed: {self._name} raised {text}") from error

    def on_answers(self, worker_id: int, answers: Sequence[Answer]) -> None:
        """Attempts have ended, or a first check."""
        if not self._first or worker_id not in self._first:
            self._listener.on_answers(worker_id, answers)
        else:
            self._end_first(worker_id, answers[0])

    def on_begun(self, worker_id: int, call_ids: Sequence[int]) -> None:
        """Calls sent ahead may have begun."""
        self._listener.on_begun(worker_id, call_ids)

    def on_recall_done(self, worker_id: int) -> None:
        """A recall was answered."""
        self._listener.on_recall_done(worker_id)

    def on_items(self, worker_id: int, call_id: int, items: Sequence[Any]) -> None:
        """A stream has produced items."""
        self._listener.on_items(worker_id, call_id, items)

    def on_retire(self, worker_id: int, reason: str) -> None:
        """A worker is to be given nothing more."""
        self._listener.on_retire(worker_id, reason)

    def on_grown(self, worker_id: int, resident: int, *, is_fresh: bool) -> None:
        """A worker has more memory than it is to have."""
        self._listener.on_grown(worker_id, resident, is_fresh=is_fresh)

    def on_lost(self, worker_id: int, reason: str, *, all_in_doubt: bool = False) -> None:
        """The worker is dead, or out of reach."""
        first = self._first.get(worker_id)
        if first is None or _has_passed(first):
            self._listener.on_lost(worker_id, reason, all_in_doubt=all_in_doubt)
        else:
            self._end_first(worker_id, reason)

    def _parcel(self, worker_id: int) -> Parcel:
        return Parcel(CHECK_IDS + worker_id, self._check, (), {})

    def _end_first(self, worker_id: int, outcome: Answer | str) -> None:
        if not self._first[worker_id].done():
            self._first[worker_id].set_result(outcome)


def _has_passed(first: asyncio.Future[Answer | str]) -> bool:
    """Whether a worker is well by its first check, though whoever waits for that has not come to it yet."""
    outcome = first.result() if first.done() and not first.cancelled() else ""
    return not isinstance(outcome, str) and outcome.ending == RETURNED and outcome.value is not False
