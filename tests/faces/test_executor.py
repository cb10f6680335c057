"""The executor, as `concurrent.futures` asks it to behave: on workers in this process, which start in a millisecond."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import contextlib
import gc
import itertools
import pickle
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import poise
from poise._core.pace import LONGEST_AHEAD
from poise.executor.driver import Driver
from poise.testing import LocalPool
from tests.gate import Gate, leave_mark, wait_at
from tests.untrue import UNTRUE, fail_untruly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


NEVER = 3600.0
"""Seconds in which no test ends: what waits for them fails."""


class LocalExecutor(poise.Executor[Any]):
    """An executor whose workers live in this process."""

    def _make_pool(self, factory: Any, **options: Any) -> poise.Pool[Any]:
        self.pool = LocalPool(factory, **options)
        return self.pool


@pytest.fixture
def executor() -> Iterator[LocalExecutor]:
    with LocalExecutor(2) as executor:
        yield executor


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    yield
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("poise")]
    for thread in threads:
        thread.join(10)
    assert not [thread.name for thread in threads if thread.is_alive()]


# ---------------------------------------------------------------- what the workers do


class Point:
    """Something that can be watched with a weak reference."""

    def __init__(self, x: int = 0) -> None:
        self.x = x

    def double(self) -> int:
        return 2 * self.x


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.count = start

    def add(self, amount: int) -> int:
        self.count += amount
        return self.count

    def name(self, number: int) -> str:
        return f"Counter {number}"

    async def later(self, number: int) -> int:
        await asyncio.sleep(0)
        return self.count + number


class NamedCounter(Counter):
    def name(self, number: int) -> str:
        return f"NamedCounter {number}"


def capture(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def refuse(number: int) -> int:
    raise ValueError(f"no {number}")


def refuse_three(number: int) -> int:
    return refuse(number) if number == 3 else number


def hold(gate: str, value: Any = None) -> Any:
    wait_at(gate, value)
    return value


def hold_long(gate: str) -> str:
    """Take so long that nothing is sent ahead of its turn."""
    wait_at(gate)
    time.sleep(1.5 * LONGEST_AHEAD)
    return gate


def square(number: int) -> int:
    return number * number


async def square_later(number: int) -> int:
    await asyncio.sleep(0)
    return number * number


def reached(gate: Gate, count: int = 1) -> None:
    asyncio.run(gate.reached(count))


def on_loop(executor: LocalExecutor, function: Callable[[], None]) -> None:
    """The levers of the workers are for the pool's own loop."""
    executor._driver._loop.call_soon_threadsafe(function)  # noqa: SLF001


def block(executor: LocalExecutor, gate: Gate) -> list[cf.Future[Any]]:
    """Keep both workers busy."""
    held = [executor.submit(hold, gate.path, number) for number in range(2)]
    reached(gate, 2)
    return held


# ---------------------------------------------------------------- submit


def test_a_call_gives_its_result(executor: LocalExecutor) -> None:
    assert executor.submit(pow, 2, 8).result() == 256


def test_keywords_may_have_any_name(executor: LocalExecutor) -> None:
    future = executor.submit(capture, 1, self=2, fn=3)
    assert future.result() == ((1,), {"self": 2, "fn": 3})


def test_an_exception_arrives_as_itself_with_the_remote_traceback(executor: LocalExecutor) -> None:
    error = executor.submit(refuse, 5).exception()
    assert isinstance(error, ValueError)
    assert error.args == ("no 5",)
    assert 'raise ValueError(f"no {number}")' in str(error.__cause__)


def test_what_cannot_be_called_fails_its_own_future(executor: LocalExecutor) -> None:
    future: cf.Future[Any] = executor.submit(5)  # type: ignore[call-overload]
    assert isinstance(future.exception(), poise.ConfigError)
    assert executor.submit(square, 3).result() == 9


def test_a_coroutine_function_is_awaited_on_the_worker(executor: LocalExecutor) -> None:
    assert executor.submit(square_later, 3).result() == 9


def test_eight_threads_submit_at_once(executor: LocalExecutor) -> None:
    def submit(thread: int) -> list[cf.Future[int]]:
        return [executor.submit(square, thread * 10_000 + number) for number in range(5_000)]

    with cf.ThreadPoolExecutor(8) as threads:
        futures = list(threads.map(submit, range(8)))
    for thread, submitted in enumerate(futures):
        assert [future.result() for future in submitted] == [(thread * 10_000 + n) ** 2 for n in range(5_000)]


