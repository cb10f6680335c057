"""How the site is built: `make docs` writes it to `site/`.

Sphinx with MyST and Furo: of the generators that read Markdown and docstrings Sphinx is kept best (MkDocs has had no
release since 2024), and Furo fetches no font or script from elsewhere.
"""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from pygments.lexers.special import TextLexer
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.pycode import ModuleAnalyzer

project = "poise"
author = "the authors of poise"
version = release = version_of("poise")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["bench"]

# Markdown
myst_heading_anchors = 3

# Docstrings are in Google's style, with `code` between single backticks.
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "poise"
html_copy_source = False
html_show_copyright = False
highlight_language = "text"

_OUTSIDE = re.compile(r"\[([^\]\n]+)\]\(((?:\.\./)+[^)\s]+)\)")


def _mend_links(app: Any, docname: str, source: list[str]) -> None:
    """Leave the mere text of links to folders of the repository, which the site has not."""

    def mended(link: re.Match[str]) -> str:
        target = Path(app.srcdir, docname).parent / link[2].partition("#")[0]
        return link[1] if target.is_dir() else link[0]

    source[0] = _OUTSIDE.sub(mended, source[0])


def _mend_docstring(*details: Any) -> None:
    """Turn fenced blocks, which docstrings may have as in Markdown, into literal blocks."""
    lines: list[str] = details[-1]
    text = "\n".join(lines)
    if "```" in text:
        blocks = re.sub(r"```\w*\n(.*?)\n```", _literal, inspect.cleandoc(text), flags=re.DOTALL)
        lines[:] = blocks.split("\n")


def _literal(block: re.Match[str]) -> str:
    return "::\n\n" + "\n".join(f"    {line}" for line in block[1].split("\n")) + "\n"


def _analyze(self: ModuleAnalyzer) -> None:
    """Show a method once, as it is implemented, instead of once for each of its typed overloads."""
    _analyze_all(self)
    self.overloads = {}


_analyze_all, ModuleAnalyzer.analyze = ModuleAnalyzer.analyze, _analyze


def _parse_attribute(self: GoogleDocstring) -> list[str]:
    """Read the docstring of an attribute as any other: a colon in it ends no type, since types are annotated."""
    self._what = ""
    self._parse()
    return []


GoogleDocstring._parse_attribute_docstring = _parse_attribute  # noqa: SLF001 - napoleon has no option for it


def setup(app: Any) -> None:
    """Connect the above."""
    app.connect("source-read", _mend_links)
    app.connect("autodoc-process-docstring", _mend_docstring)
    app.add_lexer("mermaid", TextLexer)  # shown as text: drawing needs a script from elsewhere
