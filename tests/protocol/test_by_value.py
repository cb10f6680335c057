"""Classes and functions that travel by value: with their slots, and with the name of what keeps them from it."""

from __future__ import annotations

import contextvars
import functools
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import poise
from poise._lanes.book import FunctionBook

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import subprocess, sys
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar
from poise._protocol.codec import pack, unpack

T = TypeVar("T")

class Base:
    __slots__ = ("base", "__weakref__")

class Private(Base):
    __slots__ = ["__hidden"]
    def __init__(self): self.base, self.__hidden = 1, 2
    def state(self): return self.base, self.__hidden

class One:
    __slots__ = "only"
    def __init__(self): self.only = 3
    def state(self): return self.only

@dataclass(slots=True)
class Data:
    x: int = 4
    more: list = field(default_factory=list)
    def state(self): return self.x, self.more

class Half(One):
    def __init__(self):
        super().__init__()
        self.free = 5
    def state(self): return self.only, self.free

class Pair(NamedTuple):
    a: int = 6
    b: int = 7
    def state(self): return self.a + self.b

class Box(NamedTuple, Generic[T]):
    value: T = 8
    def state(self): return self.value

CHILD = "import sys; from poise._protocol.codec import *; v = [k() for k in unpack(sys.stdin.buffer.read())]; " \\
    "assert not any(hasattr(x, '__dict__') for x in v[:3]); sys.stdout.buffer.write(pack(v))"

kinds = (Private, One, Data, Half, Pair, Box)
done = subprocess.run([sys.executable, "-c", CHILD], input=pack(kinds), stdout=subprocess.PIPE, check=True)
for kind, value in zip(kinds, unpack(done.stdout), strict=True):
    assert type(value) is kind
    print(kind.__name__, value.state())
"""


def test_an_instance_with_slots_comes_back_as_the_callers_own(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, str(program)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["Private (1, 2)", "One 3", "Data (4, [])", "Half (3, 5)", "Pair 13", "Box 8"]


def _refused(function: Any) -> str:
    with pytest.raises(poise.PayloadError) as caught:
        FunctionBook(()).target(function)
    return caught.value.reason


def test_what_keeps_a_function_from_travelling_is_named() -> None:
    lock = threading.Lock()
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")

    class Model:
        @property
        def number(self) -> int:
            return variable.get()

        def use(self) -> int:
            return self.number

    def inner() -> None:
        with lock:
            pass

    def outer() -> None:
        inner()

    def makes() -> Any:
        return Model()

    where = "test_what_keeps_a_function_from_travelling_is_named.<locals>"
    assert f"it is the variable 'lock' of type '_thread.lock', which {where}.inner uses: " in _refused(inner)
    assert f"it is the variable 'lock' of type '_thread.lock', which {where}.inner uses: " in _refused(outer)
    assert f"it is the variable 'lock' of type '_thread.lock', which {where}.inner uses: " in _refused(
        functools.partial(outer)
    )
    assert (
        f"it is the variable 'variable' of type '_contextvars.ContextVar', which {where}.Model.number uses: "
        in _refused(makes)
    )


def test_a_global_is_named_too() -> None:
    space: dict[str, Any] = {"__name__": "__main__", "lock": threading.Lock()}
    exec("def use():\n    return [lock for _ in range(3)]", space)
    reason = _refused(space["use"])
    assert "; it is the global 'lock' of type '_thread.lock', which use uses: " in reason
    assert reason.endswith("define it in a module and import it from there")


def test_what_is_to_blame_in_another_way_is_told_as_it_is() -> None:
    @dataclass
    class Stubborn:
        def __call__(self) -> None: ...

        def __reduce__(self) -> Any:
            raise ValueError("no")

    assert _refused(Stubborn()) == "ValueError: no"
