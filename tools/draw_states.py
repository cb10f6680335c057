"""Draw the state tables of the core into docs/design.md: `python tools/draw_states.py`.

The tables are the ones that the code runs on, so the page cannot say anything else; a test checks that it is current.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poise._core.states import CALL_TRANSITIONS, WORKER_TRANSITIONS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from enum import IntEnum

PAGE = Path(__file__).parent.parent / "docs" / "design.md"


def diagram(transitions: Mapping[Any, IntEnum], initial: str) -> str:
    """A mermaid state diagram of a transition table."""
    arrows = defaultdict(list)
    for (state, event), target in transitions.items():
        arrows[state.name, target.name].append(event.name.lower().replace("_", " "))
    lines = [f"    {source} --> {target}: {', '.join(events)}" for (source, target), events in arrows.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", f"    [*] --> {initial}", *lines, "```"])


def table(transitions: Mapping[Any, IntEnum]) -> str:
    """The same as a table: a row for each state, a column for each event."""
    states = list(dict.fromkeys([state for state, _ in transitions] + list(transitions.values())))
    events = list(dict.fromkeys(event for _, event in transitions))
    rows = [["", *(event.name.lower().replace("_", " ") for event in events)], ["---"] * (len(events) + 1)]
    for state in states:
        targets = (transitions.get((state, event)) for event in events)
        rows.append([f"**{state.name}**", *(target.name if target is not None else "" for target in targets)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw(page: str) -> str:
    """The page with its drawings made anew."""
    tables: dict[str, tuple[Mapping[Any, IntEnum], str]] = {
        "call": (CALL_TRANSITIONS, "WAITING"),
        "worker": (WORKER_TRANSITIONS, "PENDING"),
    }
    for name, (transitions, initial) in tables.items():
        begin, end = f"<!-- {name} states: drawn by tools/draw_states.py -->\n", f"<!-- end of {name} states -->"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = f"{before}{begin}\n{table(transitions)}\n\n{diagram(transitions, initial)}\n\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(draw(PAGE.read_text()))
