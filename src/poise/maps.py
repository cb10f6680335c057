"""Many calls of one function, typed."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from poise.options import MapOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
    from typing import TypeAlias, Unpack

    from poise._engine.mapping import Results
    from poise.options import MapArguments, ReturningArguments

T = TypeVar("T")
R = TypeVar("R")
A = TypeVar("A")
P = ParamSpec("P")

if TYPE_CHECKING:
    Async: TypeAlias = Callable[P, Coroutine[Any, Any, R]]
    """A coroutine function."""
    Items: TypeAlias = Iterable[A] | AsyncIterable[A]
    """What may be mapped."""


class Maps(Generic[T]):
    """What maps a function over the workers of a pool: a part of `View`, which has the rest."""

    __slots__ = ()

    @overload
    def map(self: Maps[None], fn: Async[[A], R], items: Items[A], /, **how: Unpack[MapArguments]) -> Results[R]: ...
    @overload
    def map(self: Maps[None], fn: Callable[[A], R], items: Items[A], /, **how: Unpack[MapArguments]) -> Results[R]: ...
    @overload
    def map(self, fn: Async[[T, A], R], items: Items[A], /, **how: Unpack[MapArguments]) -> Results[R]: ...
    @overload
    def map(self, fn: Callable[[T, A], R], items: Items[A], /, **how: Unpack[MapArguments]) -> Results[R]: ...
    @overload
    def map(self, fn: str, items: Items[Any], /, **how: Unpack[MapArguments]) -> Results[Any]: ...
    @overload
    def map(
        self: Maps[None], fn: Async[[A], R], items: Items[A], /, **how: Unpack[ReturningArguments]
    ) -> Results[R | Exception]: ...
    @overload
    def map(
        self: Maps[None], fn: Callable[[A], R], items: Items[A], /, **how: Unpack[ReturningArguments]
    ) -> Results[R | Exception]: ...
    @overload
    def map(
        self, fn: Async[[T, A], R], items: Items[A], /, **how: Unpack[ReturningArguments]
    ) -> Results[R | Exception]: ...
    @overload
    def map(
        self, fn: Callable[[T, A], R], items: Items[A], /, **how: Unpack[ReturningArguments]
    ) -> Results[R | Exception]: ...
    @overload
    def map(self, fn: str, items: Items[Any], /, **how: Unpack[ReturningArguments]) -> Results[Any]: ...
    def map(  # noqa: D417 - the options are named as users give them
        self, fn: Callable[..., Any] | str, items: Items[Any], /, **how: Any
    ) -> Results[Any]:
        """Call a function for each item; results come in the order of the items.

        Items are taken lazily, as room comes free, so the source may be endless. What ends the iteration, be it an
        error, `aclose` or that nobody holds it any more, cancels the calls that are still out.

        Args:
            fn: as in `run`, called with one item.
            items: a sync or async iterable.
            buffersize (None): the most items taken from the source whose results were not taken yet; if None twice the
                slots, and for a batched function as many batches.
            on_error ("raise"): what becomes of a call that fails. "raise" ends the iteration with its error; "return"
                gives the error in the place of the result; "skip" leaves it out. What ends every call, such as a pool
                that was closed or is broken, and errors of the source itself are always raised.
            progress (False): show a live bar, which counts failures too (needs `pip install 'poise[progress]'`).

        Raises:
            ConfigError: an option is outside its range.
            PoiseError: and the function's own exceptions, as `run` says.
        """
        return self._map(fn, items, MapOptions.of(how), is_ordered=True)

    @overload
    def map_unordered(
        self: Maps[None], fn: Async[[A], R], items: Items[A], /, **how: Unpack[MapArguments]
    ) -> Results[R]: ...
    @overload
    def map_unordered(
        self: Maps[None], fn: Callable[[A], R], items: Items[A], /, **how: Unpack[MapArguments]
    ) -> Results[R]: ...
    @overload
    def map_unordered(self, fn: Async[[T, A], R], items: Items[A], /, **how: Unpack[MapArguments]) -> Results[R]: ...
    @overload
    def map_unordered(self, fn: Callable[[T, A], R], items: Items[A], /, **how: Unpack[MapArguments]) -> Results[R]: ...
    @overload
    def map_unordered(self, fn: str, items: Items[Any], /, **how: Unpack[MapArguments]) -> Results[Any]: ...
    @overload
    def map_unordered(
        self: Maps[None], fn: Async[[A], R], items: Items[A], /, **how: Unpack[ReturningArguments]
    ) -> Results[R | Exception]: ...
    @overload
    def map_unordered(
        self: Maps[None], fn: Callable[[A], R], items: Items[A], /, **how: Unpack[ReturningArguments]
    ) -> Results[R | Exception]: ...
    @overload
    def map_unordered(
        self, fn: Async[[T, A], R], items: Items[A], /, **how: Unpack[ReturningArguments]
    ) -> Results[R | Exception]: ...
    @overload
    def map_unordered(
        self, fn: Callable[[T, A], R], items: Items[A], /, **how: Unpack[ReturningArguments]
    ) -> Results[R | Exception]: ...
    @overload
    def map_unordered(self, fn: str, items: Items[Any], /, **how: Unpack[ReturningArguments]) -> Results[Any]: ...
    def map_unordered(self, fn: Callable[..., Any] | str, items: Items[Any], /, **how: Any) -> Results[Any]:
        """Call a function for each item; results come as they are ready. Otherwise like `map`."""
        return self._map(fn, items, MapOptions.of(how), is_ordered=False)

    @abstractmethod
    def _map(
        self, fn: Callable[..., Any] | str, items: Items[Any], options: MapOptions, *, is_ordered: bool
    ) -> Results[Any]:
        """Make the calls."""
