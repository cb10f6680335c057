"""The package itself: what `import poise` gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import poise

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


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = poise.nothing
