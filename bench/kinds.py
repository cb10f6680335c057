"""Large values that are no arrays: what P6 measures beside them."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES: Final = (100_000, 1_000_000, 8_000_000, 20_000_000, 64_000_000)
QUICK_SIZES: Final = (1_000_000, 8_000_000, 20_000_000)


def _tensor(size: int) -> Any:
    import torch

    return torch.zeros(size, dtype=torch.uint8)


def _polars(size: int) -> Any:
    import polars

    return polars.DataFrame({"a": np.zeros(size // 8)})


def _arrow(size: int) -> Any:
    import pyarrow

    return pyarrow.table({"a": np.zeros(size // 8)})


def _pandas(size: int) -> Any:
    import pandas

    return pandas.DataFrame({"a": np.zeros(size // 8)})


_OF_PACKAGES: Final[dict[str, Callable[[int], Any]]] = {
    "torch": _tensor,
    "polars": _polars,
    "pyarrow": _arrow,
    "pandas": _pandas,
}


def kinds() -> dict[str, Callable[[int], Any]]:
    """What makes a value of so many bytes, by its kind; those of a package only where it is installed."""
    installed = {name: make for name, make in _OF_PACKAGES.items() if importlib.util.find_spec(name) is not None}
    return {
        "bytes": lambda size: b"x" * size,
        "str": lambda size: "x" * size,
        "bytearray": lambda size: bytearray(b"x") * size,
        **installed,
    }
