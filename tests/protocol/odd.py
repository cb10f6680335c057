"""Values and exceptions that travel badly."""

from __future__ import annotations

import threading
from typing import Any, NoReturn


class CannotPickle:
    def __reduce__(self) -> NoReturn:
        raise RuntimeError("no way out")


class ExitsWhenPickled:
    def __reduce__(self) -> NoReturn:
        raise SystemExit("no way out")


def _explode(error: type[BaseException]) -> NoReturn:
    raise error("no way in")


class CannotUnpickle:
    def __init__(self, error: type[BaseException] = RuntimeError) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return _explode, (self.error,)


class OddArguments(Exception):
    """Pickles and cannot be unpickled: the usual mistake."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(f"{code} at {where}")
        self.code = code


class HoldsALock(Exception):
    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


class CannotSpeak(Exception):
    def __str__(self) -> NoReturn:
        raise SystemExit("speechless")


class Sealed(Exception):
    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("sealed")
