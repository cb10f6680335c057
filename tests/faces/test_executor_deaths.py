"""The executor when workers die, at any point of a call, and when values cannot travel: nothing hangs, and it heals."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import os
import pickle
import signal
import threading
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

import poise
from tests.gate import Gate, leave_mark, wait_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("shared_ray")

WITHIN = 60.0
"""Seconds in which every future must end."""


@pytest.fixture(scope="module")
def executor(shared_ray: None) -> Iterator[poise.Executor[None]]:
    """One for the whole module: whatever a test does to its workers, the next one must find it healed."""
    with poise.Executor(2) as executor:
        yield executor
    assert not [thread for thread in threading.enumerate() if thread.name == "poise-executor"]


@pytest.fixture(autouse=True)
def heals(executor: poise.Executor[None]) -> Iterator[None]:
    yield
    assert list(executor.map(pow, range(20), [2] * 20, timeout=WITHIN)) == [n * n for n in range(20)]


def die(*_: Any) -> NoReturn:
    os._exit(1)


def fail(*_: Any) -> NoReturn:
    raise ValueError("not here")


class DiesWhenUnpickled:
    def __reduce__(self) -> tuple[Any, ...]:
        return die, ()


class FailsWhenUnpickled:
    def __reduce__(self) -> tuple[Any, ...]:
        return fail, ()


class DiesWhenPickled:
    def __reduce__(self) -> NoReturn:
        os._exit(1)


class FailsWhenPickled:
    def __reduce__(self) -> NoReturn:
        raise ValueError("stays here")


def own_pid(gate: str) -> int:
    leave_mark(gate, os.getpid())
    wait_at(gate)
    return os.getpid()


async def pid_at(gate: Gate) -> int:
    return int((await gate.reached())[0])


def echo(value: Any) -> Any:
    return value


def leave() -> NoReturn:
    raise SystemExit(3)


def interrupt() -> NoReturn:
    raise KeyboardInterrupt


# ---------------------------------------------------------------- deaths


@pytest.mark.parametrize(
    ("function", "arguments"),
    [(die, ()), (echo, (DiesWhenUnpickled(),)), (DiesWhenPickled, ())],
    ids=["while it runs", "while it unpickles the arguments", "while it pickles the result"],
)
def test_a_worker_that_dies_fails_only_its_call(
    executor: poise.Executor[None], function: Any, arguments: tuple[Any, ...]
) -> None:  # G9
    before = [executor.submit(pow, 2, number) for number in range(10)]
    lost = executor.submit(function, *arguments)
    after = [executor.submit(pow, 2, number) for number in range(10)]
    assert isinstance(lost.exception(WITHIN), poise.WorkerLost)
    assert [future.result(WITHIN) for future in [*before, *after]] == [2**n for n in range(10)] * 2


async def test_a_worker_that_is_killed_fails_only_its_call(executor: poise.Executor[None], gate: Gate) -> None:
    lost = executor.submit(own_pid, gate.path)
    os.kill(await pid_at(gate), signal.SIGKILL)
    error = lost.exception(WITHIN)
    assert isinstance(error, poise.WorkerLost)
    assert isinstance(error, BrokenProcessPool), "which programs of the original catch"
    assert (error.started, "submit it again" in str(error)) == (True, True)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.reason) == (type(error), str(error), error.reason)


def test_a_shutdown_ends_although_workers_die(shared_ray: None) -> None:
    with poise.Executor(2) as executor:
        futures = [executor.submit(die if number % 3 == 0 else os.getpid) for number in range(9)]
    assert all(future.done() for future in futures)
    assert all(isinstance(future.exception(), poise.WorkerLost) for future in futures[::3])
    assert not [future for future in futures[1::3] + futures[2::3] if future.exception()]


def test_a_shutdown_that_does_not_wait_ends_although_a_value_cannot_travel(shared_ray: None) -> None:
    executor = poise.Executor(1)
    futures = [executor.submit(echo, FailsWhenPickled()), executor.submit(echo, 1)]
    executor.shutdown(wait=False)
    assert isinstance(futures[0].exception(WITHIN), poise.PayloadError)
    assert futures[1].result(WITHIN) == 1
    executor.shutdown()


async def test_eight_threads_go_on_while_a_worker_is_killed(shared_ray: None, gate: Gate) -> None:
    with poise.Executor(2) as executor:
        first = executor.submit(own_pid, gate.path)
        pid = await pid_at(gate)

        def submit(thread: int) -> list[cf.Future[int]]:
            futures = [executor.submit(pow, number, 2) for number in range(5_000)]
            if thread == 0:
                futures[1_000].result(WITHIN)
                os.kill(pid, signal.SIGKILL)
            return futures

        with cf.ThreadPoolExecutor(8) as threads:
            gate.open()
            submitted = list(threads.map(submit, range(8)))
        futures = [future for each in submitted for future in each]
        assert not cf.wait(futures, timeout=WITHIN).not_done
        lost = [future for future in futures if future.exception() is not None]
        assert all(isinstance(future.exception(), poise.WorkerLost) for future in lost)
        for each in submitted:
            results = [None if future in lost else future.result() for future in each]
            assert [r for r in results if r is not None] == [n * n for n, r in enumerate(results) if r is not None]
        assert first.done()
        assert len(lost) < len(futures) / 10, "calls that had not begun are moved, not lost"
        assert executor.submit(pow, 3, 2).result(WITHIN) == 9


# ---------------------------------------------------------------- what cannot travel


@pytest.mark.parametrize("make", [FailsWhenPickled, FailsWhenUnpickled, threading.Lock])
def test_an_argument_that_cannot_travel_fails_only_its_call(executor: poise.Executor[None], make: Any) -> None:
    failed, other = executor.submit(echo, make()), executor.submit(echo, 1)
    error = failed.exception(WITHIN)
    assert isinstance(error, poise.PayloadError)
    assert not error.started
    assert other.result(WITHIN) == 1


@pytest.mark.parametrize("make", [FailsWhenPickled, FailsWhenUnpickled, threading.Lock])
def test_a_result_that_cannot_travel_fails_only_its_call(executor: poise.Executor[None], make: Any) -> None:
    failed, other = executor.submit(make), executor.submit(echo, 1)
    error = failed.exception(WITHIN)
    assert isinstance(error, poise.PayloadError)
    assert error.started
    assert other.result(WITHIN) == 1


class RefusesToBePickled:
    def __reduce__(self) -> NoReturn:
        raise pickle.PicklingError("stays here")


def test_a_value_that_cannot_travel_fails_as_in_the_original_too(executor: poise.Executor[None]) -> None:
    for refused in (executor.submit(echo, RefusesToBePickled()), executor.submit(RefusesToBePickled)):
        error = refused.exception(WITHIN)
        assert isinstance(error, poise.PayloadError)
        assert isinstance(error, pickle.PicklingError)
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), copy.what) == (type(error), str(error), error.what)
    for refused in (executor.submit(echo, threading.Lock()), executor.submit(threading.Lock)):
        assert isinstance(refused.exception(WITHIN), TypeError)


def test_a_function_that_cannot_travel_fails_only_its_call(executor: poise.Executor[None]) -> None:
    lock = threading.Lock()
    failed, other = executor.submit(lambda: lock), executor.submit(echo, 1)
    assert isinstance(failed.exception(WITHIN), poise.PayloadError)
    assert other.result(WITHIN) == 1


def test_a_call_that_wants_to_end_the_program_ends_itself(executor: poise.Executor[None]) -> None:
    error = executor.submit(leave).exception(WITHIN)
    assert isinstance(error, SystemExit)
    assert error.code == 3
    assert "raise SystemExit(3)" in str(error.__cause__)
    assert isinstance(executor.submit(interrupt).exception(WITHIN), KeyboardInterrupt)


def test_the_workers_of_an_executor_can_be_killed(shared_ray: None, tmp_path: Path) -> None:
    for end in (poise.Executor.kill_workers, poise.Executor.terminate_workers):
        gate = Gate(tmp_path / end.__name__)
        other = poise.Executor(1)
        running, waiting = other.submit(own_pid, gate.path), other.submit(echo, 1)
        asyncio.run(gate.reached())
        end(other)
        with pytest.raises(cf.CancelledError):
            waiting.result(WITHIN)
        assert isinstance(running.exception(WITHIN), poise.WorkerLost)
        with pytest.raises(RuntimeError, match="after shutdown"):
            other.submit(echo, 1)
        other.shutdown()


def test_large_values_travel(executor: poise.Executor[None]) -> None:
    data = os.urandom(20_000_000)
    assert executor.submit(echo, data).result(WITHIN) == data


# ---------------------------------------------------------------- workers of their own


class Model:
    """Knows in which process it is."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def scale(self, number: int) -> int:
        return self.factor * number

    def home(self) -> int:
        return os.getpid()


def test_workers_hold_what_the_factory_makes(shared_ray: None) -> None:
    with poise.Executor(lambda: Model(3), max_workers=2) as executor:
        assert executor.submit(Model.home).result() != os.getpid()
        assert list(executor.map(Model.scale, range(30), chunksize=4)) == [3 * n for n in range(30)]


def test_an_initializer_that_fails_breaks_the_executor(shared_ray: None, tmp_path: Path) -> None:
    with poise.Executor(1, initializer=fail) as executor:
        error = executor.submit(echo, 1).exception(WITHIN)
        assert isinstance(error, poise.ExecutorBroken)
        assert isinstance(error, BrokenProcessPool)
        assert isinstance(error.__cause__, ValueError)
