"""Joins the Ray that is there, or has one started here, and lets go of it with the last pool."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

import ray

from poise._ray.blocking import in_thread, in_thread_within
from poise._ray.forks import forks, refuse_forked
from poise._ray.here import here, share_ray, start_ray
from poise._ray.init import HERE, LOCAL, address_of, options_to_join, refuse_client
from poise._ray.prints import bring_plainly
from poise._ray.quiet import quieten
from poise.errors import ConfigError, PoiseError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from poise._ray.here import RayHold

_ray: Any = ray  # its own types leave out some of what it takes
_log = logging.getLogger("poise")

LETTING_GO: Final = 15.0
"""Seconds for which Ray's end is waited for where a pool could not be opened."""


class RaySession:
    """A pool's hold on Ray.

    Several pools of a process may hold the Ray that the first of them started or joined; the last one lets go of it.
    A Ray that somebody else initialised is used and left alone.
    """

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        """Hold nothing yet.

        Args:
            options: for `ray.init`.
        """
        self.options: Mapping[str, Any] = options or {}
        self.holds = False  # turned off before an unfinished `acquire` that has been cancelled looks at it

    async def open(self) -> None:
        """Use the Ray that is initialised, or the one that is named, or have one started here.

        Raises:
            PoiseError: there is none to be had; says why. Cancelling lets go of it again.
            WrongLoop: this process was forked from one whose Ray was connected.
        """
        refuse_forked()
        refuse_client()
        self.holds = True
        try:
            await in_thread(_shared.acquire, self)
        except BaseException:
            await self.aclose()
            raise
        _take_back_sigterm()

    async def aclose(self, within: float = LETTING_GO) -> None:
        """Let go of Ray; leave or end it if a pool joined or started it and this was the last one.

        A Ray that has not answered within so many seconds is left to the thread that waits for it.
        """
        if self.holds:
            self.holds = False
            await in_thread_within(within, "for Ray to end", _shared.release, self)


class _Shared:
    """The one Ray of this process, as far as pools have started or joined it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: set[RaySession] = set()
        self._joined: _Joined | None = None
        self._wanted_by: set[RaySession] = set()
        """Those in `acquire` that were not released meanwhile."""
        self._joining: _Joined | None = None

    def acquire(self, holder: RaySession) -> None:
        left: _Joined | None = None
        self._wanted_by.add(holder)
        try:
            with self._lock:
                if self._joined is not None and not ray.is_initialized():
                    left, self._joined = self._joined, None  # somebody has shut down our Ray
                    self._holders.clear()
                if not holder.holds:
                    return
                if ray.is_initialized():
                    _heed(holder.options, None if self._joined is None else self._joined.options)
                else:
                    self._joined = self._join(holder.options)
                if holder in self._wanted_by and self._joined is not None:
                    self._holders.add(holder)
                left = self._leave_if_unheld() or left
        finally:
            self._wanted_by.discard(holder)
            if left is not None:
                left.let_go()

    def _join(self, options: Mapping[str, Any]) -> _Joined:
        self._joining = joining = _Joined(options)
        try:
            joining.join()
        finally:
            self._joining = None
        return joining

    def release(self, holder: RaySession) -> None:
        self._wanted_by.discard(holder)
        joining = self._joining
        if joining is not None and not self._wanted_by:
            joining.abort()  # nobody waits for it any more
        with self._lock:
            self._holders.discard(holder)
            left = self._leave_if_unheld()
        if left is not None:
            left.let_go()

    def _leave_if_unheld(self) -> _Joined | None:
        if self._joined is None or self._holders:
            return None
        left, self._joined = self._joined, None
        left.leave()
        return left


class _Joined:
    """This process is connected to a Ray by a pool."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self._hold: RayHold | None = None
        self._is_aborted = False
        self._speak: Callable[[], None] | None = None
        self._logger = logging.getLogger("ray")
        self._level, self._auth_mode = self._logger.level, os.environ.get("RAY_AUTH_MODE")

    def join(self) -> None:
        """Join the Ray that is named, or have one started.

        Raises:
            PoiseError: that is not possible; says why.
        """
        address, source = address_of(self.options, is_here_held=here.hold is not None)
        forks.is_connecting = True
        try:
            self._join(address, source)
        except BaseException:
            self.leave()
            self.let_go()
            raise
        finally:
            forks.is_connecting = False

    def _join(self, address: str, source: str) -> None:
        is_ours = address in {LOCAL, HERE}
        if is_ours:
            self._hold = hold = share_ray(self.options) if address == HERE else start_ray(self.options)
            if self._is_aborted:
                hold.abort()
            address, auth_mode = hold.wait()
            _set_auth_mode(auth_mode)
        else:
            _check_reachable(address, source)
        self._logger.setLevel(logging.ERROR)  # Ray tells at length what it does; its errors are still seen
        try:
            _ray.init(**options_to_join(self.options, is_started_by_us=is_ours), address=address)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".strip()
            if is_ours:
                raise PoiseError(f"Ray has started at {address} and cannot be used: {reason}") from error
            if _is_about_tokens(error):
                raise _token_missing(address, source) from error
            raise _cannot_join(address, source, reason) from error
        self._speak = quieten()
        bring_plainly()

    def abort(self) -> None:  # while another thread joins
        """Have `join` fail soon."""
        self._is_aborted = True
        if self._hold is not None:
            self._hold.abort()

    def leave(self) -> None:
        """Disconnect this process."""
        try:
            _ray.shutdown()
        finally:
            if self._speak is not None:
                self._speak()
            self._logger.setLevel(self._level)
            _set_auth_mode(self._auth_mode)

    def let_go(self) -> None:
        """Let the Ray that was started for this process end."""
        if self._hold is not None:
            self._hold.close()