def test_calls_start_in_the_order_in_which_they_were_submitted(gate: Gate, tmp_path: Any) -> None:  # G5
    log = str(tmp_path / "log")
    with LocalExecutor(1) as executor:
        executor.submit(hold, gate.path)
        futures = [executor.submit(leave_mark, log, number) for number in range(50)]
        gate.open()
        cf.wait(futures)
    assert Gate(tmp_path / "log").marks == [str(number) for number in range(50)]


def test_a_bounded_executor_refuses_through_the_future(gate: Gate) -> None:  # G7
    with LocalExecutor(2, backlog=1) as executor:
        block(executor, gate)
        waiting = executor.submit(square, 2)
        assert isinstance(executor.submit(square, 3).exception(), poise.Overloaded)
        gate.open()
        assert waiting.result() == 4


def test_an_event_loop_runs_calls_in_it(executor: LocalExecutor) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, square, n) for n in range(20)))

    assert asyncio.run(main()) == [n * n for n in range(20)]


# ---------------------------------------------------------------- waiting


def test_results_come_as_they_are_completed(executor: LocalExecutor, make_gate: Callable[[str], Gate]) -> None:
    first, second = make_gate("first"), make_gate("second")
    futures = {executor.submit(hold, gate.path, name) for name, gate in [("first", first), ("second", second)]}
    completed = cf.as_completed(futures)
    second.open()
    assert next(completed).result() == "second"
    first.open()
    assert next(completed).result() == "first"
    assert not list(completed)


def test_as_completed_gives_a_future_once_however_often_it_is_named(executor: LocalExecutor) -> None:
    future = executor.submit(square, 2)
    assert list(cf.as_completed(itertools.repeat(future, 3))) == [future]


def test_as_completed_gives_what_is_ready_before_it_times_out(executor: LocalExecutor, gate: Gate) -> None:
    ready, late = executor.submit(square, 2), executor.submit(hold, gate.path)
    ready.result()
    seen: list[cf.Future[Any]] = []
    with pytest.raises(TimeoutError):
        seen.extend(iter(cf.as_completed([ready, late], timeout=0)))
    completed = cf.as_completed([ready, late], timeout=0)
    assert next(completed) is ready


def test_wait_returns_at_the_first_that_completes(executor: LocalExecutor, gate: Gate) -> None:
    late, ready = executor.submit(hold, gate.path), executor.submit(square, 2)
    assert cf.wait([late, ready], return_when=cf.FIRST_COMPLETED) == ({ready}, {late})


def test_wait_returns_at_the_first_exception(executor: LocalExecutor, gate: Gate) -> None:
    late, ready, failed = executor.submit(hold, gate.path), executor.submit(square, 2), executor.submit(refuse, 2)
    assert cf.wait([late, ready, failed], return_when=cf.FIRST_EXCEPTION) == ({ready, failed}, {late})


def test_wait_waits_for_all_of_success_failure_and_cancellation(executor: LocalExecutor, gate: Gate) -> None:
    held = block(executor, gate)
    waiting = [executor.submit(refuse, 1), executor.submit(square, 2), executor.submit(square, 3)]
    assert waiting[2].cancel()
    done, late = cf.wait([*held, *waiting], timeout=0)
    assert waiting[0] in late
    gate.open()
    done, late = cf.wait([*held, *waiting])
    assert done == {*held, *waiting}
    assert not late


def test_a_result_that_is_not_there_in_time_is_still_coming(executor: LocalExecutor, gate: Gate) -> None:
    future = executor.submit(hold, gate.path, 5)
    with pytest.raises(TimeoutError):
        future.result(timeout=0)
    with pytest.raises(TimeoutError):
        future.exception(timeout=0)
    gate.open()
    assert future.result() == 5


# ---------------------------------------------------------------- cancelling


def test_a_waiting_call_can_be_cancelled_and_never_runs(executor: LocalExecutor, gate: Gate, tmp_path: Any) -> None:
    block(executor, gate)
    log = Gate(tmp_path / "log")
    cancelled, next_one = executor.submit(leave_mark, log.path, "cancelled"), executor.submit(square, 2)
    assert not cancelled.running()
    assert cancelled.cancel()
    assert cancelled.cancel()
    assert cancelled.cancelled()
    assert cancelled.done()
    gate.open()
    assert next_one.result() == 4
    assert log.marks == []
    with pytest.raises(cf.CancelledError):
        cancelled.result()


def test_a_running_call_cannot_be_cancelled(executor: LocalExecutor, gate: Gate) -> None:
    future = executor.submit(hold, gate.path, 5)
    reached(gate)
    assert future.running()
    assert not future.cancel()
    gate.open()
    assert future.result() == 5
    assert not future.cancel()
    assert not future.running()


