"""Functions that take many values at once and are called for one: `poise.batched`.

The calls of a batch travel as one call, whose one argument is a `Bundle`: each value by itself, so that one which
cannot be pickled or unpickled is the trouble of its own caller alone. What a batched function is called with in a
worker, one value or a bundle, tells it what to give back. So no lane and no worker has to know of batches, and an
actor of somebody else's runs them too.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from functools import wraps
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast, overload

from poise._answers import RAISED, RETURNED
from poise._core.batches import Batching
from poise._protocol.bundles import Arguments, Bundle, Outcomes
from poise._protocol.codec import pack, unpack_part
from poise._protocol.exceptions import pack_exception
from poise._protocol.words import callable_name, type_name
from poise.checks import check_seconds, check_whole
from poise.errors import BatchError, ConfigError, PayloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from poise._protocol.payloads import Packed

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")

_SETTINGS: Final = "__poise_batching__"
"""Where a batched function has what it asks for."""

_MOST_ARGUMENTS: Final = 2
"""The instance and the list."""


class Failed:
    """Stands in the list that a batched function returns for a value which has failed: its caller gets the error."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        """Fail one value.

        Raises:
            ConfigError: this is no exception.
        """
        if not isinstance(error, Exception):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError("error", error, "an exception, which the caller of this value gets")
        self.error: Exception = error

    def __repr__(self) -> str:
        """Give the error."""
        return f"Failed({self.error!r})"


# ---------------------------------------------------------------------------------------------------------------------
# What users see


class BatchedFunction(Generic[A, R]):
    """What `batched` makes of a function: it is called for one value."""

    batch: Callable[[list[A]], Any]
    """The function as it was written, for a list."""

    def __call__(self, value: A, /) -> R:
        """What the function gives for this value alone."""
        raise NotImplementedError


class BatchedMethod(Generic[T, A, R]):
    """What `batched` makes of a method: it is called for one value."""

    batch: Callable[[T, list[A]], Any]
    """The method as it was written, for an instance and a list: `Model.predict.batch(model, [1, 2])`."""

    def __call__(self, instance: T, value: A, /) -> R:
        """What the method gives for this value alone."""
        raise NotImplementedError

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> BatchedMethod[T, A, R]: ...
    @overload
    def __get__(self, instance: T, owner: type[Any]) -> BatchedFunction[A, R]: ...
    def __get__(self, instance: Any, owner: type[Any]) -> Any:
        """As any method, it is found in the class and in its instances."""
        raise NotImplementedError


class Decorator(Protocol):
    """What `batched` gives: makes a function of lists one that is called for one value."""

    @overload
    def __call__(
        self, fn: Callable[[list[A]], Coroutine[Any, Any, Sequence[R | Failed]]], /
    ) -> BatchedFunction[A, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, fn: Callable[[list[A]], Sequence[R | Failed]], /) -> BatchedFunction[A, R]: ...
    @overload
    def __call__(
        self, fn: Callable[[T, list[A]], Coroutine[Any, Any, Sequence[R | Failed]]], /
    ) -> BatchedMethod[T, A, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, fn: Callable[[T, list[A]], Sequence[R | Failed]], /) -> BatchedMethod[T, A, R]: ...


def batched(*, max: int = 32, wait: float = 0.0) -> Decorator:  # noqa: A002 (the name that users give it)
    """Mark a function that takes a list and returns a list of as many, so that calls for one value share its runs.

    Callers call it for one value: `await pool.run(Model.predict, x)`. The pool gives a free worker, in one batch, what
    waits at that moment for this function with the same priority. Each caller has an answer, an exception, a deadline
    and a cancellation of its own.

    Where the function returns `poise.Failed(error)` in the place of a result, that caller alone gets the error; what it
    raises all of them get, and a `BatchError` if it returns no list of the right length. A plain or an `async def`
    function or method will do. Called directly it takes one value too; `Model.predict.batch(model, values)` is what
    was written.

    Args:
        max: the most values in one batch.
        wait: seconds for which a call may wait for others though a worker is free; 0 lets none wait for that.

    Raises:
        ConfigError: an option is outside its range; from the decorator: this is no function that can be batched.
    """
    check_whole("max", max, 1)
    check_seconds("wait", wait, zero=True, none=False)
    if wait == math.inf:
        raise ConfigError("wait", wait, "seconds, zero or more, and finite")
    batching = Batching(int(max), float(wait))

    def decorate(fn: Any) -> Any:
        _check(fn)
        one = wraps(fn)((_async_one if inspect.iscoroutinefunction(fn) else _one)(fn, callable_name(fn)))
        setattr(one, _SETTINGS, batching)
        cast("Any", one).batch = fn
        return one

    return cast("Decorator", decorate)


def _check(fn: Any) -> None:
    if isinstance(fn, staticmethod | classmethod):
        above = "staticmethod" if isinstance(fn, staticmethod) else "classmethod"
        raise ConfigError("fn", above, f"put @{above} above @poise.batched, which takes the function itself")
    if type(fn) is not FunctionType:
        raise ConfigError("fn", fn, "a function or method written with `def` or `async def`")
    if hasattr(fn, _SETTINGS):
        raise ConfigError("fn", fn, "it is batched already")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise ConfigError("fn", fn, "a generator gives a stream, which cannot be batched; return a list of results")
    kinds = inspect.Parameter
    needed = [each for each in inspect.signature(fn).parameters.values() if each.default is kinds.empty]
    plain = [each for each in needed if each.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    takes_any = any(each.kind is kinds.VAR_POSITIONAL for each in needed)
    if any(each.kind is kinds.KEYWORD_ONLY for each in needed) or len(plain) > _MOST_ARGUMENTS:
        what = "it takes the list alone, after `self`: put what else it needs into each value, such as a tuple"
        raise ConfigError("fn", fn, what)
    if not plain and not takes_any:
        raise ConfigError("fn", fn, "it must take a list of values, and return a list of as many results")


# ---------------------------------------------------------------------------------------------------------------------
# What the caller's side asks


def batching_of(function: Any) -> Batching:
    """What a function that `is_batched` asks for."""
    batching: Batching = getattr(function, _SETTINGS)
    return batching


def check_arguments(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, is_stream: bool) -> None:
    """Refuse what a call of a batched function cannot have.

    Raises:
        ConfigError: says what to do instead.
    """
    if is_stream:
        raise ConfigError("fn", name, "it is batched, and gives one result for each value; use run() or map()")
    if kwargs:
        remedy = "put what it needs into the value, such as a tuple, and give options by pool.options()"
        raise ConfigError("kwargs", kwargs, f"{name} is batched and takes one value, by its position: {remedy}")
    if len(args) != 1:
        raise ConfigError("args", args, f"{name} is batched and takes one value: give several as one, such as a tuple")


# ---------------------------------------------------------------------------------------------------------------------
# In a worker. The functions made here refer to no global: one of `__main__` that travels by value takes nothing along.


def _one(many: Callable[..., Any], name: str) -> Callable[..., Any]:
    begin, single = _begin, _single

    def one(*args: Any) -> Any:
        batch = begin(args, name)
        if batch is None:
            return single(many(*args[:-1], [args[-1]]), name)
        try:
            return batch.end(many(*args[:-1], batch.values)) if batch.values else batch.outcomes()
        except BaseException as error:  # noqa: BLE001 - whatever it raises is what all get
            return batch.fail(error)

    return one


def _async_one(many: Callable[..., Any], name: str) -> Callable[..., Any]:
    begin, single, cancelled = _begin, _single, asyncio.CancelledError

    async def one(*args: Any) -> Any:
        batch = begin(args, name)
        if batch is None:
            return single(await many(*args[:-1], [args[-1]]), name)
        try:
            return batch.end(await many(*args[:-1], batch.values)) if batch.values else batch.outcomes()
        except cancelled:  # nobody waits for any of it, or so the function's own code wants it
            raise
        except BaseException as error:  # noqa: BLE001 - as above
            return batch.fail(error)

    return one


def _begin(args: tuple[Any, ...], name: str) -> _Run | None:
    """The batch that a batched function is called with, or None if it is one value."""
    if not 1 <= len(args) <= _MOST_ARGUMENTS:
        raise TypeError(f"{name} is batched and takes one value, and {len(args)} arguments were given")
    return _Run(args[-1], name) if type(args[-1]) in (Bundle, Arguments) else None


def _single(results: Any, name: str) -> Any:
    """The result for one value.

    Raises:
        BatchError: this is no list of one.
    """
    result = _checked(results, 1, name)[0]
    if type(result) is Failed:
        raise result.error
    return result


def _checked(results: Any, count: int, name: str) -> list[Any]:
    if not isinstance(results, list):
        raise BatchError(name, count, None, type_name(results))
    given: list[Any] = results  # pyright: ignore[reportUnknownVariableType] - whatever they are
    if len(given) != count:
        raise BatchError(name, count, len(given), "list")
    return given


class _Run:
    """One batch in a worker: the values that it is called for, and what becomes of each."""

    __slots__ = ("_codes", "_name", "_packed", "_places", "values")

    def __init__(self, bundle: Bundle, name: str) -> None:
        """Unpack the values; one that cannot be unpacked has failed already."""
        self._name = name
        count = len(bundle.parts)
        self._codes = [RAISED] * count
        self._packed: list[Packed] = [b""] * count
        self.values: list[Any] = []
        self._places: list[int] = []
        """Of which call each of them is."""
        for place, part in enumerate(bundle.parts):
            try:
                value = unpack_part(part, "the arguments", started=False)
                self.values.append(value[0] if type(bundle) is Arguments else value)
                self._places.append(place)
            except PayloadError as error:
                self._raised(place, error)

    def end(self, results: Any) -> Outcomes:
        """The function has returned."""
        for place, result in zip(self._places, _checked(results, len(self._places), self._name), strict=True):
            if type(result) is Failed:
                self._raised(place, result.error)
                continue
            try:
                self._packed[place], self._codes[place] = pack(result, "the result", started=True), RETURNED
            except PayloadError as error:
                self._raised(place, error)
        return self.outcomes()

    def fail(self, error: BaseException) -> Outcomes:
        """The function has raised, or returned what is no list of results."""
        packed = pack_exception(error, skip_frames=1)
        for place in self._places:
            self._packed[place], self._codes[place] = packed, RAISED
        return self.outcomes()

    def outcomes(self) -> Outcomes:
        """What became of each value."""
        return Outcomes(self._packed, self._codes)

    def _raised(self, place: int, error: BaseException) -> None:
        self._packed[place], self._codes[place] = pack_exception(error), RAISED


def _code_of(made: Callable[..., Any]) -> CodeType:
    return cast("FunctionType", made).__code__


ONE: Final[CodeType] = _code_of(_one(len, ""))
"""The code of every batched function: it tells whether a function is one, in no time."""
ASYNC_ONE: Final[CodeType] = _code_of(_async_one(len, ""))