def _heed(options: Mapping[str, Any], others: Mapping[str, Any] | None) -> None:
    """Say that options for `ray.init` have no effect where Ray is initialised already.

    Raises:
        ConfigError: they name another Ray.
    """
    if not options or options == others:
        return
    current: str = _ray.get_runtime_context().gcs_address
    address: str | None = options.get("address")
    if address is not None and address.rpartition(":")[2].isdecimal() and address != current:
        raise ConfigError("ray_init['address']", address, f"this process is connected to the Ray at {current}")
    by = "the program" if others is None else "a pool with other options"
    _log.warning("ray_init has no effect: Ray was initialised by %s. Not heeded: %s", by, ", ".join(options))


def _check_reachable(address: str, source: str) -> None:
    """Fail at once where nobody listens, or whoever listens asks for another token: Ray itself would try on and on."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():  # "auto" and the like
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise _cannot_join(address, source, f"{type(error).__name__}: {error}") from error
    if is_token_refused(address):
        raise _token_missing(address, source)


def is_token_refused(address: str) -> bool:
    """Whether the Ray at this address does not let this process in for want of its token."""
    raylet: Any = importlib.import_module("ray._raylet")
    if not hasattr(raylet, "GcsClient"):
        return False
    try:
        raylet.GcsClient(address=address)
    except Exception as error:  # noqa: BLE001 - whatever else it is, `ray.init` meets it too and tells it better
        return _is_about_tokens(error)
    return False


def _is_about_tokens(error: BaseException | None) -> bool:
    """Whether an error of Ray's, or one behind it, says that the token is missing or another."""
    while error is not None:
        if type(error).__name__ == "AuthenticationError" or "InvalidAuthToken" in str(error):
            return True  # the class is there since Ray 2.52
        error = error.__context__ if error.__cause__ is None else error.__cause__
    return False


def _token_missing(address: str, source: str) -> PoiseError:
    return PoiseError(f"cannot join the Ray at {source}={address}: {TOKEN_REMEDY}")


TOKEN_REMEDY: Final = (
    "it takes only those who have its token, and the token of this process is missing or another. Set "
    "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the token, or RAY_AUTH_TOKEN_PATH to a file that holds it; without "
    "either Ray reads ~/.ray/auth_token. Where Ray was started, `ray get-auth-token` prints it"
)


def _cannot_join(address: str, source: str, reason: str) -> PoiseError:
    return PoiseError(
        f"cannot join the Ray at {source}={address}: {reason}\nStart Ray there (`ray start --head`), mend "
        f"{source}, or unset it to let the pool start a Ray of its own"
    )


def _take_back_sigterm() -> None:
    """Undo what `ray.init` did to a program that handles SIGTERM itself, as every web server does.

    Ray's native handler, which runs first, sets an alarm that aborts the process 3 seconds later, in the middle of what
    the program may have to finish (Abseil's failure signal handler, `alarm_on_failure_secs`).
    """
    if threading.current_thread() is threading.main_thread():  # nobody else may set a handler
        handler = signal.getsignal(signal.SIGTERM)
        if callable(handler):
            signal.signal(signal.SIGTERM, handler)


def _set_auth_mode(mode: str | None) -> None:
    """Have this process show Ray a token, or none, from now on.

    A Ray that poise starts asks for a token if Ray's defaults say so. Afterwards it is undone: with tokens on, the
    process could not join a Ray without them.
    """
    if os.environ.get("RAY_AUTH_MODE") == mode:
        return
    if mode is None:
        del os.environ["RAY_AUTH_MODE"]
    else:
        os.environ["RAY_AUTH_MODE"] = mode
    try:
        raylet: Any = importlib.import_module("ray._raylet")
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()
    except (ImportError, AttributeError):
        return


_shared: Final = _Shared()
