"""Exceptions that are not true: whoever asks `if error` takes them for none, or gets another."""

from __future__ import annotations

from typing import NoReturn


class FalseError(Exception):
    def __bool__(self) -> bool:
        return False


class EmptyError(Exception):
    def __len__(self) -> int:
        return 0


class UndecidedError(Exception):
    def __bool__(self) -> NoReturn:
        raise ZeroDivisionError("nobody knows")

    def __eq__(self, other: object) -> NoReturn:
        raise ZeroDivisionError("nobody knows")

    __hash__ = None  # type: ignore[assignment]


UNTRUE = [FalseError, EmptyError, UndecidedError]


def fail_untruly(error: type[Exception]) -> NoReturn:
    raise error("no")
