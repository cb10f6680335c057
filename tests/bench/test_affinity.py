"""Keys on recorded conversations: the figures that the page shows."""

from __future__ import annotations

import math
from pathlib import Path

from bench import affinity

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "affinity.md"


def test_the_page_shows_what_the_core_does() -> None:
    assert affinity.rewrite(PAGE) == PAGE.read_text(), f"python -m bench affinity --docs {PAGE.name}"


def test_the_excerpt_has_conversations_that_go_on() -> None:
    turns = affinity.turns()
    recorded = [turn for turn in turns if turn.at >= 0]
    assert [turn.at for turn in turns] == sorted(turn.at for turn in turns)
    assert (len(recorded), len({turn.conversation for turn in recorded})) == (718, 624)
    assert len(turns) - len(recorded) == 179


def test_every_turn_is_answered_and_the_strict_find_every_conversation() -> None:
    turns = affinity.turns()
    none, strict = (affinity.Model(8, patience).run(turns) for patience in (None, math.inf))
    assert len(none.waits) == len(strict.waits) == 718
    assert none.returns == strict.returns == strict.hits == 273
    assert none.busy > strict.busy
