"""What an executor's workers have of their caller, as processes that it forks would, in a Ray that was there before."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import poise

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faces.conftest import Start

pytestmark = pytest.mark.usefixtures("shared_ray")

WITHIN = 60.0


def surroundings() -> tuple[str, str | None, str | None, list[str]]:
    return os.getcwd(), os.environ.get("POISE_TEST_SET"), os.environ.get("RAY_OF_POISE_TEST"), sys.argv


def double(array: Any) -> Any:
    array *= 2
    return array


@pytest.mark.parametrize("factory", [None, dict], ids=["of functions", "of a factory"])
def test_workers_are_where_the_caller_is_by_the_first_call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, factory: Any
) -> None:
    with poise.Executor(factory, max_workers=1) as executor:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("POISE_TEST_SET", "a")
        monkeypatch.setenv("RAY_OF_POISE_TEST", "b")  # what begins so is Ray's own
        monkeypatch.setattr(sys, "argv", ["program", "--verbose"])
        function = surroundings if factory is None else lambda _: surroundings()
        assert executor.submit(function).result(WITHIN) == (str(tmp_path), "a", None, ["program", "--verbose"])


def test_what_a_runtime_env_says_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POISE_TEST_SET", "a")
    chosen = {"runtime_env": {"env_vars": {"POISE_TEST_SET": "chosen"}}}
    with poise.Executor(1, ray_options=chosen) as executor:
        assert executor.submit(surroundings).result(WITHIN)[1] == "chosen"


def test_a_folder_that_is_gone_is_not_entered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with poise.Executor(1) as executor:
        assert executor.submit(pow, 2, 3).result(WITHIN) == 8


def test_large_arrays_may_be_written_to_unless_that_is_given_up() -> None:
    array = np.ones(100_000)
    with poise.Executor(1) as executor:
        doubled = executor.submit(double, array).result(WITHIN)
        doubled += 1
        assert (doubled[0], array[0]) == (3, 1)
    with poise.Executor(1, writable=False) as executor:
        assert isinstance(executor.submit(double, array).exception(WITHIN), ValueError)


PRINTS = """
import io, sys, threading
import poise

class Heard(io.StringIO):
    def __init__(self, lines):
        super().__init__()
        self.lines, self.all = lines, threading.Event()

    def write(self, text):
        count = super().write(text)
        if len(self.getvalue().splitlines()) == self.lines and self.getvalue().endswith("\\n"):
            self.all.set()
        return count

def say(word):
    print(word)
    print(word.upper(), file=sys.stderr)

class Model:
    def __init__(self):
        print("made")

sys.stdout, sys.stderr = out, err = Heard(8), Heard(5)
with poise.Executor(2, initializer=print, initargs=("ready",)) as executor:
    list(executor.map(say, ["same"] * 4 + ["last"]))
    with poise.Executor(Model, max_workers=1) as other:
        other.submit(repr).result()
        assert out.all.wait(60) and err.all.wait(60), (out.getvalue(), err.getvalue())
print(sorted(out.getvalue().split()), sorted(err.getvalue().split()), sep="\\n", file=sys.__stdout__)
"""


def test_what_workers_print_is_printed_as_it_is(join: Start, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PRINTS)
    output, errors = join(str(script)).communicate(timeout=WITHIN)
    assert errors == ""
    assert output.splitlines() == [
        str(sorted(["ready"] * 2 + ["same"] * 4 + ["last", "made"])),
        str(sorted(["SAME"] * 4 + ["LAST"])),
    ]


def test_what_the_workers_of_a_pool_print_has_their_name_before_it(join: Start, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        PRINTS.partition("sys.stdout, sys.stderr")[0]
        + """
import asyncio

async def main():
    sys.stdout = out = Heard(1)
    async with poise.Pool(Model, size=1) as pool:
        assert await asyncio.to_thread(out.all.wait, 60)
    print(out.getvalue(), file=sys.__stdout__)

asyncio.run(main())
"""
    )
    output, errors = join(str(script)).communicate(timeout=WITHIN)
    assert errors == ""
    assert "(Model pid=" in output
    assert output.strip().endswith(" made")
