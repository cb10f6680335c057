"""Exceptions and values whose classes do their worst. Each is raised or returned in a worker by the tests."""

# mypy: disable-error-code="misc, override, assignment, list-item, no-any-return"
# All of these classes are wrong on purpose.

from __future__ import annotations

import weakref
from typing import Any, NoReturn


class _Nameless(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__qualname__", "__name__", "__module__"):
            raise ValueError("no name")
        return super().__getattribute__(name)


class Nameless(Exception, metaclass=_Nameless):
    """Its class will not give its name."""


class _OddNames(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__qualname__", "__name__"):
            return 7
        if name == "__module__":
            raise SystemExit("no module")
        return super().__getattribute__(name)


class OddNames(Exception, metaclass=_OddNames):
    """Its class gives names that are none."""


class NoModule(Exception):
    """Its module is no text."""


NoModule.__module__ = 3


class LiesAboutItsClass(Exception):
    @property
    def __class__(self) -> Any:
        return StopIteration


class HidesItsClass(Exception):
    @property
    def __class__(self) -> Any:
        raise ValueError("no class")


class HidesItsTraceback(Exception):
    @property
    def __traceback__(self) -> Any:
        raise ValueError("no traceback")


class HidesItsCause(Exception):
    @property
    def __cause__(self) -> Any:
        raise ValueError("no cause")

    @property
    def __context__(self) -> Any:
        raise ValueError("no context")


class NoNotes(Exception):
    @property
    def __notes__(self) -> Any:
        raise ValueError("no notes")


class OddNotes(Exception):
    """Its notes raise when they are shown."""

    def __init__(self) -> None:
        super().__init__()
        self.__notes__ = [Silent()]


class Silent:
    def __str__(self) -> NoReturn:
        raise RecursionError("no text")

    __repr__ = __str__


class SpeaksNoText(Exception):
    def __str__(self) -> Any:
        return 3


class SpeaksOddText(Exception):
    class Odd(str):
        __slots__ = ()

        def __str__(self) -> NoReturn:
            raise ValueError("no text")

        def __reduce__(self) -> NoReturn:
            raise ValueError("no way out")

    def __str__(self) -> str:
        return SpeaksOddText.Odd("odd")


class OutOfMemory(Exception):
    def __str__(self) -> NoReturn:
        raise MemoryError

    def __reduce__(self) -> NoReturn:
        raise MemoryError


class Bottomless(Exception):
    """Packing it never ends."""

    def __str__(self) -> str:
        return str(self)

    def __reduce__(self) -> Any:
        return Bottomless, (Bottomless(),)


class HidesEverything(Exception):
    def __getattribute__(self, name: str) -> NoReturn:
        raise SystemExit(f"no {name}")


class FailsAsItDies(Exception):
    def __del__(self) -> None:
        raise SystemExit("no end")


class BaseOfAll(BaseException):
    @property
    def __class__(self) -> Any:
        raise ValueError("no class")


HOSTILE: list[type[BaseException]] = [
    Nameless,
    OddNames,
    NoModule,
    LiesAboutItsClass,
    HidesItsClass,
    HidesItsTraceback,
    HidesItsCause,
    NoNotes,
    OddNotes,
    SpeaksNoText,
    SpeaksOddText,
    OutOfMemory,
    Bottomless,
    HidesEverything,
    BaseOfAll,
]


def causes(error: BaseException) -> Exception:
    """An exception that is harmless itself, with a hostile one behind it."""
    outer = ValueError("harmless")
    outer.__cause__ = error
    return outer


class FailsAsItEnds:
    """A value that raises when it dies, as do those that watch it."""

    def __init__(self) -> None:
        self.watch = weakref.ref(self, self._gone)

    @staticmethod
    def _gone(_: object) -> NoReturn:
        raise SystemExit("no watch")

    def __del__(self) -> None:
        raise SystemExit("no end")

    def __reduce__(self) -> Any:
        return int, (7,)


class HidesItself:
    """A value that will not say what it is."""

    @property
    def __class__(self) -> Any:
        raise ValueError("no class")


class LiesAboutItself:
    """A value that says it is a coroutine, and is none."""

    @property
    def __class__(self) -> Any:
        return type(_coroutine)


async def _nothing() -> None: ...


_coroutine = _nothing()
_coroutine.close()
