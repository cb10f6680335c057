"""Where a worker looks for modules."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from poise._protocol.paths import add_paths, own_paths

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_paths_do_not_depend_on_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", ["", "lib", str(tmp_path), None])
    monkeypatch.chdir(tmp_path)
    assert own_paths() == [str(tmp_path), str(tmp_path / "lib"), str(tmp_path)]


def test_a_working_directory_that_is_gone_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    monkeypatch.setattr(sys, "path", ["", "lib", str(tmp_path)])
    assert own_paths() == [str(tmp_path)]
    add_paths([str(tmp_path), str(tmp_path.parent)])
    assert sys.path == ["", "lib", str(tmp_path), str(tmp_path.parent)]
