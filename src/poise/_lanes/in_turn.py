"""Keeps what a stream gives in its order, though Ray brings some of it later than the socket brings the rest."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class InTurn(Generic[T]):
    """The news of one worker's calls that wait for news before them."""

    def __init__(self, pass_on: Callable[[int, T], object]) -> None:
        """Have `pass_on` called with a call's number and its news, in order."""
        self._pass_on = pass_on
        self.waiting: dict[int, deque[list[T]]] = {}
        """By call, places in order: each has its news, or is empty until they come. Invariant: the first is empty."""

    def add(self, call_id: int, news: T) -> None:
        """Pass these news on when their turn has come, most likely now."""
        if (behind := self.waiting.get(call_id)) is not None:
            behind.append([news])
        else:
            self._pass_on(call_id, news)

    def expect(self, call_id: int) -> Callable[[T], None]:
        """Keep a place for news that will come later, and return what is to be called with them."""
        place: list[T] = []
        self.waiting.setdefault(call_id, deque()).append(place)

        def fill(news: T) -> None:
            place.append(news)
            behind = self.waiting[call_id]
            while behind and behind[0]:
                self._pass_on(call_id, *behind.popleft())
            if not behind:
                self.waiting.pop(call_id, None)

        return fill
