"""`poise run`: lines of JSON through a pool, in order, and on where it stopped."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib
import inspect
import json
import os
import signal
import stat
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

import poise
from poise._ray.blocking import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

CHUNK: Final = 1 << 16
"""Bytes that are read at once."""
SYNC_EVERY: Final = 1.0
"""Seconds between two fsyncs: what a power cut may take. A killed process loses nothing that it has written."""
WINDOW: Final = 32
"""Lines that may be on their way, for each worker: enough that none is idle behind one slow line."""
INTERRUPTED: Final = 130


class Failure(Exception):
    """The run cannot begin or go on; the text says why."""

    def __init__(self, text: str, status: int = 1) -> None:
        """End the program with this status."""
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Order:
    """What is to be done with each line."""

    factory: Callable[[], Any] | None
    function: Callable[..., Any] | str
    size: int | None
    timeout: float | None
    retries: int
    records_errors: bool
    recording: Path | None = None


def resolve(target: str) -> tuple[Callable[[], Any] | None, Callable[..., Any] | str]:
    """Find what `module:function` or `module:Class.method` names: the factory, if there is one, and what to call.

    Raises:
        Failure: there is no such thing.
    """
    module_name, colon, path = target.partition(":")
    if not colon or not module_name or not path:
        raise Failure(f"{target!r} names no function: write module:function or module:Class.method", 2)
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise Failure(f"cannot import {module_name!r}: {error}", 2) from error
    owner: Any = None
    for name in path.split("."):
        owner, found = found, getattr(found, name, None)
        if found is None:
            raise Failure(f"{target!r}: {getattr(owner, '__name__', owner)!r} has no {name!r}", 2)
    if inspect.isclass(found):
        raise Failure(f"{target!r} is a class: name one of its methods, as in {target}.method", 2)
    if not callable(found):
        raise Failure(f"{target!r} is not a function", 2)
    if inspect.isclass(owner) and not isinstance(inspect.getattr_static(owner, path.rpartition(".")[2]), staticmethod):
        return owner, path.rpartition(".")[2]
    return None, found


class Feed:
    """One run of `poise run`."""

    def __init__(self, order: Order, source: str, output: Path | None, *, restarts: bool) -> None:
        """Open nothing yet."""
        self._order = order
        self._source = source
        self._output = output
        self._restarts = restarts
        self._written = 0  # lines, by this run
        self._errors = 0
        self._skipped = 0

    def run(self) -> int:
        """Run it and return the exit status.

        Raises:
            Failure: it could not begin, or a line has failed.
        """
        with contextlib.ExitStack() as stack:
            source = sys.stdin.buffer if self._source == "-" else stack.enter_context(open(self._source, "rb"))
            self._refuse_to_overwrite(source)
            out = stack.enter_context(_Output(self._output, restarts=self._restarts))
            self._skipped = out.lines
            if out.lines:
                click.echo(f"{self._output} has {out.lines:,} lines already: going on after them", err=True)
            bar = stack.enter_context(_Bar(source))
            interrupted = False
            try:
                asyncio.run(self._run(source, out, bar))
            except (KeyboardInterrupt, asyncio.CancelledError):
                interrupted = True
            except BrokenPipeError:
                return 0  # whoever read the results has had enough of them
            except poise.PoiseError as error:
                raise Failure(f"{type(error).__name__}: {error}{self._hint()}") from error
            finally:
                bar.end()
        click.echo(self._summary(), err=True)
        if interrupted:
            click.echo(f"interrupted{self._hint()}", err=True)
        return INTERRUPTED if interrupted else 0

    def _refuse_to_overwrite(self, source: BinaryIO) -> None:
        """Keep the input from being taken for earlier results.

        Raises:
            Failure: the output is the input.
        """
        if self._output is not None and self._output.exists():
            there = self._output.stat()
            if stat.S_ISREG(there.st_mode) and os.path.samestat(os.fstat(source.fileno()), there):
                raise Failure(f"{self._output} is the input too: name another file for the output", 2)

    def _summary(self) -> str:
        before = f", {self._skipped:,} had been done before" if self._skipped else ""
        return f"{self._written:,} lines done, {self._errors:,} of them with an error{before}"

    def _hint(self) -> str:
        if self._output is None:
            return "; with -o FILE a run can go on where it stopped"
        return f"; {self._skipped + self._written:,} lines are done, run the same command again to go on after them"

    async def _run(self, source: BinaryIO, out: _Output, bar: _Bar) -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        order = self._order
        lines = aiter(_values(source))
        for done in range(self._skipped):
            line = await anext(lines, None)
            if line is None:
                raise Failure(
                    f"the output has {self._skipped:,} lines and the input only {done:,}: is it the right one?"
                )
            bar.step(line.size)
        first = await anext(lines, None)
        if first is None:
            return  # nothing to do, and no need to start Ray for it
        async with poise.Pool(order.factory, size=order.size, backlog=None, record=order.recording) as pool:
            view = pool.options(timeout=order.timeout, retries=order.retries)
            await self._pump(view, first, lines, pool.stats().size * WINDOW, out, bar)

    async def _pump(
        self, view: poise.View[Any], first: _Line, lines: AsyncIterator[_Line], window: int, out: _Output, bar: _Bar
    ) -> None:
        """Let the pool's `map` read ahead, and write what has become of each line, in order."""
        begun: deque[tuple[_Line, Exception | None]] = deque()  # lines that were read, and what was wrong with them

        def write_unfit() -> None:
            while begun and (error := begun[0][1]) is not None:
                self._write(begun.popleft()[0], error, out, bar)

        async def values() -> AsyncIterator[Any]:
            line: _Line | None = first
            while line is not None:
                try:
                    value = json.loads(line.text)
                except (ValueError, RecursionError) as error:
                    begun.append((line, ValueError(f"this is not JSON: {error}")))
                    write_unfit()
                else:
                    begun.append((line, None))
                    yield value
                line = await anext(lines, None)

        results = view.map(self._order.function, values(), on_error="return", buffersize=window)
        async with contextlib.aclosing(results):
            async for result in results:
                self._write(begun.popleft()[0], result, out, bar)
                write_unfit()

    def _write(self, line: _Line, result: Any, out: _Output, bar: _Bar) -> None:
        error = result if isinstance(result, Exception) else None
        text = b""
        if error is None:
            try:
                text = _json_line(result)
            except (ValueError, TypeError, RecursionError) as unfit:
                error = unfit
        if error is not None:
            if not self._order.records_errors:
                where = f"line {line.number:,}: {type(error).__name__}: {error}"
                raise Failure(f"{where}{self._hint()} (--on-error=record writes the error and goes on)") from error
            self._errors += 1
            text = _json_line({"error": type(error).__name__, "detail": str(error)})
        out.write(text)
        self._written += 1
        bar.step(line.size, has_failed=error is not None)


