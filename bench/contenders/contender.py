"""What every contender can do."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence


class Missing(Exception):
    """The contender is not installed, or cannot run here; says why."""


class Contender(ABC):
    """A way to have `bench.worker.Worker` work in other processes."""

    key: ClassVar[str]
    label: ClassVar[str]
    needs_ray: ClassVar[bool] = True

    @abstractmethod
    async def open(self, workers: int) -> None:
        """Start so many workers.

        Raises:
            Missing: it cannot run here.
        """

    @abstractmethod
    async def call(self, method: str, *args: Any) -> Any:
        """Call a method on some worker, as its users would, and wait for the result."""

    async def together(self, method: str, values: Sequence[Any]) -> Sequence[Any]:
        """Call a method with each value, all awaited together."""
        return await asyncio.gather(*[self.call(method, value) for value in values])

    @abstractmethod
    async def close(self) -> None:
        """End everything; also after an `open` that failed."""
