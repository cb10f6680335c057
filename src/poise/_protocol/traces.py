"""Tracebacks, which neither travel nor are kept: they become text."""

from __future__ import annotations

import contextlib
import inspect
import traceback
from typing import TYPE_CHECKING, Any

from poise._protocol.words import class_name, type_name

if TYPE_CHECKING:
    from types import FrameType


class RemoteTraceback(Exception):
    """The traceback of an exception that was raised in a worker, as text; it is the `__cause__` of that exception."""

    def __init__(self, text: str) -> None:
        """Keep the text."""
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def set_cause(error: BaseException, traceback_text: str) -> None:
    """Attach a remote traceback, also to an exception that refuses attributes, such as a frozen dataclass."""
    BaseException.__dict__["__cause__"].__set__(error, RemoteTraceback(traceback_text))


def add_note(error: BaseException, note: str) -> None:
    """Add a note, which an exception that refuses attributes goes without. Never raises."""
    with contextlib.suppress(BaseException):  # its class may do anything
        BaseException.add_note(error, note)


def format_trace(error: BaseException, skip_frames: int = 0) -> str:
    """The traceback as text, without the first so many frames. Never raises."""
    try:
        trace = error.__traceback__
        for _ in range(skip_frames):
            if trace is not None:
                trace = trace.tb_next
        return "".join(traceback.format_exception(type(error), error, trace))
    except BaseException as failure:  # noqa: BLE001 - the traceback module calls the user's __str__ and more
        return f"{type_name(error)}: the traceback could not be formatted: {class_name(type(failure))}\n"


def drop_frames(error: BaseException) -> None:
    """Turn the traceback of an exception that is being handled, and of those behind it, into text.

    A frame holds its callers, and so whatever hangs on them: an error that is kept would keep the calls of others.
    What a caller handles at the moment is its own and stays as it is; the error forgets it.
    """
    text = format_trace(error)
    callers = _frames_above(inspect.currentframe())
    seen: dict[int, BaseException] = {}
    left: list[BaseException] = [error]
    while left:
        known = left.pop()
        if id(known) in seen:
            continue
        seen[id(known)] = known
        BaseException.with_traceback(known, None)
        for name in ("__cause__", "__context__"):
            slot = BaseException.__dict__[name]  # what its class says of itself is not asked: that may raise
            behind: BaseException | None = slot.__get__(known)
            if behind is None:
                continue
            trace = BaseException.__dict__["__traceback__"].__get__(behind)
            if trace is not None and trace.tb_frame in callers:
                slot.__set__(known, None)
            else:
                left.append(behind)
        if issubclass(type(known), BaseExceptionGroup):
            members: Any = BaseExceptionGroup.__dict__["exceptions"]
            left += members.__get__(known)
    if BaseException.__dict__["__cause__"].__get__(error) is None:
        set_cause(error, text)


def _frames_above(frame: FrameType | None) -> set[FrameType]:
    """Those that wait for the one that has called the one given."""
    callers: set[FrameType] = set()
    frame = frame and frame.f_back
    while frame is not None and (frame := frame.f_back) is not None:
        callers.add(frame)
    return callers
