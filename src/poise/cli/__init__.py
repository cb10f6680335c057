"""The command `poise`.

Written with click and not typer: Ray depends on click, so that the command adds no dependency.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command."""
    try:
        import click  # noqa: F401 - to say what is missing where a Ray to come does without it
    except ImportError:
        sys.exit("the command needs click: pip install 'poise[cli]'")
    from poise.cli.commands import poise

    poise()
