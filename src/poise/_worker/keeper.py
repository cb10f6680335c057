"""What the factory made, from its making to its end: entered and left as `with` does it, or else closed.

All of it happens on the thread that serves, coroutines on the loop of the calls: what belongs to a thread is made, used
and closed by the same one.
"""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from poise._protocol.words import describe, type_name
from poise._worker.shelf import Absent

if TYPE_CHECKING:
    from collections.abc import Callable

    from poise._worker.loop_thread import CallsLoop


class Keeper:
    """Keeps the instance of one worker."""

    def __init__(self, loop: CallsLoop) -> None:
        """Keep nothing yet.

        Args:
            loop: where its coroutines run.
        """
        self._loop = loop
        self._made: object = Absent()
        self._steps: list[Callable[[], Any]] = []
        """What is to be called at the end, in order."""

    def make(self, factory: Callable[[], Any] | None) -> object:
        """Call the factory, enter what it made if it is a context manager, and return what calls get.

        That is what `with ... as` would give, or the object itself if entering it gives None.

        Raises:
            BaseException: whatever the user's constructor, or entering, raises.
        """
        made = self._made = _construct(factory)
        if isinstance(made, Absent):
            return made
        given = self._enter(made)
        if (shutdown := _method(made, "__ray_shutdown__")) is not None:
            self._steps.append(partial(shutdown, made))
        return made if given is None else given

    def leave(self) -> list[str]:
        """Leave it or close it, then call the hook that plain Ray would call; return what went wrong, in words."""
        failures: list[str] = []
        steps, self._steps = self._steps, []
        for step in steps:
            try:
                self._complete(step())
            except BaseException as error:  # noqa: BLE001 - the user's own code, and the next step is due all the same
                failures.append(f"closing its {type_name(self._made)} raised {describe(error)}")
        return failures

    def _enter(self, made: object) -> object:
        # First the asynchronous one: of an object that has both, the other is often there only to refuse.
        for enter_name, exit_name in (("__aenter__", "__aexit__"), ("__enter__", "__exit__")):
            enter, leave = _method(made, enter_name), _method(made, exit_name)
            if enter is not None and leave is not None:
                given = enter(made)
                if enter_name == "__aenter__":
                    given = self._complete(given)
                self._steps.append(partial(leave, made, None, None, None))
                return given
        for name in ("aclose", "close"):
            if (close := _method(made, name)) is not None:
                self._steps.append(partial(close, made))
                break
        return None

    def _complete(self, result: Any) -> Any:
        return self._loop.complete(_outcome(result)) if _method(result, "__await__") is not None else result


def _construct(factory: Callable[[], Any] | None) -> object:
    """Make what a worker holds.

    Raises:
        TypeError: the factory is an `async def` function.
        BaseException: whatever the user's constructor raises.
    """
    if factory is None:
        return Absent()
    instance: object = factory()
    if isinstance(instance, Coroutine):
        instance.close()
        raise TypeError(
            "the factory is an async function, and a worker is made by a plain call; let it return an object with an "
            "async method that does the rest, and broadcast that when the pool is open"
        )
    return instance


async def _outcome(awaitable: Any) -> Any:
    return await awaitable


def _method(made: object, name: str) -> Callable[..., Any] | None:
    """A method of the class: what an object only pretends to have, by `__getattr__`, is another's."""
    try:
        method: object = getattr(type(made), name, None)
    except Exception:  # noqa: BLE001 - a metaclass may raise anything
        return None
    return method if callable(method) else None
