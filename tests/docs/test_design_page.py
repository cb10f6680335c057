"""The design page shows the modules that there are, and the tables that the code runs on."""

from __future__ import annotations

import re
from pathlib import Path

import poise
from tools.draw_states import PAGE, draw

SOURCES = Path(poise.__file__).parent
LINE = re.compile(r"^(?P<indent>(?:  )+)(?:(?P<folder>\w+/)|(?P<names>\w+\.py(?:, \w+\.py)*))(?= |$)")
"""A line of the tree: a folder, or modules and then what they are for."""


def drawn() -> list[str]:
    """The paths in the page's tree of modules."""
    paths: list[str] = []
    folder = ""
    _, _, tree = PAGE.read_text().partition("```\nsrc/poise/\n")
    for line in tree.partition("```")[0].splitlines():
        found = LINE.match(line)
        assert found is not None, f"neither a folder nor a module: {line}"
        if found["folder"]:
            folder = found["folder"]
        else:
            if len(found["indent"]) == 2:
                folder = ""
            paths += [folder + name for name in found["names"].split(", ")]
    return paths


def test_the_tree_of_the_design_page_names_each_module_once() -> None:
    there_are = [str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.py")]
    assert sorted(module for module in drawn() if not module.endswith("__init__.py")) == sorted(
        module for module in there_are if not module.endswith("__init__.py")
    )


def test_the_state_tables_of_the_design_page_are_current() -> None:
    page = PAGE.read_text()
    assert draw(page) == page, "run: python tools/draw_states.py"
