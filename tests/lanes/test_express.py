"""What goes by the socket, and what Ray brings beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poise._answers import RAISED, RETURNED, Answer
from poise._lanes.caller_link import CallerLink
from poise._lanes.express import Express
from poise._lanes.in_turn import InTurn
from poise._protocol.codec import pack
from poise._protocol.marks import MARKS
from poise._protocol.memory import SIZE
from poise._protocol.messages import COLLECT, COLLECT_ITEM, ITEM, REPLY
from poise.errors import PayloadError
from tests.lanes.ear import Ear

if TYPE_CHECKING:
    from collections.abc import Callable

LOST = Answer(1, RAISED, PayloadError("the result", "Ray has lost it", started=True))


class Owner:
    """A lane on which Ray brings things when the test says so."""

    worker_id = 7

    def __init__(self) -> None:
        self.arrive: dict[tuple[str, int], Callable[[Any], object]] = {}
        self.cancelled: list[int] = []

    def cancel(self, call_id: int) -> None:
        self.cancelled.append(call_id)

    def fetch(self, call_id: int, method: str, number: int, arrived: Callable[[Any], object]) -> None:
        self.arrive[method, number] = arrived

    def on_logs(self, batch: object) -> None: ...

    def on_unlinked(self, error: Exception | None, *, is_read_out: bool) -> None: ...


def test_news_that_come_later_keep_their_place() -> None:
    passed: list[tuple[int, str]] = []
    turn: InTurn[str] = InTurn(lambda call_id, news: passed.append((call_id, news)))
    turn.add(1, "a")
    first, second = turn.expect(1), turn.expect(1)
    turn.add(1, "d")
    turn.add(2, "x")
    second("c")
    assert passed == [(1, "a"), (2, "x")]
    first("b")
    assert passed[2:] == [(1, "b"), (1, "c"), (1, "d")]
    assert not turn.waiting


async def test_a_stream_ends_after_the_items_that_ray_brings() -> None:
    owner, ear = Owner(), Ear()
    express = Express(owner, ear, writable=False)
    express.hear([([[COLLECT_ITEM, 1, 5], [ITEM, 1, pack("b")], [REPLY, 1, RETURNED, None, 0.5]], [])])
    assert not ear.heard
    owner.arrive["collect_item", 5]((pack("a"),))
    assert ear.items == {1: ["a", "b"]}
    assert ear.answers[1].ending == RETURNED
    assert [what for what, _ in ear.heard] == ["items", "items", "answer"]


async def test_a_stream_whose_item_is_lost_fails_though_its_end_was_heard_before() -> None:  # G1
    owner, ear = Owner(), Ear()
    express = Express(owner, ear, writable=False)
    express.hear([([[COLLECT_ITEM, 1, 5], [REPLY, 1, RETURNED, None, 0.5]], [])])
    owner.arrive["collect_item", 5](LOST)
    assert not ear.items
    assert ear.answers[1].ending == RAISED
    assert ear.answers[1].value is LOST.value


async def test_what_a_stream_raises_and_only_ray_can_carry_comes_after_its_items() -> None:
    owner, ear = Owner(), Ear()
    express = Express(owner, ear, writable=False)
    express.hear([([[COLLECT_ITEM, 1, 5], [COLLECT, 1]], [])])
    owner.arrive["collect", 1](LOST)
    assert not ear.answers
    owner.arrive["collect_item", 5]((pack("a"),))
    assert ear.items == {1: ["a"]}
    assert ear.answers[1] is LOST


async def test_a_mark_is_free_again_when_ray_has_brought_the_answer() -> None:
    owner, ear = Owner(), Ear()
    express = Express(owner, ear, writable=False)
    express.use(CallerLink(express), memoryview(bytearray(SIZE)))
    for call_id in range(MARKS + 1):
        assert express.mark(call_id) in range(MARKS)
        express.hear([([[COLLECT, call_id]], [])])
        owner.arrive["collect", call_id]((call_id, RETURNED, pack(call_id), 0.1))
    assert len(ear.answers) == MARKS + 1
