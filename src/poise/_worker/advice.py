"""What a `TypeError` does not say: that a call of a pool gives the worker's instance first, and takes no options."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from poise._protocol.traces import add_note
from poise._protocol.words import type_name
from poise.options import CallOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def advise(
    error: TypeError,
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    adds_instance: bool,
) -> None:
    """Add a note to the error of a function that does not take what it was given. Never raises.

    Args:
        error: what calling it raised.
        function: as it was called: a method, or a `functools.partial` that adds the worker's instance.
        args: the positional arguments of the call.
        kwargs: the keyword arguments of the call.
        adds_instance: whether it is such a partial.
    """
    try:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            return  # the function's own code raised it
        notes = list(_notes(function, args, kwargs, adds_instance=adds_instance))
        for note in notes:
            add_note(error, note)
    except Exception:  # noqa: BLE001 - signatures and errors are the user's own code, and this is only a hint
        return


def _notes(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], *, adds_instance: bool
) -> list[str]:
    if isinstance(function, functools.partial):
        args, kwargs, function = (*function.args, *args), {**function.keywords, **kwargs}, function.func
    try:
        signature = inspect.signature(function)
    except ValueError:  # a built-in function that has none
        return []
    if _fits(signature, args, kwargs):
        return []
    notes = [
        f"{name}= is an option and no argument of the function: use pool.options({name}=...)"
        for name in kwargs
        if name in CallOptions.__slots__ and name not in signature.parameters
    ]
    if adds_instance and not notes:
        instance: Any = args[0]
        notes.append(
            f"in a pool with a factory a function gets the worker's instance, of type {type_name(instance)}, as its "
            "first argument, before those of the call; write it like `lambda instance, ...: ...`"
        )
    return notes


def _fits(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True
