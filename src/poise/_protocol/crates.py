"""Crates: what goes through Ray, as tuples; as bytes if that is all that they hold, which Ray carries fastest."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, TypeAlias

from poise._protocol.functions import PickledFunction
from poise._protocol.messages import CallMessage
from poise._protocol.payloads import PROTOCOL, Packed, Payload, for_ray

if TYPE_CHECKING:
    from poise._answers import Answer, Ending

Crate: TypeAlias = bytes | tuple[Any, ...]


def uncrate(crated: Crate) -> Any:
    """Open a crate of a reply, of an item, or of a stream's items and the reply that ends it, if that has come."""
    return pickle.loads(crated) if type(crated) is bytes else crated


def crate_call(call: CallMessage) -> Crate:
    """Crate a call."""
    operation, call_id, target, arguments, *rest = call
    arguments = for_ray(arguments)
    plain = type(arguments) is bytes
    if isinstance(target, PickledFunction):
        plain = plain and type(target.packed) is bytes
        return _crate(operation, call_id, tuple(target), arguments, *rest, plain=plain)
    return _crate(operation, call_id, target, arguments, *rest, plain=plain)


def uncrate_call(crated: Crate, deposit: tuple[Packed] | None = None) -> CallMessage:
    """Open a crate that holds a call, whose arguments may have been deposited by whom the caller acts for."""
    call = CallMessage._make(uncrate(crated))
    if deposit is not None:
        call = call._replace(arguments=deposit[0])
    return call if isinstance(call.target, str) else call._replace(target=PickledFunction(*call.target))


def crate_item(item: Packed) -> Crate:
    """Crate one item of a stream."""
    return _crate(for_ray(item), plain=False)


def crate_answer(answer: Answer) -> Crate:
    """Crate the end of an attempt that the express lane cannot carry."""
    contents = _for_ray(answer)
    return _crate(*contents, plain=type(contents[2]) is not Payload)


def crate_end(answer: Answer, *, retires: bool) -> Crate:
    """Crate the end of an attempt, and whether the worker asks to be replaced, which must be heard before that."""
    contents = _for_ray(answer)
    return _crate(contents, retires, plain=type(contents[2]) is not Payload)


def crate_stream(items: list[Packed], end: Answer | None, *, retires: bool) -> Crate:
    """Crate a stream's next items, its end if it has come, and whether the worker asks to be replaced."""
    items = [for_ray(item) for item in items]
    contents = None if end is None else _for_ray(end)
    packed = [*items, contents[2]] if contents is not None else items
    return _crate(items, contents, retires, plain=not any(type(each) is Payload for each in packed))


def _for_ray(answer: Answer) -> tuple[int, Ending, Packed | None, float]:
    call_id, ending, packed, service_time = answer
    return call_id, ending, None if packed is None else for_ray(packed), service_time


def _crate(*contents: Any, plain: bool) -> Crate:
    """`plain` says that there are no payloads, buffers or Ray objects inside."""
    return pickle.dumps(contents, PROTOCOL) if plain else contents
