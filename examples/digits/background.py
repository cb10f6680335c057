"""The service as a process of its own, on a free port, that never outlives the demo."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from examples.digits.serve import listen

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[2]

STOP_WITHIN = 20.0
"""Seconds that it has to close its pool and Ray when it is told to stop."""


class Service:
    """A service that runs in the background."""

    def __init__(self, url: str, process: Process, log: IO[bytes]) -> None:
        """Made by `background`."""
        self.url = url
        self._process = process
        self._log = log

    @property
    def is_running(self) -> bool:
        """Whether its process is alive."""
        return self._process.returncode is None

    def last_words(self, lines: int = 30) -> str:
        """The end of what it has written."""
        self._log.seek(0)
        return "\n".join(self._log.read().decode(errors="replace").splitlines()[-lines:])

    async def stop(self) -> None:
        """Let it close, and kill it if it does not."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_WITHIN):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def background(workers: int) -> AsyncIterator[Service]:
    """Run the service for as long as the block lasts. It may not be ready yet when the block begins."""
    command = [sys.executable, "-m", "examples.digits", "serve", "--workers", str(workers)]
    with tempfile.TemporaryFile() as log:
        with listen("127.0.0.1", 0) as taken:
            port = taken.getsockname()[1]
            # In a session of its own it does not see Ctrl-C. It stops at the end of its standard input, which comes
            # when we close the pipe, and just as well when we die in whatever way.
            process = await asyncio.create_subprocess_exec(
                *command,
                f"--fd={taken.fileno()}",
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[taken.fileno()],
                start_new_session=True,
            )
        service = Service(f"http://127.0.0.1:{port}", process, log)
        try:
            yield service
        finally:
            await service.stop()