def _json_line(value: Any) -> bytes:
    """One line of JSON in UTF-8.

    Raises:
        ValueError, TypeError, RecursionError: JSON has no such value.
    """
    line = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    try:
        return line.encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can only name by its number
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n"


@dataclass
class _Line:
    """One line of the input that is not blank."""

    text: bytes
    number: int
    size: int
    """Bytes from the end of the line before it to its own."""


async def _values(source: BinaryIO) -> AsyncIterator[_Line]:
    """The lines that are not blank. A pipe is read in a thread, so that a silent one holds nothing up."""
    descriptor = source.fileno()
    is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    rest: list[bytes] = []  # what has come of a line that is not complete
    number = size = 0
    while chunk := os.read(descriptor, CHUNK) if is_file else await in_thread(os.read, descriptor, CHUNK):
        *complete, tail = chunk.split(b"\n")
        if complete:
            complete[0] = b"".join([*rest, complete[0]])
            rest.clear()
        rest.append(tail)
        for text in complete:
            number += 1
            size += len(text) + 1
            if text.strip():
                yield _Line(text, number, size)
                size = 0
    last = b"".join(rest)
    if last.strip():
        yield _Line(last, number + 1, size + len(last))


class _Output:
    """Where results go. A file is locked, mended, and continued."""

    def __init__(self, path: Path | None, *, restarts: bool) -> None:
        """Open nothing yet."""
        self._path = path
        self._restarts = restarts
        self._synced_at = time.monotonic()
        self._descriptor = -1
        self.lines = 0
        """Complete lines that were there."""

    def __enter__(self) -> _Output:
        """Open the file, take what is complete and cut off what is not.

        Raises:
            Failure: it cannot be written, or somebody else writes it.
        """
        if self._path is None:
            # Standard output is for results alone: what workers print, Ray prints there too, and goes to stderr now.
            self._descriptor = os.dup(1)
            os.dup2(2, 1)
            return self
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise Failure(f"cannot write {self._path}: {error.strerror}", 2) from error
        if stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(self._descriptor)
                raise Failure(f"another run is writing {self._path}") from None
            self._mend()
        return self

    def __exit__(self, *_: object) -> None:
        self._sync()
        if self._path is None:
            os.dup2(self._descriptor, 1)
        os.close(self._descriptor)

    def write(self, line: bytes) -> None:
        """Write one line, so that it is there if this process is killed."""
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        if time.monotonic() - self._synced_at > SYNC_EVERY:
            self._sync()

    def _mend(self) -> None:
        end = 0
        if not self._restarts:
            position = 0
            while chunk := os.read(self._descriptor, CHUNK):
                self.lines += chunk.count(b"\n")
                if (last := chunk.rfind(b"\n")) >= 0:
                    end = position + last + 1
                position += len(chunk)
        os.ftruncate(self._descriptor, end)
        os.lseek(self._descriptor, end, os.SEEK_SET)

    def _sync(self) -> None:
        with contextlib.suppress(OSError):  # a terminal or a pipe
            os.fsync(self._descriptor)
        self._synced_at = time.monotonic()


class _Bar:
    """Progress on standard error: by bytes of a file, by lines of a pipe; nothing where nobody looks."""

    def __init__(self, source: BinaryIO) -> None:
        """Draw nothing yet."""
        status = os.fstat(source.fileno())
        length = status.st_size if stat.S_ISREG(status.st_mode) else None
        self._by_bytes = length is not None
        self._lines = self._failures = 0
        self._bar: Any = None
        self._stack = contextlib.ExitStack()
        if sys.stderr.isatty():
            self._bar = click.progressbar(
                None if self._by_bytes else iter(()),
                length=length,
                file=sys.stderr,
                item_show_func=lambda _: self._told(),
                update_min_steps=1,
                show_pos=False,
            )

    def __enter__(self) -> _Bar:
        if self._bar is not None:
            self._stack.enter_context(self._bar)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def step(self, size: int, *, has_failed: bool = False) -> None:
        """One more line is done."""
        self._lines += 1
        self._failures += has_failed
        if self._bar is not None:
            self._bar.update(size if self._by_bytes else 1, self._lines)

    def _told(self) -> str:
        return f"{self._lines:,} lines" + (f", {self._failures:,} failed" if self._failures else "")

    def end(self) -> None:
        """Leave the line of the bar."""
        self._stack.close()
