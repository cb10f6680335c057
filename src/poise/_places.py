"""Where the programs of one user find each other on one machine."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile

from poise.errors import PoiseError


def own_directory() -> str:
    """The user's own directory, which nobody else can enter; it is made if it is not there.

    Raises:
        PoiseError: it cannot be made, or is somebody else's, who could lead this user's programs to things of theirs.
    """
    directory = _first()
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        fault = _fault(directory)
    except OSError as error:
        raise PoiseError(
            f"cannot make {directory}, where your programs find each other: {error}; set TMPDIR"
        ) from error
    if fault:
        raise PoiseError(f"{fault}; remove it, or set XDG_RUNTIME_DIR")
    return directory


def own_directories() -> list[str]:
    """Every directory that `own_directory` would have given to a program of this user's in another session."""
    user = os.geteuid()
    runtime = f"/run/user/{user}/poise"  # a program that a service or sudo has started may not know of it
    temporary = (os.path.join(each, f"poise-{user}") for each in (tempfile.gettempdir(), "/tmp"))
    return [each for each in dict.fromkeys((_first(), runtime, *temporary)) if _is_own(each)]


def _first() -> str:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime):
        return os.path.join(runtime, "poise")
    return os.path.join(tempfile.gettempdir(), f"poise-{os.geteuid()}")


def _is_own(directory: str) -> bool:
    try:
        return not _fault(directory)
    except OSError:
        return False


def _fault(directory: str) -> str:
    """Why it is not the user's own, if it is not. A link to one is not."""
    found = os.lstat(directory)
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077:
        return ""
    return (
        f"{directory} must be a directory of mode 700 of user {os.geteuid()}, and is of user {found.st_uid}, "
        f"{stat.filemode(found.st_mode)}"
    )
