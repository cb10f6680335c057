"""What all parts of a run share: its size, its progress, Ray, and the opening and closing of contenders."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import time
import traceback
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import ray

from bench.contenders.contender import Missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from bench.contenders.contender import Contender

_ray: Any = ray

WORKERS: Final = 2
"""In every part that does not say otherwise."""
OPEN_TIMEOUT: Final = 60.0
"""Seconds that the start of a contender may take before it counts as failed in this round."""


@contextlib.contextmanager
def own_ray(cpus: int) -> Iterator[None]:
    """Have a Ray of our own with room for so many actors, for a part that is measured alone."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns of a change of its own to come
    _ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        _ray.shutdown()


class Absent(Exception):
    """A contender was not measured; the session has noted why."""


class Session:
    """One run of the bench."""

    def __init__(self, *, quick: bool) -> None:
        """Start nothing yet."""
        self.quick = quick
        self.troubles: dict[str, str] = {}
        """Why a contender is missing or has failed, by its label."""
        self.missing: set[type[Contender]] = set()
        """Those that are not tried again; one that has failed has another chance in the next round."""
        self._began = time.monotonic()

    def choose(self, full: int, quick: int) -> int:
        """A number for the full run or the quick one."""
        return quick if self.quick else full

    def say(self, text: str) -> None:
        """Show progress."""
        print(f"{time.monotonic() - self._began:6.1f} s  {text}", file=sys.stderr, flush=True)

    def trouble(self, label: str, reason: str) -> None:
        """Note why something was not measured; the report lists it."""
        self.troubles[label] = reason
        self.say(f"{label}: {reason}")

    def start_ray(self) -> None:
        """Have a Ray of our own, as a user's `ray.init()` would start it, but for the dashboard."""
        if not _ray.is_initialized():
            self.say("starting Ray")
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns of a change of its own to come
            _ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    def close(self) -> None:
        """Shut Ray down."""
        if _ray.is_initialized():
            with contextlib.suppress(TypeError):
                _ray.shutdown(wait_for_processes=True)  # Ray 2.60 and later
            _ray.shutdown()

    def in_turn(self, kinds: Sequence[type[Contender]], turn: int) -> list[type[Contender]]:
        """Those that can be measured, in an order that is rotated from round to round."""
        present = [kind for kind in kinds if kind not in self.missing]
        shift = turn * 5 % max(1, len(present))
        return present[shift:] + present[:shift]

    @asynccontextmanager
    async def visit(self, kind: type[Contender], workers: int = WORKERS) -> AsyncIterator[Contender]:
        """Open a contender, and close it whatever happens.

        Raises:
            Absent: it cannot run here, or has failed: that is noted for the report.
        """
        if kind.needs_ray:
            self.start_ray()
        contender = kind()
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                await contender.open(workers)
            gc.collect()
            yield contender
        except Missing as missing:
            self.missing.add(kind)
            self.trouble(kind.label, f"missing: {missing}")
            raise Absent from missing
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            self.trouble(kind.label, f"failed: {type(error).__name__}: {error}")
            raise Absent from error
        finally:
            try:
                await contender.close()
            except Exception as error:  # noqa: BLE001 - the next contender's turn comes whatever this one does
                self.say(f"{kind.label} did not close: {type(error).__name__}: {error}")