def test_whoever_waits_hears_of_a_cancellation_while_the_workers_are_busy(executor: LocalExecutor, gate: Gate) -> None:
    block(executor, gate)
    waiting = executor.submit(square, 2)
    threading.Timer(0.01, waiting.cancel).start()
    assert cf.wait([waiting]) == ({waiting}, set())
    assert list(cf.as_completed([waiting])) == [waiting]


def test_a_cancelled_call_leaves_the_backlog_at_once(gate: Gate) -> None:
    with LocalExecutor(2, backlog=1) as executor:
        block(executor, gate)
        cancelled = executor.submit(square, 2)
        cancelled.cancel()
        waiting = executor.submit(square, 3)
        gate.open()
        assert waiting.result() == 9


def test_a_call_is_either_cancelled_or_run_never_both(executor: LocalExecutor, tmp_path: Any) -> None:
    log = Gate(tmp_path / "log")
    futures = [executor.submit(leave_mark, log.path, number) for number in range(2_000)]
    cancelled = {str(number) for number, future in reversed(list(enumerate(futures))) if future.cancel()}
    cf.wait(futures)
    assert len(log.marks) == len(set(log.marks))
    assert set(log.marks) == {str(number) for number in range(2_000)} - cancelled


# ---------------------------------------------------------------- callbacks


def test_callbacks_get_the_future_in_the_order_in_which_they_were_added(executor: LocalExecutor, gate: Gate) -> None:
    future = executor.submit(hold, gate.path, 5)
    called: list[tuple[int, cf.Future[Any]]] = []
    over = threading.Event()
    future.add_done_callback(lambda future: called.append((1, future)))
    future.add_done_callback(lambda future: called.append((2, future)))
    future.add_done_callback(lambda _: over.set())
    gate.open()
    assert over.wait(30)
    assert called == [(1, future), (2, future)]
    future.add_done_callback(lambda future: called.append((3, future)))
    assert called[-1] == (3, future)


def test_a_callback_that_raises_hurts_nobody(
    executor: LocalExecutor, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    future = executor.submit(hold, gate.path, 5)
    future.add_done_callback(lambda _: 1 / 0)
    gate.open()
    assert future.result() == 5
    assert executor.submit(square, 3).result() == 9
    assert "exception calling callback" in caplog.text


def test_a_callback_may_submit_and_shut_down(gate: Gate) -> None:
    executor = LocalExecutor(1)
    more: list[cf.Future[int]] = []
    over = threading.Event()

    def go_on(_: cf.Future[Any]) -> None:
        more.append(executor.submit(square, 3))
        executor.shutdown(wait=True)
        over.set()

    executor.submit(hold, gate.path).add_done_callback(go_on)
    gate.open()
    assert over.wait(30)
    assert more[0].result() == 9
    executor.shutdown()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_that_ends_the_thread_leaves_no_future_without_an_outcome(gate: Gate) -> None:  # G1
    executor = LocalExecutor(1)
    future = executor.submit(hold, gate.path)
    future.add_done_callback(lambda _: sys.exit(1))
    waiting = [executor.submit(square, number) for number in range(3)]
    gate.open()
    for other in waiting:
        with contextlib.suppress(poise.PoiseError):
            other.result(30)
    executor.shutdown()
    with pytest.raises((RuntimeError, poise.ExecutorBroken)):
        executor.submit(square, 2)


# ---------------------------------------------------------------- map


def test_map_is_like_the_built_in_one(executor: LocalExecutor) -> None:
    assert list(executor.map(pow, range(10), range(10))) == list(map(pow, range(10), range(10)))
    assert list(executor.map(pow, range(10), range(5))) == list(map(pow, range(5), range(5)))
    assert list(executor.map(square, [])) == []


@pytest.mark.parametrize("chunksize", [1, 3, 40])
def test_map_in_chunks_gives_the_same_results(executor: LocalExecutor, chunksize: int) -> None:
    assert list(executor.map(pow, range(40), range(40), chunksize=chunksize)) == list(map(pow, range(40), range(40)))
    assert list(executor.map(square_later, range(40), chunksize=chunksize)) == [n * n for n in range(40)]


def test_map_gives_the_results_before_an_exception(executor: LocalExecutor) -> None:
    results = executor.map(refuse_three, range(5))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="no 3"):
        next(results)
    assert list(results) == []


def test_map_submits_before_the_first_result_is_asked_for(executor: LocalExecutor, gate: Gate) -> None:
    results = executor.map(hold, itertools.repeat(gate.path, 2), range(2))
    reached(gate, 2)
    gate.open()
    assert list(results) == [0, 1]


