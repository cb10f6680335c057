"""Programs whose functions are in `__main__`: a worker has one `__main__` for all of them, on every lane."""

from __future__ import annotations

import gc
import textwrap
from typing import TYPE_CHECKING

import pytest

from poise._protocol.main_names import Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faces.conftest import Start

WITHIN = 90.0
"""Seconds that a program may take; starting Ray is most of it."""

NAMES = """
import asyncio, dataclasses, enum, functools, pickle, sys
import poise
from poise.testing import LocalPool

lane = sys.argv[1]

def pool(factory=None):
    return LocalPool(factory, size=1) if lane == "local" else poise.Pool(factory, size=1, lane=lane)

N = 0
cache = {}

class Settings:
    level = 0

@dataclasses.dataclass
class Point:
    x: int

    def scaled(self):
        return Point(self.x * (Settings.level or 1))

class Color(enum.Enum):
    RED = 1

class Model:
    def __init__(self):
        global N
        N += 10

    def bump(self):
        return bump()

    @staticmethod
    def read():
        return N

def bump():
    global N
    N += 1
    return N

def read():
    return N

def put(key, value):
    cache[key] = value

def get(key):
    return cache[key]

def set_level(level):
    Settings.level = level

def make_adder():
    def add(n):
        return N + n
    return add

@functools.lru_cache(maxsize=None)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

def create():
    global created
    created = "made here"

def created_one():
    return created

def remember_in_globals(name, value):
    globals()[name] = value

def remembered():
    return kept

def copied(point):
    return pickle.loads(pickle.dumps(point)).x

def script_here():
    return __file__, __name__

async def later():
    return bump()

async def main():
    async with pool() as workers:
        run = workers.run
        check("globals", [await run(bump), await run(bump), await run(read), await run(lambda: N)], [1, 2, 2, 2])
        check("a coroutine", [await run(later), await run(read)], [3, 3])
        check("a nested function", await run(make_adder(), 1), 4)
        await run(put, "a", 1)
        check("an object", [await run(get, "a"), await run(lambda: cache["a"])], [1, 1])
        check("a part of a function", await run(functools.partial(get, "a")), 1)
        await run(create)
        check("a new name", await run(created_one), "made here")
        await run(remember_in_globals, "kept", 7)
        check("a name without a statement", await run(remembered), 7)
        await run(set_level, 5)
        check("a class attribute", [await run(lambda: Settings.level), (await run(Point.scaled, Point(2))).x], [5, 10])
        check("a cached function", await run(fib, 40), 102334155)
        check("a class of its own", [await run(copied, Point(3)), type(await run(Point, 1)) is Point], [3, True])
        check("an enum", await run(lambda c: c is Color.RED, Color.RED), True)
        check("an enum that comes back", await run(lambda: Color.RED) is Color.RED, True)
        check("the script", await run(script_here), (__file__, "__main__"))
        back = await run(lambda: read)
        check("a function that comes back", [back(), back.__globals__ is globals()], [N, True])
    check("the caller's own", [N, cache, Settings.level, "created" in globals()], expected_here)
    async with pool(Model) as workers:
        first = await workers.run(Model.bump)
        check("methods", [await workers.run(Model.read) - first, await workers.run(lambda m: N) - first], [0, 0])

def check(what, got, wanted):
    print("right" if got == wanted else f"{what}: {got} instead of {wanted}", flush=True)

# A local pool lives in the caller's own process.
expected_here = [3, {"a": 1}, 5, True] if lane == "local" else [0, {}, 0, False]
asyncio.run(main())
"""


def lines_of(start: Start, tmp_path: Path, text: str, *arguments: str) -> list[str]:
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(text))
    program = start(str(script), *arguments)
    output, errors = program.communicate(timeout=WITHIN)
    assert program.returncode == 0, errors
    return output.splitlines()


@pytest.mark.timeout(WITHIN + 30)
@pytest.mark.parametrize("lane", ["local", "express", "freight"])
def test_functions_methods_and_lambdas_share_one_main(join: Start, tmp_path: Path, lane: str) -> None:
    lines = lines_of(join, tmp_path, NAMES, lane)
    assert lines == ["right"] * 16


