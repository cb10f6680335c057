"""What the pages show runs as it stands, one page after the other in one Ray.

The Python of a page shares its names, as in a notebook. `<!-- setup ... -->` holds lines that the reader does not see.
A fragment below `<!-- not run: why -->` is only compiled.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import poise

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = re.compile(
    r"^<!-- setup\n(?P<setup>.*?)^-->$|(?P<skipped>^<!-- not run: [^\n]+ -->\n)?^```python\n(?P<shown>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    line: int
    source: str
    is_run: bool


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(text.count("\n", 0, found.start(kind)), found[kind], not found["skipped"])
        for found in BLOCKS.finditer(text)
        for kind in ["setup" if found["setup"] is not None else "shown"]
    ]


PAGES = {str(page.relative_to(DOCS)): blocks(page) for page in sorted(DOCS.rglob("*.md"))}


def compiled(page: str, block: Block) -> Any:
    source = "\n" * block.line + block.source  # so that a traceback gives the line of the page
    return compile(source, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


@pytest.mark.parametrize("page", [page for page, shown in PAGES.items() if shown])
def test_the_python_of_the_page_compiles(page: str) -> None:
    for block in PAGES[page]:
        compiled(page, block)


@pytest.mark.parametrize("page", [page for page, shown in PAGES.items() if any(block.is_run for block in shown)])
async def test_the_python_of_the_page_runs(page: str, shared_ray: None) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}  # so that its classes travel by value
    try:
        for block in PAGES[page]:
            if block.is_run:
                await run(compiled(page, block), names, in_thread="asyncio.run(" in block.source)
    finally:
        for each in list(names.values()):
            if isinstance(each, poise.Pool):
                await each.aclose()


async def run(code: Any, names: dict[str, Any], *, in_thread: bool) -> None:
    if in_thread:  # a program with a loop of its own
        await asyncio.to_thread(eval, code, names)
        return
    result = eval(code, names)
    if inspect.isawaitable(result):
        await result


def test_the_pages_that_teach_are_run() -> None:
    taught = [page for page in PAGES if page.startswith("how-to/") or page in {"tutorial.md", "index.md", "errors.md"}]
    unrun = [page for page in taught if not any(block.is_run for block in PAGES[page])]
    # The one has commands for a shell alone; those of the other are run by tests/faces/test_server_processes.py.
    assert unrun == ["how-to/cluster.md", "how-to/several-server-processes.md"]