def test_map_times_out_and_cancels_what_has_not_begun(executor: LocalExecutor, gate: Gate, tmp_path: Any) -> None:
    block(executor, gate)
    log = Gate(tmp_path / "log")
    results = executor.map(leave_mark, itertools.repeat(log.path, 3), range(3), timeout=0)
    with pytest.raises(TimeoutError):
        next(results)
    gate.open()
    executor.shutdown()
    assert log.marks == []


def test_a_map_that_is_given_up_cancels_what_has_not_begun(make_gate: Callable[[str], Gate]) -> None:
    first, second = make_gate("first"), make_gate("second")
    with LocalExecutor(1) as executor:
        results = executor.map(hold_long, [first.path, second.path, first.path])
        first.open()
        assert next(results) == first.path
        reached(second)
        results.close()  # type: ignore[attr-defined]
        second.open()
    assert len(first.marks) == 1


@pytest.mark.parametrize("chunksize", [0, -1])
def test_map_refuses_chunks_of_nothing(executor: LocalExecutor, chunksize: int) -> None:
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(square, range(3), chunksize=chunksize)


def test_map_with_a_buffer_reads_its_iterables_lazily(executor: LocalExecutor) -> None:
    numbers = itertools.count()
    results = executor.map(square, numbers, buffersize=4)
    assert next(numbers) == 4
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert next(numbers) == 8  # 4 at first, the 4 that was taken here, and one for each result
    with_all = executor.map(square, range(20), buffersize=3)
    assert list(with_all) == [n * n for n in range(20)]
    in_chunks = executor.map(square, range(20), buffersize=2, chunksize=3)
    assert list(in_chunks) == [n * n for n in range(20)]


def test_map_with_a_buffer_keeps_its_executor_open() -> None:
    results = LocalExecutor(1).map(square, range(20), buffersize=2)
    gc.collect()
    assert list(results) == [n * n for n in range(20)]


@pytest.mark.parametrize(
    ("buffersize", "error"), [(0, ValueError), (-1, ValueError), ("4", TypeError), (2.0, TypeError)]
)
def test_map_refuses_a_buffer_of_no_size(executor: LocalExecutor, buffersize: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="buffersize"):
        executor.map(square, range(3), buffersize=buffersize)


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_keeps_no_result_alive(executor: LocalExecutor, chunksize: int) -> None:
    results = executor.map(Point, range(6), chunksize=chunksize)
    for _ in range(6):
        point = next(results)
        watch = weakref.ref(point)
        del point
        vanish(watch)


# ---------------------------------------------------------------- nothing is kept alive


def vanish(watch: weakref.ref[Any], within: float = 10.0) -> None:
    """Wait until nothing holds the object; reference counts alone must do it, on whichever thread."""
    gc.disable()
    try:
        deadline = time.monotonic() + within
        while watch() is not None:
            assert time.monotonic() < deadline, gc.get_referrers(watch())
            time.sleep(0.001)
    finally:
        gc.enable()


def test_a_kept_future_does_not_keep_the_arguments_alive(executor: LocalExecutor) -> None:
    point = Point(3)
    watch = weakref.ref(point)
    future = executor.submit(Point.double, point)
    also = executor.submit(point.double)
    del point
    assert (future.result(), also.result()) == (6, 6)
    vanish(watch)


def test_a_dropped_future_does_not_keep_the_result_alive(executor: LocalExecutor) -> None:
    future = executor.submit(Point, 3)
    watch = weakref.ref(future.result())
    watch_future = weakref.ref(future)
    del future
    vanish(watch)
    vanish(watch_future)


def test_a_dropped_future_does_not_keep_the_exception_alive(executor: LocalExecutor) -> None:
    future = executor.submit(refuse, 3)
    watch = weakref.ref(future)
    with contextlib.suppress(ValueError):
        future.result()
    del future
    vanish(watch)


def test_a_cancelled_call_keeps_no_arguments_alive_while_the_workers_are_busy(
    executor: LocalExecutor, gate: Gate
) -> None:
    block(executor, gate)
    point = Point()
    watch = weakref.ref(point)
    future = executor.submit(Point.double, point)
    del point
    future.cancel()
    vanish(watch)


# ---------------------------------------------------------------- shutting down


def test_nothing_is_started_before_the_first_call() -> None:
    with LocalExecutor(2):
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("poise")]


def test_after_a_shutdown_nothing_is_accepted() -> None:
    for executor in (LocalExecutor(1), LocalExecutor(1)):
        executor.submit(square, 2)
        executor.shutdown()
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.submit(square, 2)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.map(square, [2])
        executor.shutdown()
    unused = LocalExecutor(1)
    unused.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        unused.submit(square, 2)


