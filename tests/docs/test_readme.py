"""What the README shows runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SNIPPETS = re.compile(r"(?<!-->\n)^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""Every Python block but those that a comment excuses."""


def snippets() -> list[str]:
    return SNIPPETS.findall((ROOT / "README.md").read_text())


@pytest.mark.parametrize("number", range(len(snippets())))
def test_each_snippet_of_the_readme_runs_as_pasted(number: int, tmp_path: Path) -> None:
    script = tmp_path / "snippet.py"
    script.write_text(snippets()[number])
    ran = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_readme_names_its_test_command() -> None:
    assert re.search(r"^make test\b", (ROOT / "README.md").read_text(), re.MULTILINE)