@pytest.mark.timeout(WITHIN + 30)
@pytest.mark.parametrize("lane", ["express", "freight"])
def test_what_the_caller_defines_anew_runs_anew(join: Start, tmp_path: Path, lane: str) -> None:
    program = """
        import asyncio, sys
        import poise

        def cell(text):
            exec(text, globals())

        async def main():
            async with poise.Pool(size=2, lane=sys.argv[1]) as workers:
                async def everywhere(function):
                    return await workers.broadcast(function)

                cell("count = 0")
                cell("def helper(): return 'old'")
                cell("def ask(): return helper()")
                cell("def bump():\\n    global count\\n    count += 1\\n    return count")
                print(await everywhere(ask), await everywhere(bump), await everywhere(bump))
                cell("def helper(): return 'new'")
                cell("def ask_too(): return helper(), count")
                await workers.run(ask_too)
                print(await everywhere(ask_too), await everywhere(ask), await everywhere(bump))
                calls = []
                for n in range(6):
                    globals()["n"] = n
                    calls.append(await workers.run(eval("lambda: n", globals())))
                print(calls, await everywhere(bump))
                cell("limit = 5")
                cell("def limited(): return limit")
                print(await everywhere(limited))
                cell("limit = 6")
                cell("def limited(): return limit")
                print(await everywhere(limited), await everywhere(bump))

        asyncio.run(main())
    """
    assert lines_of(join, tmp_path, program, lane) == [
        "['old', 'old'] [1, 1] [2, 2]",
        "[('new', 2), ('new', 2)] ['new', 'new'] [3, 3]",
        "[0, 1, 2, 3, 4, 5] [4, 4]",
        "[5, 5]",
        "[6, 6] [5, 5]",
    ]


@pytest.mark.timeout(WITHIN + 30)
def test_an_initializer_of_an_executor_sets_what_later_functions_read(join: Start, tmp_path: Path) -> None:
    program = """
        import poise

        table = None

        def load(name):
            global model, table
            model, table = f"model from {name}", {"a": 1}

        def predict(x):
            return model, table, x

        if __name__ == "__main__":
            with poise.Executor(2, initializer=load, initargs=("weights",)) as executor:
                print(executor.submit(predict, 1).result())
                print(list(executor.map(predict, range(2), chunksize=2)))
                print(executor.submit(lambda: model).result())
    """
    assert lines_of(join, tmp_path, program) == [
        "('model from weights', {'a': 1}, 1)",
        "[('model from weights', {'a': 1}, 0), ('model from weights', {'a': 1}, 1)]",
        "model from weights",
    ]


@pytest.mark.timeout(WITHIN + 30)
def test_modules_beside_the_script_and_on_paths_that_it_adds_are_found(start: Start, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "beside_poise.py").write_text("def double(n): return 2 * n")
    (tmp_path / "lib" / "added_poise.py").write_text("class Model:\n    def triple(self, n): return 3 * n")
    program = """
        import os, sys
        import poise
        import ray

        ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
        import added_poise, beside_poise

        with poise.Executor(added_poise.Model, max_workers=1) as executor:
            print(executor.submit(added_poise.Model.triple, 2).result())
            print(executor.submit(lambda model, n: beside_poise.double(n), 2).result())
            theirs = executor.submit(lambda model: sys.path).result()
            print(theirs.count(sys.path[0]), theirs[0] != sys.path[0])
    """
    assert lines_of(start, tmp_path, program) == ["6", "4", "1 True"]


# ---------------------------------------------------------------- the numbers of values


class Thing:
    """Can be referred to weakly."""


def test_a_name_has_a_new_version_when_it_has_another_value() -> None:
    ledger, thing, items = Ledger(), Thing(), [1]
    assert [ledger.version("a", thing), ledger.version("a", thing), ledger.version("b", thing)] == [1, 1, 1]
    assert [ledger.version("c", items), ledger.version("c", items), ledger.version("c", [1])] == [1, 1, 2]
    assert ledger.changes == 1


def test_equal_numbers_and_texts_are_the_same_value_and_numbers_of_another_type_are_not() -> None:
    ledger = Ledger()
    assert [ledger.version("n", float("1.5")), ledger.version("n", float("1.5"))] == [1, 1]
    assert [ledger.version("m", 1), ledger.version("m", True), ledger.version("m", 1.0)] == [1, 2, 3]


def test_a_value_that_is_gone_is_kept_by_nobody_and_is_another_than_its_successor() -> None:
    ledger = Ledger()
    assert ledger.version("a", Thing()) == 1
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is Thing]
    assert ledger.version("a", None) == 2