def test_a_shutdown_finishes_what_was_accepted() -> None:
    with LocalExecutor(2) as executor:
        futures = [executor.submit(square, number) for number in range(200)]
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == [n * n for n in range(200)]


def test_a_shutdown_that_does_not_wait_finishes_what_was_accepted_too(gate: Gate) -> None:
    executor = LocalExecutor(1)
    futures = [executor.submit(hold, gate.path, number) for number in range(3)]
    executor.shutdown(wait=False)
    assert not futures[2].done()
    gate.open()
    assert [future.result() for future in futures] == [0, 1, 2]


@pytest.mark.parametrize("waits", [True, False])
def test_a_shutdown_can_cancel_what_has_not_begun(gate: Gate, waits: bool) -> None:
    executor = LocalExecutor(2)
    held = block(executor, gate)
    waiting = [executor.submit(square, number) for number in range(50)]
    threading.Timer(0.02, gate.open).start()
    executor.shutdown(wait=waits, cancel_futures=True)
    cf.wait([*held, *waiting])
    assert all(future.cancelled() for future in waiting)
    assert [future.result() for future in held] == [0, 1]


def test_a_shutdown_while_the_pool_still_opens_cancels_all_and_does_not_wait_for_it() -> None:
    executor = LocalExecutor(2, start_timeout=NEVER)
    executor.pool.launcher.hold()
    futures = [executor.submit(square, number) for number in range(5)]
    executor.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in futures)


def test_a_shutdown_in_the_moment_before_the_pool_opens_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    live, is_shut = Driver._live, threading.Event()  # noqa: SLF001

    async def live_late(driver: Driver) -> None:
        assert is_shut.wait(60)  # on its loop, whose next turns bring the calls and the shutdown
        await live(driver)

    monkeypatch.setattr(Driver, "_live", live_late)
    executor = LocalExecutor(2, start_timeout=NEVER)
    executor.pool.launcher.hold()
    futures = [executor.submit(square, number) for number in range(5)]
    executor.shutdown(wait=False, cancel_futures=True)
    is_shut.set()
    executor.shutdown()
    assert all(future.cancelled() for future in futures)


def test_with_its_last_call_cancelled_a_shutdown_waits_no_longer_for_the_pool_to_open() -> None:
    executor = LocalExecutor(2, start_timeout=NEVER)
    executor.pool.launcher.hold()
    future = executor.submit(square, 2)
    executor.shutdown(wait=False)
    told = threading.Event()
    on_loop(executor, told.set)
    assert told.wait(60)
    assert future.cancel()
    executor.shutdown()


def test_calls_can_be_cancelled_while_the_pool_still_opens() -> None:
    with LocalExecutor(1) as executor:
        executor.pool.launcher.hold()
        cancelled, kept = executor.submit(square, 2), executor.submit(square, 3)
        assert cancelled.cancel()
        assert cf.wait([cancelled]) == ({cancelled}, set())
        on_loop(executor, executor.pool.launcher.let_go)
        assert kept.result() == 9


def test_a_forgotten_executor_finishes_its_calls_and_ends_its_thread(gate: Gate) -> None:
    executor = LocalExecutor(1)
    futures = [executor.submit(hold, gate.path, number) for number in range(3)]
    watch = weakref.ref(executor)
    del executor
    assert watch() is None
    gate.open()
    assert [future.result() for future in futures] == [0, 1, 2]


def test_threads_that_submit_during_a_shutdown_are_served_or_refused() -> None:
    executor = LocalExecutor(2)
    accepted: list[cf.Future[int]] = []
    begun = threading.Event()

    def submit() -> None:
        with contextlib.suppress(RuntimeError):
            while True:
                accepted.append(executor.submit(square, 2))
                begun.set()

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    executor.shutdown()
    for thread in threads:
        thread.join()
    assert {future.result(0) for future in accepted} == {4}


# ---------------------------------------------------------------- workers


def test_a_worker_that_dies_fails_its_call_and_the_next_one_works(gate: Gate) -> None:  # G8
    with LocalExecutor(1) as executor:
        lost, waiting = executor.submit(hold, gate.path), executor.submit(square, 3)
        reached(gate)
        (lane,) = executor.pool.launcher.lanes.values()
        on_loop(executor, lane.crash)
        assert isinstance(lost.exception(), poise.WorkerLost)
        assert waiting.result() == 9
        assert executor.submit(square, 4).result() == 16
        gate.open()


