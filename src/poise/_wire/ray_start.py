"""Joins the Ray that is there, or starts one here and shuts down only that."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import signal
import socket
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

import ray

from poise._wire.door import in_thread
from poise.errors import PoiseError

if TYPE_CHECKING:
    from collections.abc import Callable


_ray: Any = ray  # its own types leave out some of what it takes


class RaySession:
    """A pool's hold on Ray.

    Several pools of a process may hold the Ray that the first of them started or joined; the last one lets go of it.
    A Ray that somebody else initialised is used and left alone.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.holds = False  # turned off before an unfinished `acquire` that has been cancelled looks at it

    async def open(self) -> None:
        """Use the Ray that is initialised, or that RAY_ADDRESS names, or start one here.

        Raises:
            PoiseError: there is none to be had; says why. Cancelling lets go of it again.
        """
        self.holds = True
        try:
            await in_thread(_shared.acquire, self)
        except BaseException:
            await self.aclose()
            raise
        _take_back_sigterm()

    async def aclose(self) -> None:
        """Let go of Ray; shut it down if it was started or joined by a pool and this was the last one."""
        if self.holds:
            self.holds = False
            await in_thread(_shared.release, self)


class _Shared:
    """The one Ray of this process, as far as pools have started or joined it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: set[RaySession] = set()
        self._keeper: _Keeper | None = None

    def acquire(self, holder: RaySession) -> None:
        with self._lock:
            if self._keeper is not None and not ray.is_initialized():
                self._keeper.stop()  # somebody has shut down our Ray; take away what is left of it
                self._keeper = None
                self._holders.clear()
            if not ray.is_initialized():
                self._keeper = _start()
            if holder.holds and self._keeper is not None:
                self._holders.add(holder)
            self._let_go_if_unheld()

    def release(self, holder: RaySession) -> None:
        with self._lock:
            self._holders.discard(holder)
            self._let_go_if_unheld()

    def _let_go_if_unheld(self) -> None:
        if self._keeper is not None and not self._holders:
            keeper, self._keeper = self._keeper, None
            keeper.stop()


class _Keeper:
    """Starts Ray in a thread that lives as long as Ray does.

    Ray's processes ask the kernel to kill them when the *thread* that started them ends (PR_SET_PDEATHSIG), so it must
    not be a passing one.
    """

    def __init__(self, start: Callable[[], object]) -> None:
        self._start = start
        self._started: Future[None] = Future()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="poise-ray", daemon=True)
        self._thread.start()
        try:
            self._started.result()
        except BaseException:
            self._thread.join()
            raise

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        logger = logging.getLogger("ray")
        level, auth_mode = logger.level, os.environ.get("RAY_AUTH_MODE")
        logger.setLevel(logging.ERROR)  # Ray tells at length what it does; its errors are still seen
        try:
            self._start()
        except BaseException as error:  # noqa: BLE001 - it is raised where the keeper is made
            self._started.set_exception(error)
        else:
            self._started.set_result(None)
            self._stop.wait()
        try:
            _shut_down()
        finally:
            logger.setLevel(level)
            _restore_auth_mode(auth_mode)


def _start() -> _Keeper:
    address = os.environ.get("RAY_ADDRESS")
    if address is not None and "://" in address:
        raise PoiseError(
            f"RAY_ADDRESS={address} names a Ray Client server, through which actors cannot be watched; run this "
            "program on a machine of the cluster with RAY_ADDRESS=auto"
        )
    if address:
        _check_reachable(address)
    # "local" and not None: None would join any Ray that somebody runs on this machine.
    options: dict[str, Any] = {"address": address or "local", "log_to_driver": True, "logging_level": logging.ERROR}
    if not address:
        options["include_dashboard"] = False
    try:
        return _Keeper(lambda: _ray.init(**options))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".strip()
        if address:
            raise _cannot_join(address, reason) from error
        raise PoiseError(
            f"cannot start Ray here: {reason}\nTo choose how it starts, call ray.init(...) before the pool is opened"
        ) from error


def _check_reachable(address: str) -> None:
    """Fail at once where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():  # "auto" and the like
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise _cannot_join(address, f"{type(error).__name__}: {error}") from error


def _cannot_join(address: str, reason: str) -> PoiseError:
    return PoiseError(
        f"cannot join the Ray at RAY_ADDRESS={address}: {reason}\nStart Ray there (`ray start --head`), mend "
        "RAY_ADDRESS, or unset it to let the pool start a Ray of its own"
    )


def _shut_down() -> None:
    waits = "wait_for_processes" in inspect.signature(_ray.shutdown).parameters  # Ray 2.60 and later
    _ray.shutdown(**({"wait_for_processes": True} if waits else {}))


def _take_back_sigterm() -> None:
    """Undo what `ray.init` did to a program that handles SIGTERM itself, as every web server does.

    Ray's native handler, which runs first, sets an alarm that aborts the process 3 seconds later, in the middle of what
    the program may have to finish (Abseil's failure signal handler, `alarm_on_failure_secs`).
    """
    if threading.current_thread() is threading.main_thread():  # nobody else may set a handler
        handler = signal.getsignal(signal.SIGTERM)
        if callable(handler):
            signal.signal(signal.SIGTERM, handler)


def _restore_auth_mode(before: str | None) -> None:
    """Undo what `ray.init` did: it turns token authentication on, for this whole process, with a Ray of its own.

    Without this the process could not join a Ray without tokens afterwards.
    """
    if os.environ.get("RAY_AUTH_MODE") == before:
        return
    if before is None:
        del os.environ["RAY_AUTH_MODE"]
    else:
        os.environ["RAY_AUTH_MODE"] = before
    try:
        raylet: Any = importlib.import_module("ray._raylet")
        raylet.Config.initialize("")
    except (ImportError, AttributeError):
        return


_shared: Final = _Shared()
