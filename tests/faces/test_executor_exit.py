"""The executor in programs that end, with work pending or in the wrong order: they finish it, and none hangs."""

from __future__ import annotations

import os
import signal
import textwrap
import time
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faces.conftest import Start

WITHIN = 90.0
"""Seconds that a program may take; starting Ray is most of it."""

LOCAL = """
import atexit, gc, os, sys, threading, time
import poise
from poise.testing import LocalPool

class Executor(poise.Executor):
    def _make_pool(self, factory, **options):
        return LocalPool(factory, **options)

def work(number, seconds=0.05):
    time.sleep(seconds)
    sys.stdout.write(f"done {number}\\n")  # in one piece, beside another thread's
    sys.stdout.flush()
    return number
"""
"""Begins programs whose workers live in the same process."""


def run(start: Start, tmp_path: Path, text: str) -> list[str]:
    """Run a program to its end and return the lines that it printed; it must not complain."""
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(text))
    program = start("-W", "error" if text.startswith(LOCAL) else "default", str(script))
    output, errors = program.communicate(timeout=WITHIN)
    assert (program.returncode, errors) == (0, "")
    return output.splitlines()


def test_a_program_that_ends_finishes_what_was_submitted(start: Start, tmp_path: Path) -> None:
    program = """
executor = Executor(2)
for number in range(10):
    executor.submit(work, number)
print("end of the program", flush=True)
"""
    first, *rest = run(start, tmp_path, LOCAL + program)
    assert first == "end of the program"
    assert sorted(rest) == sorted(f"done {number}" for number in range(10))


def test_a_program_that_ends_after_a_shutdown_that_did_not_wait_finishes_too(start: Start, tmp_path: Path) -> None:
    program = """
executor = Executor(1)
executor.submit(work, 1).add_done_callback(lambda future: print("called back", flush=True))
executor.shutdown(wait=False)
"""
    assert run(start, tmp_path, LOCAL + program) == ["done 1", "called back"]


def test_a_program_that_ends_does_not_wait_for_what_was_cancelled(start: Start, tmp_path: Path) -> None:
    program = """
executor = Executor(1)
futures = [executor.submit(work, number) for number in range(10)]
while not futures[0].running():
    time.sleep(0.001)
executor.shutdown(wait=False, cancel_futures=True)
"""
    assert run(start, tmp_path, LOCAL + program) == ["done 0"]


def test_nothing_is_accepted_once_the_program_ends(start: Start, tmp_path: Path) -> None:
    program = """
executor, unused = Executor(1), Executor(1)
executor.submit(work, 1).result()

def late():
    for each in (executor, unused):
        try:
            each.submit(work, 2)
        except RuntimeError as error:
            print(error)

atexit.register(late)
"""
    assert run(start, tmp_path, LOCAL + program) == [
        "done 1",
        *["cannot schedule new futures after interpreter shutdown"] * 2,
    ]


def test_a_thread_that_outlives_the_main_one_is_refused(start: Start, tmp_path: Path) -> None:
    program = """
executor = Executor(1)
executor.submit(work, 1).result()
main = threading.main_thread()

def late():
    main.join()
    for _ in range(10_000):
        try:
            executor.submit(int)
        except RuntimeError as error:
            print(error)
            return
        time.sleep(0.001)

threading.Thread(target=late).start()
"""
    assert run(start, tmp_path, LOCAL + program) == [
        "done 1",
        "cannot schedule new futures after interpreter shutdown",
    ]


def test_a_forked_child_is_told_to_make_its_own(start: Start, tmp_path: Path) -> None:
    program = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # a fork while threads run
executor = Executor(1)
executor.submit(work, 1).result()
child = os.fork()
if child == 0:
    try:
        executor.submit(work, 2)
    except RuntimeError as error:
        print(str(error).partition(" was ")[2].partition(":")[0].replace(str(os.getppid()), "N"), flush=True)
    executor.shutdown()
    del executor
    with Executor(1) as other:
        other.submit(work, 3).result()
    sys.exit()
