"""What a lane knows of the calls that its worker was sent ahead, and of those taken back without its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poise._protocol.marks import MARKS, UNMARKED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from poise._answers import Answer
    from poise._protocol.marks import Marks


class SentAhead:
    """The caller's book of one worker's marks, withdrawn calls and open recalls."""

    def __init__(self, marks: Marks | None = None) -> None:
        """Know of nothing yet.

        Args:
            marks: shared with the worker; None if they have no memory in common, so that nothing can be withdrawn.
        """
        self._marks = marks
        # Invariant: each mark is in exactly one of these three.
        self._free = [] if marks is None else list(range(MARKS))
        self._held: dict[int, int] = {}
        """The marks of calls that were sent and not answered."""
        self._withdrawn: dict[int, int] = {}
        """The marks of calls that are another's by now, until the worker has said that it lets them be."""
        self._recalls = 0
        """Recalls that the worker has not answered."""
        self._is_asked = False
        """Whether the engine waits to hear that the worker has answered."""

    def mark(self, call_id: int) -> int:
        """Give a call that is to be sent ahead its mark."""
        if not self._free or self._marks is None:
            return UNMARKED
        mark = self._held[call_id] = self._free.pop()
        self._marks.clear(mark)
        return mark

    def heard(self, answers: list[Answer]) -> list[Answer]:
        """Take note of answers, and leave out those for calls that were withdrawn."""
        if not self._held and not self._withdrawn:
            return answers
        news: list[Answer] = []
        for answer in answers:
            mark = self._held.pop(answer.call_id, None)
            if mark is None and (mark := self._withdrawn.pop(answer.call_id, None)) is not None:
                self._free.append(mark)
                continue
            if mark is not None:
                self._free.append(mark)
            news.append(answer)
        return news

    def withdraw(self, call_ids: Iterable[int]) -> list[int]:
        """Take back those of the calls that have not begun, and say which they were: they will not begin there."""
        if self._marks is None:
            return []
        held = [call_id for call_id in call_ids if call_id in self._held]
        unbegun = self._marks.withdraw([self._held[call_id] for call_id in held])
        taken = [call_id for call_id, is_unbegun in zip(held, unbegun, strict=True) if is_unbegun]
        for call_id in taken:
            self._withdrawn[call_id] = self._held.pop(call_id)
        return taken

    def forbid(self, call_id: int) -> None:
        """Nobody waits for this call any more: let it not begin, however late the worker reads so."""
        mark = self._held.get(call_id)
        if mark is not None and self._marks is not None:
            self._marks.withdraw([mark])

    def recalled(self) -> None:
        """Take note that calls are asked back."""
        self._recalls += 1
        self._is_asked = True

    def recall_answered(self) -> None:
        """The worker has answered a recall."""
        self._recalls -= 1

    def has_let_go(self) -> bool:
        """Whether every recall was answered and nothing withdrawn is still in the worker's inbox; said once.

        Only then may such a call be sent there again: the worker knows calls by their numbers.
        """
        if not self._is_asked or self._recalls or self._withdrawn:
            return False
        self._is_asked = False
        return True