@pytest.mark.parametrize("max_workers", [0, -1, 2.5, "two", True])
def test_a_number_of_workers_out_of_range_is_refused(max_workers: Any) -> None:
    with pytest.raises(ValueError, match="max_workers"):
        poise.Executor(max_workers=max_workers)


def test_the_number_of_workers_can_be_read_as_in_the_original() -> None:
    assert poise.Executor(3)._max_workers == poise.Executor(max_workers=3)._max_workers == 3  # noqa: SLF001
    assert poise.Executor()._max_workers >= 1  # noqa: SLF001
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        poise.Executor(0)


def test_what_only_processes_have_is_refused_with_the_reason() -> None:
    options: Any = {"mp_context": 1}
    with pytest.raises(poise.ConfigError, match="mp_context=1 is not allowed: workers are"):
        poise.Executor(**options)


def worker_name() -> str:
    return threading.current_thread().name


def test_a_worker_runs_as_many_calls_as_it_may_and_another_takes_its_place() -> None:
    with LocalExecutor(1, max_tasks_per_child=3) as executor:
        names = [executor.submit(worker_name).result() for _ in range(4)]
        assert names[:3] == names[:1] * 3
        assert names[3] != names[0]
        names += [future.result() for future in [executor.submit(worker_name) for _ in range(5)]]
        assert [names.count(name) for name in dict.fromkeys(names)] == [3, 3, 3]