os.waitpid(child, 0)
executor.submit(work, 4).result()
"""
    assert run(start, tmp_path, LOCAL + program) == [
        "done 1",
        "forked from process N, which has started this executor",
        "done 3",
        "done 4",
    ]


@pytest.mark.timeout(WITHIN + 60)
def test_a_program_with_real_workers_finishes_its_calls_although_one_dies(start: Start, tmp_path: Path) -> None:
    program = """
        import logging, os, time
        import poise

        logging.getLogger("poise").setLevel(logging.ERROR)  # it warns of the death, as it should

        def work(number):
            if number == 3:
                os._exit(1)
            time.sleep(0.01)
            return number

        def tell(future):
            print("outcome", type(future.exception()).__name__ if future.exception() else future.result(), flush=True)

        executor = poise.Executor(2)
        for number in range(10):
            executor.submit(work, number).add_done_callback(tell)
        executor.submit(time.sleep, 0).result()
    """
    outcomes = {
        line.split()[1] for line in run(start, tmp_path, program) if line.startswith("outcome")
    }  # Ray prints too
    assert outcomes == {*(str(number) for number in range(10) if number != 3), "ExecutorWorkerLost"}


SLOW = """
import asyncio, os, sys, time
import poise

def item(n, log):
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(600)

log = sys.argv[1]
"""

INTERRUPTED = {
    "in a block": """
with poise.Executor(2) as executor:
    list(executor.map(item, range(9), [log] * 9))
""",
    "without a block": """
executor = poise.Executor(2)
futures = [executor.submit(item, n, log) for n in range(9)]
futures[0].result()
""",
    "in a coroutine": """
async def main():
    with poise.Executor(2) as executor:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(executor, item, n, log) for n in range(9)))

asyncio.run(main())
""",
    "while it shuts down": """
executor = poise.Executor(2)
futures = [executor.submit(item, n, log) for n in range(9)]
executor.shutdown()
""",
}


@pytest.mark.timeout(WITHIN + 60)
@pytest.mark.parametrize("where", INTERRUPTED)
def test_one_interrupt_of_the_whole_group_ends_the_program_and_its_workers(
    start: Start, join: Start, tmp_path: Path, where: str
) -> None:
    log, script = tmp_path / "log", tmp_path / "program.py"
    log.touch()
    script.write_text(SLOW + INTERRUPTED[where])
    program = (start if where == "in a block" else join)(str(script), str(log))  # one with a Ray in its group
    while len(log.read_text().split()) < 2:
        assert program.poll() is None
        time.sleep(0.05)
    family = psutil.Process(program.pid).children(recursive=True)
    family += [psutil.Process(int(worker)) for worker in log.read_text().split()]
    os.killpg(program.pid, signal.SIGINT)
    _, errors = program.communicate(timeout=WITHIN)
    assert "KeyboardInterrupt" in errors
    assert program.returncode in {-signal.SIGINT, 1}  # CPython forgets the cause if anything calls exec() at the end
    assert len(log.read_text().split()) == 2, "what had not begun never did"
    _, alive = psutil.wait_procs(family, timeout=WITHIN)
    assert not alive


PATIENT = """
from poise.executor import driver

driver.INTERRUPTED_FOR = 600.0  # so that the first interrupt alone does not end what runs
interrupt = driver.Driver.interrupt

def interrupt_and_tell(self):
    interrupt(self)
    print("heard", flush=True)

driver.Driver.interrupt = interrupt_and_tell
"""

INTERRUPTED_TWICE = {
    **INTERRUPTED,
    "two at the end": """
executors = [poise.Executor(1) for _ in range(2)]
futures = [executor.submit(item, n, log) for n in range(9) for executor in executors]
futures[0].result()
""",
}


@pytest.mark.timeout(WITHIN + 60)
@pytest.mark.parametrize("where", INTERRUPTED_TWICE)
def test_a_second_interrupt_ends_what_runs_at_once(join: Start, tmp_path: Path, where: str) -> None:
    log, script = tmp_path / "log", tmp_path / "program.py"
    log.touch()
    script.write_text(SLOW + PATIENT + INTERRUPTED_TWICE[where])
    program = join(str(script), str(log))
    while len(log.read_text().split()) < 2:
        assert program.poll() is None
        time.sleep(0.05)
    workers = [psutil.Process(int(worker)) for worker in log.read_text().split()]
    program.send_signal(signal.SIGINT)
    assert program.stdout is not None
    for _ in range(2 if where == "two at the end" else 1):
        assert program.stdout.readline() == "heard\n"
    assert [worker.is_running() for worker in workers] == [True, True]
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=WITHIN)
    assert "KeyboardInterrupt" in errors
    assert len(log.read_text().split()) == 2, "what had not begun never did"
    _, alive = psutil.wait_procs(workers, timeout=WITHIN)
    assert not alive
