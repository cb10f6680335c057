"""What programs that were written for `ProcessPoolExecutor` look for: its errors, its attributes, its managers."""

# ruff: noqa: SLF001 - what has no public name in the original, programs read all the same

from __future__ import annotations

import concurrent.futures as cf
import logging
import multiprocessing
import os
import pickle
from concurrent.futures import process
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

import poise
from tests.gate import Gate, wait_at

if TYPE_CHECKING:
    from collections.abc import Iterator

WITHIN = 60.0


@pytest.fixture(scope="module")
def executor(shared_ray: None) -> Iterator[poise.Executor[None]]:
    with poise.Executor(2) as executor:
        yield executor


def die() -> NoReturn:
    os._exit(3)


def refuse() -> NoReturn:
    raise ValueError("refused")


def put(queue: Any, value: int) -> None:
    queue.put(value)


def append(values: Any, count: int) -> Any:
    values.append(count)
    return values


def processes_of(executor: Any) -> Any:
    return executor._processes


def failure_of(executor: Any) -> Any:
    return executor._broken


def test_a_lost_worker_is_a_broken_process_pool_to_those_who_wait_for_one(executor: poise.Executor[None]) -> None:
    lost: cf.Future[None] = executor.submit(die)
    with pytest.raises(process.BrokenProcessPool):
        lost.result(WITHIN)
    error = lost.exception()
    assert isinstance(error, poise.WorkerLost)
    assert error.started
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.reason) == (type(error), error.reason)
    assert executor.submit(abs, -1).result(WITHIN) == 1


def test_a_call_that_kills_again_and_again_is_one_too(shared_ray: None) -> None:
    with poise.Executor(1, poison_after=1) as executor:
        error = executor.submit(die).exception(WITHIN)
    assert isinstance(error, poise.PoisonCall)
    assert isinstance(error, process.BrokenProcessPool)


def test_the_remote_traceback_is_of_the_originals_class(executor: poise.Executor[None]) -> None:
    error = executor.submit(refuse).exception(WITHIN)
    assert type(error) is ValueError
    cause: Any = error.__cause__
    assert type(cause).__name__ == "_RemoteTraceback"
    assert isinstance(cause, vars(process)["_RemoteTraceback"])
    assert 'raise ValueError("refused")' in cause.tb


def test_a_managers_queue_can_be_an_argument(executor: poise.Executor[None]) -> None:
    with multiprocessing.Manager() as manager:
        queue = manager.Queue()
        list(executor.map(put, [queue] * 4, range(4), timeout=WITHIN))
        assert sorted(queue.get(timeout=WITHIN) for _ in range(4)) == [0, 1, 2, 3]


def test_a_managers_list_can_go_there_and_back(executor: poise.Executor[None]) -> None:
    with multiprocessing.Manager() as manager:
        values = manager.list([1])
        back = executor.submit(append, values, 2).result(WITHIN)
        back.append(3)
        assert list(values) == [1, 2, 3]


def test_the_processes_are_the_workers(shared_ray: None, gate: Gate) -> None:
    executor = poise.Executor(2)
    assert processes_of(executor) == {}
    pids = {executor.submit(os.getpid).result(WITHIN)}
    processes = processes_of(executor)
    assert pids <= set(processes)
    assert len(processes) == 2
    assert all(each.pid == pid and each.is_alive() for pid, each in processes.items())
    lost = [executor.submit(wait_at, gate.path) for _ in range(2)]
    cf.wait([executor.submit(abs, -1)], timeout=0.05)
    for each in processes.values():
        each.kill()
        each.join(WITHIN)
        assert not each.is_alive()
        each.kill()  # does nothing to what is gone
    assert all(isinstance(future.exception(WITHIN), poise.WorkerLost) for future in lost)
    processes = processes_of(executor)
    executor.shutdown()
    for each in processes.values():
        each.join(WITHIN)
        assert not each.is_alive()
    assert processes_of(executor) == {}


def test_an_initializer_that_fails_is_told_of_where_the_original_does(
    shared_ray: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL, "concurrent.futures"), poise.Executor(1, initializer=refuse) as executor:
        assert failure_of(executor) is False
        with pytest.raises(process.BrokenProcessPool):
            executor.submit(abs, -1).result(WITHIN)
        with pytest.raises(process.BrokenProcessPool):
            executor.submit(abs, -1)
        assert "refused" in failure_of(executor)
    (record,) = [record for record in caplog.records if record.name == "concurrent.futures"]
    assert "ValueError: refused" in (record.exc_text or "")
