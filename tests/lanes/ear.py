"""A listener for lanes under test, and the means to call through one."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

from poise._answers import RAISED, RETURNED, Answer
from poise._lanes.lane import Lane, Parcel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PATIENCE = 30.0
"""Seconds to wait for what must come."""

_call_ids = itertools.count(1)


class Ear:
    """Remembers all it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.answers: dict[int, Answer] = {}
        self.items: dict[int, list[Any]] = {}
        self.begun: list[int] = []
        self.lost: list[str] = []
        self._news = asyncio.Event()

    def on_answers(self, worker_id: int, answers: Sequence[Answer]) -> None:
        for answer in answers:
            assert answer.call_id not in self.answers, "answered twice"
            self.answers[answer.call_id] = answer
            self._note("answer", answer.call_id)

    def on_begun(self, worker_id: int, call_ids: Sequence[int]) -> None:
        self.begun.extend(call_ids)
        self._note("begun", list(call_ids))

    def on_recall_done(self, worker_id: int) -> None:
        self._note("recalled", worker_id)

    def on_items(self, worker_id: int, call_id: int, items: Sequence[Any]) -> None:
        self.items.setdefault(call_id, []).extend(items)
        self._note("items", call_id)

    def on_retire(self, worker_id: int, reason: str) -> None:
        self._note("retire", reason)

    def on_grown(self, worker_id: int, resident: int, *, is_fresh: bool) -> None:
        self._note("grown", (resident, is_fresh))

    def on_lost(self, worker_id: int, reason: str, *, all_in_doubt: bool = False) -> None:
        self.lost.append(reason)
        self._note("lost", reason)

    def _note(self, what: str, about: Any) -> None:
        self.heard.append((what, about))
        self._news.set()

    async def until(self, predicate: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not predicate():
                self._news.clear()
                await self._news.wait()

    async def answer(self, call_id: int) -> Answer:
        await self.until(lambda: call_id in self.answers)
        return self.answers[call_id]


class Line:
    """One lane and what is heard of it."""

    def __init__(self, lane: Lane, ear: Ear) -> None:
        self.lane = lane
        self.ear = ear

    def send(self, function: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> int:
        call_id = next(_call_ids)
        self.lane.send([Parcel(call_id, function, args, kwargs)])
        return call_id

    def stream(self, function: Callable[..., Any] | str, *args: Any, credit: int) -> int:
        call_id = next(_call_ids)
        self.lane.send([Parcel(call_id, function, args, {}, credit=credit)])
        return call_id

    async def run(self, function: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Any:
        answer = await self.ear.answer(self.send(function, *args, **kwargs))
        assert answer.ending == RETURNED, answer
        return answer.value

    async def error(self, function: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Any:
        answer = await self.ear.answer(self.send(function, *args, **kwargs))
        assert answer.ending == RAISED, answer
        return answer.value
