"""What a notebook shows."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import nbclient
import nbformat

from poise import _html
from poise.testing import LocalPool

if TYPE_CHECKING:
    import pytest

new: Any = nbformat.v4
NOTEBOOK = """
import logging
import poise

class Heard(logging.Handler):
    def emit(self, record):
        heard.append(record.getMessage())

heard = []
logging.getLogger("notebook").addHandler(Heard())

class Model:
    def predict(self, x):
        logging.getLogger("notebook").warning("predicting %d", x)
        return x * 2

pool = await poise.Pool(Model, size=1, logs="forward").open()
pool
---
results = [y async for y in pool.map(Model.predict, range(10), progress=True)]
---
assert results == [x * 2 for x in range(10)]
pool.stats()
---
await pool.aclose()
assert heard == [f"predicting {x}" for x in range(10)], heard
pool
"""


class Checked(HTMLParser):
    """Well-formed, self-contained HTML, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"div", "table", "thead", "tbody", "tr", "th", "td"}
        assert {name for name, _ in attrs} <= {"style"}
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def shown(output: Any) -> str:
    """The HTML of what a cell has shown."""
    html: str = output["data"]["text/html"]
    return html


def test_a_real_notebook_shows_the_pool_a_bar_and_the_numbers() -> None:
    notebook = new.new_notebook(cells=[new.new_code_cell(cell.strip()) for cell in NOTEBOOK.split("---")])
    nbclient.NotebookClient(notebook, timeout=100, kernel_name="python3").execute()
    opened, mapped, numbers, closed = (cell.outputs for cell in notebook.cells)
    assert "<Pool of Model, open: 1/1 workers ready" in Checked(shown(opened[-1])).text
    (bar,) = (output for output in mapped if output.output_type == "display_data")
    assert "10/10" in shown(bar)
    assert "Model.predict" in shown(bar)
    assert "10 completed (0 failed)" in Checked(shown(numbers[-1])).text
    assert "closed" in Checked(shown(closed[-1])).text
    assert "for Jupyter support" not in json.dumps(notebook), "rich asks for nothing that is not there"


async def test_a_pool_is_shown_whatever_state_it_is_in() -> None:
    pool = LocalPool(size=2)
    assert "not open" in Checked(html_of(pool)).text
    async with pool:
        await pool.run(len, "four")
        await pool.until_ready()
        text = Checked(html_of(pool)).text
        assert "2 of 2 workers are ready" in text
        assert "local" in text
    assert "closed" in Checked(html_of(pool)).text


async def test_a_pool_whose_loop_is_blocked_is_shown_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poise.pool._REPR_WAITS", 0.01)
    async with LocalPool(size=1) as pool:
        with ThreadPoolExecutor() as threads:
            html = threads.submit(html_of, pool).result()  # this is the loop's thread, and waits
        assert "its loop is blocked" in Checked(html).text


def test_names_are_escaped_and_long_tables_are_cut() -> None:
    html = _html.block(_html.line("<script>&"), _html.table(["<b>"], [["<i>"]] * 70))
    checked = Checked(html)
    assert "<script>&" in checked.text
    assert checked.text.count("<i>") == _html.MOST_ROWS
    assert "and 20 more" in checked.text


def html_of(shown: Any) -> str:
    html: str = shown._repr_html_()
    return html
