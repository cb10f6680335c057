"""The future of a call that an executor has accepted."""

from __future__ import annotations

from concurrent import futures
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from poise._protocol.outcomes import result_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from poise.executor.driver import Driver

    Order: TypeAlias = tuple[Callable[..., Any] | str, tuple[Any, ...], dict[str, Any], Context | None]

R = TypeVar("R")


class AcceptedCall(futures.Future[R]):
    """A future that tells its driver when it is cancelled."""

    def __init__(self, driver: Driver, order: Order) -> None:
        super().__init__()
        self._driver = driver
        self._may_begin: bool | None = None
        self.order: Order | None = order
        """What to call, and in which context to submit it if that matters, until the pool has been told."""
        self.is_given_up: bool = False
        """Whether it was cancelled; known a little later than by `cancelled()`, and without its lock."""

    def cancel(self) -> bool:
        """Cancel the call if it has not been sent to a worker."""
        if not super().cancel():
            return False
        self.is_given_up = True
        self._driver.tell(self)
        return True

    def result(self, timeout: float | None = None) -> R:
        """Wait for the outcome; see `result_of`."""
        try:
            return result_of(self, timeout)
        finally:
            del self  # as in `result_of`

    def may_begin(self) -> bool:  # runs on the driver's loop
        """Whether the call is to go on; the first answer is the last, and from then on it cannot be cancelled."""
        if self._may_begin is None:
            self._may_begin = self.set_running_or_notify_cancel()
        return self._may_begin
