"""The command `poise`.

Written with click and not typer: Ray depends on click, so that the command adds no dependency.
"""

from __future__ import annotations

import importlib.util
import sys


def main() -> None:
    """Run the command."""
    if importlib.util.find_spec("click") is None:  # a Ray to come may do without it
        sys.exit("the command needs click: pip install 'poise[cli]'")
    from poise.cli.commands import poise

    poise()
