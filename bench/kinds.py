"""Large values that are no arrays: what P6 measures beside them."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES: Final = (100_000, 1_000_000, 8_000_000, 20_000_000, 64_000_000)
QUICK_SIZES: Final = (1_000_000, 8_000_000, 20_000_000)


def _tensor(size: int) -> Any:
    torch: Any = import_module("torch")
    return torch.zeros(size, dtype=torch.uint8)


def _polars(size: int) -> Any:
    polars: Any = import_module("polars")
    return polars.DataFrame({"a": np.zeros(size // 8)})


def _arrow(size: int) -> Any:
    pyarrow: Any = import_module("pyarrow")
    return pyarrow.table({"a": np.zeros(size // 8)})


def _pandas(size: int) -> Any:
    pandas: Any = import_module("pandas")
    return pandas.DataFrame({"a": np.zeros(size // 8)})


_OF_PACKAGES: Final[dict[str, Callable[[int], Any]]] = {
    "torch": _tensor,
    "polars": _polars,
    "pyarrow": _arrow,
    "pandas": _pandas,
}


def kinds() -> dict[str, Callable[[int], Any]]:
    """What makes a value of so many bytes, by its kind; those of a package only where it is installed."""
    installed = {name: make for name, make in _OF_PACKAGES.items() if find_spec(name) is not None}
    return {
        "bytes": lambda size: b"x" * size,
        "str": lambda size: "x" * size,
        "bytearray": lambda size: bytearray(b"x") * size,
        **installed,
    }
