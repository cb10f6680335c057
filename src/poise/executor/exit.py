"""The end of a program: what its executors have accepted is finished first."""

from __future__ import annotations

import os
import sys
import threading

# Has the thread pool's own exit hook registered before ours, which therefore runs first.
from concurrent.futures import thread as _thread  # noqa: F401  # pyright: ignore[reportUnusedImport]
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from poise.executor.driver import Driver

_threading: Any = threading  # `_register_atexit` is what the executors of the standard library use, and is not typed


class Exit:
    """Finishes what the executors of this process have accepted, before the interpreter ends.

    As in the standard library this happens while threads can still be started, earlier than `atexit`.
    """

    def __init__(self) -> None:
        self.has_begun: bool = False
        self.drivers: set[Driver] = set()
        """Those with a thread that lives."""
        _threading._register_atexit(self._finish)  # noqa: SLF001 - as the standard library's own executors do
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _finish(self) -> None:
        self.has_begun = True
        drivers = list(self.drivers)
        for driver in drivers:
            driver.shut(when="interpreter shutdown")
            if _is_interrupted():
                driver.interrupt()
        interrupted: KeyboardInterrupt | None = None
        for driver in drivers:
            try:
                driver.join()
            except KeyboardInterrupt as error:  # the program is to end, and with it what the others do
                interrupted = error
                for other in drivers:
                    other.interrupt()
        if interrupted is not None:
            raise interrupted

    def _forget(self) -> None:
        for driver in self.drivers:
            driver.forget()
        self.drivers.clear()


def _is_interrupted() -> bool:
    """Whether it is a KeyboardInterrupt that ends the program, and no earlier one that a console has shown."""
    return getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(sys, "ps1")


EXIT: Final = Exit()
