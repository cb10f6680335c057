"""The package itself: what `import poise` gives."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

import poise
from poise.options import CallArguments, CallOptions, PoolArguments, PoolOptions

if TYPE_CHECKING:
    from tests.faces.conftest import Start


@pytest.mark.parametrize("module", ["asgi", "errors", "testing"])
def test_the_modules_that_users_know_need_no_import_of_their_own(start: Start, module: str) -> None:
    program = start("-c", f"import poise; print(poise.{module}.__name__)")
    out, errors = program.communicate(timeout=60)
    assert (out, errors) == (f"poise.{module}\n", "")


def test_a_worker_that_imports_poise_imports_nothing_else_of_it(start: Start) -> None:
    code = "import poise, sys; print(*(name for name in sys.modules if name.startswith('poise.')))"
    out, errors = start("-c", code).communicate(timeout=60)
    assert (out, errors) == ("\n", "")


@pytest.mark.parametrize("name", poise.__all__)
def test_every_public_name_is_found(name: str) -> None:
    assert getattr(poise, name).__name__ == name
    assert name in dir(poise)


def test_every_error_that_can_be_caught_is_public_and_in_the_tree() -> None:
    kinds = [kind for kind in vars(poise.errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 10
    for kind in kinds:
        assert getattr(poise, kind.__name__) is kind
        assert f" {kind.__name__} " in f" {poise.errors.__doc__} ".replace("\n", " ")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = poise.nothing


def test_every_option_is_typed_once_and_explained_with_its_default() -> None:
    faces: list[tuple[Any, Any, Any]] = [
        (PoolArguments, PoolOptions, poise.Pool.__init__),
        (CallArguments, CallOptions, poise.View.options),
    ]
    for arguments, options, function in faces:
        fields = dataclasses.fields(options)
        assert arguments.__annotations__.keys() == {field.name for field in fields}
        for field in fields:
            default = field.default_factory() or None if callable(field.default_factory) else field.default
            shown = f'"{default}"' if isinstance(default, str) else str(default)
            assert f"            {field.name} ({shown}): " in function.__doc__.replace("_000", "000"), field.name
