"""Functions: by name where the worker has them, by value otherwise."""

from __future__ import annotations

import functools
import gc
import threading
import weakref
from typing import Any

import pytest

from poise._lanes.book import FunctionBook
from poise._protocol.functions import PickledFunction, type_names
from poise._worker.shelf import KEPT, Absent, FunctionShelf
from poise.errors import PayloadError
from tests.protocol.odd import CannotUnpickle


class Base:
    def inherited(self) -> str:
        return "base"

    def __secret(self) -> str:
        return "secret"

    secret = __secret


class Model(Base):
    def __init__(self) -> None:
        self.weight = 3

    def predict(self, x: int) -> int:
        return self.weight * x

    @staticmethod
    def static(x: int) -> int:
        return x

    @property
    def broken(self) -> int:
        raise AttributeError("inside")


class Other:
    def predict(self, x: int) -> int:
        return -x


def double(model: Model, x: int) -> int:
    return model.weight * x * 2


class Changing:
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, model: Any, x: int) -> int:
        return self.by * x


def call(function: Any, *args: Any, instance: Any = None) -> Any:
    """Carry the function over to a worker that holds a Model, and call it there."""
    instance = Model() if instance is None else instance
    return FunctionShelf(instance).find(FunctionBook(type_names(instance)).target(function))(*args)


@pytest.mark.parametrize("function", ["predict", Model.predict], ids=["name", "method"])
def test_a_method_travels_by_its_name(function: Any) -> None:
    assert FunctionBook(type_names(Model())).target(function) == "predict"
    assert call(function, 2) == 6


def test_an_inherited_method_travels_by_its_name_and_the_override_runs() -> None:
    class Sub(Model):
        def predict(self, x: int) -> int:
            return 100 * x

    assert call(Base.inherited) == "base"
    assert call(Model.predict, 2, instance=Sub()) == 200


def test_a_private_method_and_a_static_one_are_found() -> None:
    assert call(Base.secret) == "secret"
    assert call(Model.static, 5) == 5


def test_methods_of_builtin_types_travel_by_name() -> None:
    assert call(dict.get, "a", instance={"a": 1}) == 1
    assert call(list.__len__, instance=[1, 2]) == 2


def test_a_method_of_another_class_travels_by_value() -> None:
    assert isinstance(FunctionBook(type_names(Model())).target(Other.predict), PickledFunction)
    assert call(Other.predict, 2) == -2


def test_a_method_through_a_ray_class_travels_by_its_name() -> None:
    import ray

    actor_class: Any = ray.remote(Model)
    assert FunctionBook(()).target(actor_class.predict) == "predict"


@pytest.mark.parametrize("function", [double, lambda m, x: m.weight * x * 2, functools.partial(double)])
def test_any_function_runs_beside_the_instance(function: Any) -> None:
    assert call(function, 2) == 12


def test_an_unhashable_callable_is_pickled_anew_each_time() -> None:
    function = Changing(2)
    assert call(function, 2) == 4
    function.by = 3
    assert call(function, 2) == 6


def test_without_an_instance_functions_run_alone() -> None:
    assert call(len, [1, 2], instance=Absent()) == 2
    with pytest.raises(AttributeError, match="no factory"):
        call("predict", instance=Absent())


def test_a_function_is_pickled_once_and_kept_in_the_worker() -> None:
    def function(model: Model) -> None: ...

    first, second = (FunctionBook(type_names(Model())).target(function) for _ in range(2))
    assert first is second
    shelf = FunctionShelf(Absent())
    assert shelf.find(first) is shelf.find(second)


def test_nothing_keeps_a_function_alive_on_the_callers_side() -> None:
    book = FunctionBook(())

    def function() -> None: ...

    book.target(function)
    gone = weakref.ref(function)
    del function
    gc.collect()
    assert gone() is None


def test_the_workers_shelf_is_bounded() -> None:
    shelf = FunctionShelf(Absent())
    book = FunctionBook(())
    for number in range(KEPT + 10):
        shelf.find(book.target(functools.partial(int, number)))
    assert len(shelf._kept) == KEPT  # noqa: SLF001


def test_a_function_that_cannot_be_pickled_is_named() -> None:
    lock = threading.Lock()

    def takes_a_lock() -> None:
        lock.acquire()

    with pytest.raises(PayloadError, match="takes_a_lock") as caught:
        FunctionBook(()).target(takes_a_lock)
    assert not caught.value.started


def test_a_function_that_cannot_be_unpickled_is_a_payload_error() -> None:
    odd = CannotUnpickle(SystemExit)
    with pytest.raises(PayloadError) as caught:
        call(lambda m: odd)
    assert caught.value.what == "the function"


def test_a_wrong_name_tells_the_near_ones() -> None:
    with pytest.raises(AttributeError, match="did you mean 'predict'"):
        call("predct")


def test_an_attribute_error_inside_a_property_is_left_alone() -> None:
    with pytest.raises(AttributeError, match="inside"):
        call("broken")
