"""Proxies of `multiprocessing.Manager()`, which travel with the key by which their manager knows them.

Between processes that multiprocessing itself has started they need not, since these share the key.
"""

from __future__ import annotations

import sys
from typing import Any


def reduce_proxy(obj: Any) -> Any:
    """How a manager's proxy is pickled; `NotImplemented` for anything else."""
    managers: Any = sys.modules.get("multiprocessing.managers")
    if managers is None or not isinstance(obj, managers.BaseProxy):
        return NotImplemented
    rebuild, (kind, token, serializer, options) = obj.__reduce__()[:2]
    key: bytes | None = obj._authkey  # noqa: SLF001 - there is no other way to it
    return rebuild, (kind, token, serializer, options if key is None else {**options, "authkey": bytes(key)})