def test_workers_of_one_call_finish_what_was_accepted_before_a_shutdown() -> None:
    executor = LocalExecutor(3, max_tasks_per_child=1)
    futures_ = [executor.submit(square, n) for n in range(6)]
    executor.shutdown()
    assert [future.result() for future in futures_] == [n * n for n in range(6)]


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        (0, ValueError, "max_tasks_per_child must be >= 1"),
        (-1, ValueError, "max_tasks_per_child must be >= 1"),
        (1.5, TypeError, "max_tasks_per_child must be an integer"),
        ("3", TypeError, "max_tasks_per_child must be an integer"),
    ],
)
def test_a_number_of_tasks_out_of_range_is_refused_as_by_the_original(
    given: Any, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        poise.Executor(1, max_tasks_per_child=given)


def test_workers_are_replaced_by_one_rule() -> None:
    with pytest.raises(poise.ConfigError, match="give it or recycle="):
        poise.Executor(1, max_tasks_per_child=3, recycle=poise.Recycle(age=60))


def test_what_an_executor_does_can_be_looked_at(executor: LocalExecutor, gate: Gate) -> None:
    block(executor, gate)
    waiting = executor.submit(square, 2)
    stats = executor.stats()
    assert (stats.running, stats.size) == (2, 2)
    gate.open()
    assert waiting.result() == 4


@pytest.mark.parametrize("error", UNTRUE)
async def test_an_exception_that_is_not_true_is_raised(executor: LocalExecutor, error: type[Exception]) -> None:
    future: cf.Future[Any] = executor.submit(fail_untruly, error)
    with pytest.raises(error):
        future.result()
    with pytest.raises(error):
        list(executor.map(fail_untruly, [error] * 2))
    with pytest.raises(error):
        list(executor.map(fail_untruly, [error] * 2, chunksize=2))
    with pytest.raises(error):
        await asyncio.get_running_loop().run_in_executor(executor, fail_untruly, error)


def test_the_number_of_workers_may_come_first_as_in_the_original() -> None:
    with LocalExecutor(3) as executor:
        executor.submit(square, 2).result()
        assert executor.pool.stats().size == 3
    with pytest.raises(TypeError, match="twice"):
        poise.Executor(3, max_workers=3)


def test_the_initializer_runs_once_in_each_worker_before_anything_else(gate: Gate, tmp_path: Any) -> None:
    log = Gate(tmp_path / "log")
    with LocalExecutor(2, initializer=leave_mark, initargs=(log.path, "ready")) as executor:
        block(executor, gate)
        gate.open()
        list(executor.map(leave_mark, itertools.repeat(log.path, 10), itertools.repeat("call", 10)))
    assert log.marks == ["ready"] * 2 + ["call"] * 10


def test_the_initializer_runs_in_a_replacement_too_and_before_the_factory(gate: Gate, tmp_path: Any) -> None:
    log = Gate(tmp_path / "log")

    def build() -> Counter:
        leave_mark(log.path, "built")
        return Counter(7)

    with LocalExecutor(build, max_workers=1, initializer=leave_mark, initargs=(log.path, "ready")) as executor:
        lost = executor.submit(lambda _, path: hold(path), gate.path)
        reached(gate)
        (lane,) = executor.pool.launcher.lanes.values()
        on_loop(executor, lane.crash)
        assert isinstance(lost.exception(), poise.WorkerLost)
        assert executor.submit(Counter.add, 1).result() == 8
        gate.open()
    assert log.marks == ["ready", "built"] * 2


def test_an_initializer_that_fails_breaks_the_executor() -> None:
    with LocalExecutor(2, initializer=refuse, initargs=(5,)) as executor:
        futures = [executor.submit(square, number) for number in range(3)]
        for future in futures:
            error = future.exception()
            assert isinstance(error, poise.ExecutorBroken)
            assert isinstance(error, poise.PoolBroken)
            assert isinstance(error, cf.BrokenExecutor)
            assert "no 5" in str(error)
            assert isinstance(error.__cause__, ValueError)
        with pytest.raises(cf.BrokenExecutor, match="no 5"):
            executor.submit(square, 2)
        with pytest.raises(poise.PoolBroken, match="no 5"):
            executor.map(square, range(2))


def test_the_error_of_a_broken_executor_survives_pickling() -> None:
    error = poise.ExecutorBroken("no room", 3)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is poise.ExecutorBroken
    assert (str(copy), copy.reason, copy.failures) == (str(error), "no room", 3)


def test_an_initializer_must_be_callable() -> None:
    with pytest.raises(TypeError, match="initializer"):
        poise.Executor(initializer=5)  # type: ignore[call-overload]


# ---------------------------------------------------------------- with a factory


@pytest.fixture
def counters() -> Iterator[LocalExecutor]:
    with LocalExecutor(lambda: NamedCounter(10), max_workers=1) as executor:
        yield executor


def test_a_function_gets_the_instance_first(counters: LocalExecutor) -> None:
    assert counters.submit(Counter.add, 1).result() == 11
    assert counters.submit("add", 2).result() == 13
    assert counters.submit(lambda counter, x: counter.count * x, 2).result() == 26
    assert counters.submit(Counter.later, 2).result() == 15


@pytest.mark.parametrize("chunksize", [1, 2])
@pytest.mark.parametrize(
    "function",
    [NamedCounter.name, "name", lambda counter, number: counter.name(number)],
    ids=["method", "text", "function"],
)
def test_map_calls_the_instance_for_each_item(counters: LocalExecutor, chunksize: int, function: Any) -> None:
    results = counters.map(function, range(3), chunksize=chunksize)
    assert list(results) == ["NamedCounter 0", "NamedCounter 1", "NamedCounter 2"]


def test_map_in_chunks_awaits_methods_that_are_coroutines(counters: LocalExecutor) -> None:
    assert list(counters.map(NamedCounter.later, range(4), chunksize=2)) == [10, 11, 12, 13]


# ---------------------------------------------------------------------------------------------------------------------
# Waiting for room


def test_submit_waits_for_room_if_it_is_told_to(gate: Gate) -> None:  # G7
    with LocalExecutor(2, backlog=1, on_full="wait") as executor:
        block(executor, gate)
        waiting = executor.submit(square, 3)
        blocked = threading.Event()
        late: list[int] = []

        def submit() -> None:
            blocked.set()
            late.append(executor.submit(square, 4).result(60))

        thread = threading.Thread(target=submit)
        thread.start()
        blocked.wait(60)
        thread.join(0.05)
        assert thread.is_alive()
        gate.open()
        thread.join(60)
        assert late == [16]
        assert waiting.result(60) == 9


def test_many_threads_that_wait_for_room_are_all_served() -> None:
    with LocalExecutor(2, backlog=0, on_full="wait") as executor, cf.ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(lambda n: executor.submit(square, n).result(60), n) for n in range(200)]
        assert [future.result(60) for future in futures] == [n * n for n in range(200)]


def test_a_callback_that_submits_does_not_wait_for_itself() -> None:
    with LocalExecutor(1, backlog=0, on_full="wait") as executor:
        more: list[cf.Future[int]] = []
        came = threading.Event()

        def submit(_: object) -> None:
            more.extend(executor.submit(square, n) for n in range(5))
            came.set()

        executor.submit(square, 1).add_done_callback(submit)
        assert came.wait(60)
        assert [future.result(60) for future in more] == [0, 1, 4, 9, 16]


def test_whoever_waits_for_room_is_told_of_the_shutdown(gate: Gate) -> None:  # G1
    executor = LocalExecutor(1, backlog=0, on_full="wait")
    held = executor.submit(hold, gate.path)
    reached(gate)
    told: list[BaseException] = []

    def submit() -> None:
        try:
            executor.submit(square, 1)
        except RuntimeError as error:
            told.append(error)

    thread = threading.Thread(target=submit)
    thread.start()
    executor.shutdown(wait=False)
    thread.join(60)
    gate.open()
    executor.shutdown()
    assert "shutdown" in str(told[0])
    assert held.done()


