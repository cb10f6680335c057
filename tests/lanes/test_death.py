"""How a process ended, as far as the kernel tells those who are not its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from poise._lanes.death import ProcessWatch

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system has no pidfd")


@pytest.mark.parametrize(
    ("end", "fate"),
    [
        ("os._exit(3)", "its process exited with code 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "its process was killed by signal 11 (SIGSEGV)"),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "its process was killed by signal 9 (SIGKILL); if nobody sent it, memory ran out: see the kernel's log",
        ),
        ("os.kill(os.getpid(), signal.SIGRTMIN + 1)", f"by signal {signal.SIGRTMIN + 1} (a real-time signal)"),
    ],
)
async def test_the_end_of_a_process_is_told(end: str, fate: str) -> None:
    code = f"sys.stdin.read(); {end}"
    with _start(code) as process:
        watch, ended = _watch(process.pid)
        assert watch.look() is None
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(60):
            await ended.wait()  # nobody has waited for it yet
        assert watch.fate is not None
        assert watch.fate.endswith(fate)


async def test_what_was_not_seen_in_time_is_not_made_up() -> None:
    with _start("sys.stdin.read()") as process:
        watch, _ = _watch(process.pid)
        watch.close()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0
        assert watch.look() is None


def _start(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", f"import os, signal, sys; {code}"], stdin=subprocess.PIPE)


def _watch(pid: int) -> tuple[ProcessWatch, asyncio.Event]:
    ended = asyncio.Event()
    on_exit: Callable[[], None] = ended.set
    return ProcessWatch(pid, asyncio.get_running_loop(), on_exit), ended
