"""What an observer hears of the calls of a pool, held against what has become of them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from poise.errors import Overloaded
from poise.events import CallAdmitted, CallBegun, CallEnded, CallGranted, CallPutBack, CallRefused, CallReleased

if TYPE_CHECKING:
    from poise._core.calls import CallRecord
    from poise._core.counters import Counters
    from poise.events import Event

FOLLOWS: dict[type[Any] | None, set[type[Any]]] = {
    None: {CallAdmitted},
    CallAdmitted: {CallGranted, CallEnded},
    CallGranted: {CallBegun, CallPutBack, CallEnded},
    CallBegun: {CallPutBack, CallEnded},
    CallPutBack: {CallGranted, CallEnded},
    CallEnded: {CallReleased},
    CallReleased: set(),
}
"""What may be told of a call after what."""


class Witness:
    """Hears everything, and checks that each call has one story, and that its times are those of the story."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.latest: dict[int, Any] = {}
        """What was told of each call last."""
        self.ended: dict[int, CallEnded] = {}
        self.counts: Counter[str] = Counter()

    def tell(self, event: Event) -> None:
        self.events.append(event)

    def take_back(self, event: Event) -> None:
        assert self.events.pop() is event

    def look(self, calls: dict[int, CallRecord]) -> None:
        """A step is over: read what was told in it."""
        for event in self.events:
            self._read(event, calls)
        self.events.clear()

    def _read(self, event: Any, calls: dict[int, CallRecord]) -> None:
        if isinstance(event, CallRefused):
            self.counts["rejected"] += issubclass(event.error, Overloaded)
            return
        before: Any = self.latest.get(event.call)
        assert type(event) in FOLLOWS[None if before is None else type(before)], (before, event)
        assert before is None or before.at <= event.at
        self.latest[event.call] = event
        match event:
            case CallAdmitted():
                self.counts["submitted"] += 1
            case CallBegun():
                assert (event.worker, event.attempt) == (before.worker, before.attempt)
            case CallPutBack():
                assert (event.worker, event.attempt) == (before.worker, before.attempt)
                self.counts["retried"] += event.is_retry
            case CallReleased():
                assert before.is_abandoned
                assert event.worker == before.worker
                assert event.running >= 0
            case CallEnded():
                self._check_end(event, calls[event.call])
            case _:
                pass

    def _check_end(self, event: CallEnded, call: CallRecord) -> None:
        self.ended[event.call] = event
        self.counts[event.outcome] += 1
        parts = event.waiting, event.travelling, event.running
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(event.at - call.submitted_at, abs=1e-9)
        assert (event.error is None) == (event.outcome in ("returned", "cancelled")) or call.is_lease
        assert event.worker is not None or not event.attempt

    def check(self, counters: Counters) -> None:
        """The pool is closed, and no worker holds anything: every story has an end, and they are as was counted."""
        assert not self.events
        for call_id, event in self.latest.items():
            assert call_id in self.ended
            assert isinstance(event, CallReleased) == self.ended[call_id].is_abandoned
        assert self.counts["returned"] + self.counts["raised"] == counters.completed
        assert self.counts["raised"] == counters.failed
        for name in ("submitted", "rejected", "cancelled", "expired", "lost", "retried"):
            assert self.counts[name] == getattr(counters, name), name
