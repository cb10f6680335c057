"""A place of the test's own for the sockets of watched pools."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The directory, which is made by the first that needs it."""
    runtime = tempfile.mkdtemp(prefix="poise-")  # and no path of pytest's, which may be too long for a socket
    directory = os.path.join(runtime, "poise")
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setattr(
        "poise._watch.sockets.own_directories", lambda: [each for each in [directory] if os.path.isdir(each)]
    )
    yield directory
    shutil.rmtree(runtime)