@pytest.mark.parametrize("options", [{"on_full": "wait"}, {"on_full": "sleep", "backlog": 1}])
def test_a_way_to_wait_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(poise.ConfigError, match="on_full"):
        LocalExecutor(2, **options)


def test_initargs_that_cannot_travel_are_named(shared_ray: None) -> None:
    with poise.Executor(1, initializer=print, initargs=(threading.Lock(),)) as executor:
        error = executor.submit(square, 1).exception(60)
    assert "initargs" in str(error)


# ---------------------------------------------------------------------------------------------------------------------
# Workers that are replaced


class Weights:
    """What a worker holds, of a certain version."""

    def __init__(self, version: int = 1) -> None:
        self.version = version

    def read(self) -> int:
        return self.version


def test_a_reload_brings_new_workers_while_calls_are_served() -> None:
    with LocalExecutor(Weights, max_workers=2) as executor:
        assert executor.submit(Weights.read).result() == 1
        executor.reload(lambda: Weights(2))
        assert [executor.submit(Weights.read).result() for _ in range(4)] == [2] * 4
        assert executor.stats().generation == 1
        executor.reload()
        assert executor.submit(Weights.read).result() == 2
        assert executor.stats().generation == 2


def test_a_reload_runs_the_initializer_in_the_new_workers_too() -> None:
    begun: list[int] = []
    with LocalExecutor(Weights, max_workers=1, initializer=begun.append, initargs=(7,)) as executor:
        assert executor.submit(Weights.read).result() == 1
        executor.reload(lambda: Weights(2))
        assert executor.submit(Weights.read).result() == 2
        assert begun == [7, 7]


def test_a_reload_that_fails_says_why_and_leaves_the_old_workers() -> None:
    def fail() -> Weights:
        raise OSError("no weights")

    with LocalExecutor(Weights, max_workers=1) as executor:
        executor.submit(Weights.read).result()
        with pytest.raises(poise.ReplaceFailed, match="no weights"):
            executor.reload(fail)
        assert executor.submit(Weights.read).result() == 1
        with pytest.raises(poise.ConfigError, match="surge"):
            executor.reload(surge=-1)


def test_an_executor_of_plain_functions_reloads_without_a_factory() -> None:
    with LocalExecutor(max_workers=1) as executor:
        executor.submit(pow, 2, 3).result()
        executor.reload()
        assert executor.stats().generation == 1
        with pytest.raises(poise.ConfigError, match="without a factory"):
            executor.reload(Weights)


def test_a_worker_can_be_replaced_from_any_thread() -> None:
    with LocalExecutor(Weights, max_workers=2) as executor:
        executor.submit(Weights.read).result()
        (old, *_) = [worker.id for worker in executor.stats().workers]
        with cf.ThreadPoolExecutor(1) as thread:
            new = thread.submit(executor.replace, old).result()
        assert new not in (old, 1 - old)
        assert {worker.id for worker in executor.stats().workers if worker.state == "ready"} >= {new}
        with pytest.raises(poise.ConfigError):
            executor.replace(999)


def test_workers_cannot_be_replaced_where_there_are_none() -> None:
    executor = LocalExecutor(Weights, max_workers=1)
    with pytest.raises(poise.PoolClosed, match="nothing has been submitted"):
        executor.reload()
    executor.submit(Weights.read).result()
    executor.shutdown(wait=True)
    with pytest.raises(poise.PoolClosed, match="shut down"):
        executor.replace(0)


def test_a_callback_cannot_wait_for_workers_to_be_replaced(gate: Gate) -> None:
    errors: cf.Future[BaseException | None] = cf.Future()
    with LocalExecutor(max_workers=1) as executor:

        def call_back(_: cf.Future[None]) -> None:
            try:
                executor.reload()
                errors.set_result(None)
            except RuntimeError as error:
                errors.set_result(error)

        future = executor.submit(wait_at, gate.path)
        future.add_done_callback(call_back)
        gate.open()
        assert "callback" in str(errors.result(60))


def test_a_reload_just_after_the_first_call_waits_for_the_pool_to_open() -> None:
    for _ in range(20):
        with LocalExecutor(Weights, max_workers=1) as executor:
            future = executor.submit(Weights.read)
            executor.reload(lambda: Weights(2))
            assert future.result() in (1, 2)
            assert executor.submit(Weights.read).result() == 2
