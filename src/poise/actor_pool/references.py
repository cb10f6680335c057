"""What Ray's references tell, and when."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future


def references(refs: Any) -> Sequence[Any]:
    """An ObjectRef, or a list of them, as a sequence.

    Raises:
        ValueError, TypeError: they are none, as `ray.get` would raise.
    """
    from ray import ObjectRef

    if not isinstance(refs, ObjectRef | list):
        raise ValueError(  # noqa: TRY004 - as `ray.get`
            f"fn must return an ObjectRef or a list of them, and returned {type(refs).__name__}"
        )
    each: Sequence[Any] = [refs] if isinstance(refs, ObjectRef) else tuple(cast("Iterable[Any]", refs))
    for ref in each:
        if not isinstance(ref, ObjectRef):
            raise TypeError(f"fn must return an ObjectRef or a list of them; the list has a {type(ref).__name__}")
    return each


def when_done(refs: Sequence[Any], tell: Callable[[Sequence[Future[Any]]], None]) -> None:
    """Tell, once, when all of these ObjectRefs are ready; on Ray's thread, or now if they are already."""
    if not refs:
        tell([])
        return
    futures: list[Future[Any]] = [ref.future() for ref in refs]
    lock = threading.Lock()
    left = len(futures)

    def on_done(_: Future[Any]) -> None:
        nonlocal left
        with lock:
            left -= 1
            if left:
                return
        done = list(futures)
        futures.clear()  # they hold this function, which must not hold them and their results
        tell(done)

    for future in list(futures):
        future.add_done_callback(on_done)


def is_death_of(actor: Any, error: BaseException) -> bool:
    """Whether this actor is dead for good, and not another that was to produce an argument."""
    from ray.exceptions import ActorDiedError

    return isinstance(error, ActorDiedError) and error.actor_id in {None, actor._actor_id.hex()}  # noqa: SLF001


def last_words(error: BaseException) -> str:
    """What is known of an actor's end."""
    from poise._ray.errors import last_words  # imports Ray

    return last_words(error)
