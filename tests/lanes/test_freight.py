"""The freight lane, over real actors."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import gc
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pytest
import pytest_asyncio
import ray

from poise._answers import NOT_BEGUN, RETURNED
from poise._lanes.host_lane import HostLane
from poise._lanes.lane import StartFailed
from poise._lanes.launcher import HostLauncher
from poise.errors import PayloadError, RemoteError
from tests.gate import Gate, leave_mark, wait_at, wait_at_async
from tests.lanes.ear import PATIENCE, Ear, Line
from tests.protocol.odd import CannotPickle, CannotUnpickle, OddArguments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("shared_ray")]


class Shop:
    def __init__(self) -> None:
        self.threads = {threading.get_ident()}

    def echo(self, value: Any = None) -> Any:
        self.threads.add(threading.get_ident())
        return value

    def pid(self) -> int:
        return os.getpid()

    def hold(self, gate: str, mark: object = "") -> None:
        wait_at(gate, mark)

    async def hold_async(self, gate: str) -> None:
        await wait_at_async(gate)

    def end(self, how: str) -> None:
        if how == "exit":
            os._exit(3)
        elif how == "segfault":
            ctypes.string_at(0)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def count(self, end: int) -> Iterator[int]:
        yield from range(end)

    def endless(self, gate: str) -> Iterator[int]:
        number = 0
        try:
            while True:
                yield number
                number += 1
        finally:
            leave_mark(gate, "closed")

    def make_ref(self) -> Any:
        return [ray.put("made in the worker")]

    def get(self, holder: list[Any]) -> Any:
        return ray.get(holder[0])

    def is_read_only(self, array: Any) -> bool:
        return not array.flags.writeable


@ray.remote
class Decorated:
    def __init__(self) -> None:
        self.count = 0

    def increment(self, by: int) -> int:
        self.count += by
        return self.count


@ray.remote
def fail_elsewhere() -> NoReturn:
    raise KeyError("in the task")


@ray.remote
def later(seconds: float) -> str:
    time.sleep(seconds)
    return "late"


@ray.remote
def gone() -> None:
    os._exit(1)


async def launch(ear: Ear, factory: Any = Shop, **options: Any) -> tuple[HostLauncher, HostLane]:
    launcher = HostLauncher(factory, **options)
    await launcher.open(ear)
    lane = await launcher.launch(1)
    assert isinstance(lane, HostLane)
    return launcher, lane


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def line(shared_ray: None) -> AsyncIterator[Line]:
    """A worker for all cases that leave it alive."""
    async with opened() as line:
        yield line
        assert not line.ear.lost


@pytest_asyncio.fixture(loop_scope="module")
async def doomed(shared_ray: None) -> AsyncIterator[Line]:
    """A worker for a case that ends it."""
    async with opened() as line:
        yield line


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[Line]:
    ear = Ear()
    launcher, lane = await launch(ear)
    yield Line(lane, ear)
    await lane.kill()
    await launcher.aclose()
    assert lane.origin.pid is not None
    assert not is_alive(lane.origin.pid)


async def test_values_travel_both_ways(line: Line) -> None:
    assert await line.run(Shop.echo, 5) == 5
    assert await line.run("echo", value={"a": [1, (2, {3})]}) == {"a": [1, (2, {3})]}
    assert await line.run(lambda shop, x: (type(shop).__name__, x), 1) == ("Shop", 1)


async def test_the_constructor_and_every_call_run_on_one_thread(line: Line) -> None:
    for _ in range(5):
        await line.run(Shop.echo)
    assert await line.run(lambda shop: len(shop.threads)) == 1


async def test_a_thousand_calls_at_once_each_get_their_own_result() -> None:
    ear = Ear()
    launcher, lane = await launch(ear, concurrency=8)
    line = Line(lane, ear)
    results: list[Any] = []
    for first in range(0, 1000, 8):
        results += await asyncio.gather(*(line.run(Shop.echo, number) for number in range(first, first + 8)))
    assert results == list(range(1000))
    await lane.kill()
    await launcher.aclose()


async def test_large_arrays_arrive_read_only_on_both_sides_and_small_ones_do_not(line: Line) -> None:
    for size in (10, 1_000_000):
        array = np.arange(size)
        assert await line.run(Shop.is_read_only, array) is (size > 10)
        back = await line.run(Shop.echo, array)
        assert (back == array).all()
        assert back.flags.writeable is (size == 10)


async def test_errors_arrive_as_themselves(line: Line) -> None:  # G10
    error = await line.error(lambda shop: [][0])
    assert type(error) is IndexError
    assert "IndexError" in str(error.__cause__)
    assert "_worker" not in str(error.__cause__)


@pytest.mark.parametrize(
    "end", [sys.exit, lambda: (_ for _ in ()).throw(KeyboardInterrupt())], ids=["exit", "interrupt"]
)
async def test_ending_the_process_the_polite_way_is_an_error_of_that_call(line: Line, end: Any) -> None:  # G9
    before = await line.run(Shop.pid)
    assert isinstance(await line.error(lambda shop: end()), RemoteError)
    assert await line.run(Shop.pid) == before


async def test_what_cannot_travel_is_an_error_of_that_call(line: Line) -> None:  # G9
    def fail(shop: Shop) -> NoReturn:
        raise OddArguments(1, where="x")

    for error, what in [
        (await line.error(Shop.echo, CannotPickle()), "argument 1"),
        (await line.error(Shop.echo, value=CannotPickle()), "argument 'value'"),
        (await line.error(Shop.echo, CannotUnpickle(SystemExit)), "the arguments"),
        (await line.error(lambda shop: CannotPickle()), "the result"),
        (await line.error(lambda shop: CannotUnpickle(KeyboardInterrupt)), "the result"),
        (await line.error(lambda shop: threading.Lock()), "the result"),
    ]:
        assert isinstance(error, PayloadError)
        assert error.what == what
    assert isinstance(await line.error(fail), RemoteError)
    assert await line.run(Shop.echo, 1) == 1


async def test_a_pool_without_a_factory_runs_functions_alone() -> None:
    ear = Ear()
    launcher, lane = await launch(ear, None)
    line = Line(lane, ear)
    assert await line.run(lambda x: x + 1, 1) == 2
    assert isinstance(await line.error("predict"), AttributeError)
    await lane.kill()
    await launcher.aclose()


async def test_a_decorated_class_works_as_a_factory_and_for_its_methods() -> None:
    ear = Ear()
    launcher, lane = await launch(ear, Decorated)
    line = Line(lane, ear)
    assert await line.run(Decorated.increment, 1) == 1
    assert await line.run("increment", 2) == 3
    await lane.kill()
    await launcher.aclose()


# ---------------------------------------------------------------------------------------------------------------------
# ObjectRefs


async def test_an_object_ref_argument_is_resolved_and_a_nested_one_is_not(line: Line) -> None:
    ref = ray.put("value")
    assert await line.run(Shop.echo, ref) == "value"
    assert await line.run(Shop.echo, value=ref) == "value"
    assert await line.run(Shop.get, [ref]) == "value"
    assert await line.run(Shop.echo, [ref]) == [ref]
    captured = [ref]
    assert await line.run(lambda shop: ray.get(captured[0])) == "value"


async def test_an_object_ref_result_can_be_read(line: Line) -> None:
    (ref,) = await line.run(Shop.make_ref)
    assert ray.get(ref) == "made in the worker"


async def test_an_actor_handle_travels(line: Line) -> None:
    actor: Any = Decorated.remote()  # type: ignore[attr-defined]
    assert await line.run(lambda shop, handle: ray.get(handle.increment.remote(4)), actor) == 4
    ray.kill(actor)


async def test_the_error_of_the_task_behind_an_argument_arrives(line: Line) -> None:
    error = await line.error(Shop.echo, fail_elsewhere.remote())
    assert type(error) is KeyError
    assert "fail_elsewhere" in str(error.__cause__)


async def test_the_death_of_a_task_behind_an_argument_is_not_the_workers(line: Line) -> None:
    error = await line.error(Shop.echo, gone.options(max_retries=0).remote())
    assert isinstance(error, ray.exceptions.WorkerCrashedError)
    assert await line.run(Shop.echo, 1) == 1
    assert not line.ear.lost


async def test_a_call_that_waits_for_its_argument_can_be_cancelled_and_holds_up_nobody() -> None:
    ear = Ear()
    launcher, lane = await launch(ear, concurrency=2)
    line = Line(lane, ear)
    waiting = line.send(Shop.echo, later.remote(3))
    assert await line.run(Shop.echo, 1) == 1
    assert waiting not in ear.answers
    lane.cancel(waiting)
    assert (await ear.answer(waiting)).ending == NOT_BEGUN
    await lane.kill()
    await launcher.aclose()


async def test_objects_are_freed_when_nobody_holds_them(line: Line) -> None:  # G12
    from ray._private.worker import global_worker

    worker: Any = global_worker

    def references() -> set[str]:
        return set(worker.core_worker.get_all_reference_counts())

    await line.run(Shop.echo, 1)
    before = references()
    for _ in range(3):
        ref = ray.put(np.zeros(300_000))
        await line.run(Shop.echo, ref)
        await line.run(Shop.echo, [ref])
        await line.run(Shop.echo, np.zeros(300_000))
        await line.run(Shop.make_ref)
        await line.run(lambda shop, holder=(ref,): None)
        del ref
    line.ear.answers.clear()
    gc.collect()
    deadline = time.monotonic() + PATIENCE
    while references() - before and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    assert not references() - before


# ---------------------------------------------------------------------------------------------------------------------
# Streams and cancellation


async def test_a_stream_comes_as_its_credit_allows(line: Line) -> None:
    call = line.stream(Shop.count, 10, credit=3)
    await line.ear.until(lambda: line.ear.items.get(call) == [0, 1, 2])
    line.lane.credit(call, 4)
    await line.ear.until(lambda: len(line.ear.items[call]) == 7)
    line.lane.credit(call, 100)
    assert (await line.ear.answer(call)).ending == RETURNED
    assert line.ear.items[call] == list(range(10))


async def test_a_stream_that_nobody_reads_any_more_is_closed(line: Line, gate: Gate) -> None:
    call = line.stream(Shop.endless, gate.path, credit=5)
    await line.ear.until(lambda: len(line.ear.items.get(call, [])) == 5)
    line.lane.cancel(call)
    await line.ear.answer(call)
    assert gate.marks == ["closed"]
    assert await line.run(Shop.echo, 1) == 1


async def test_an_item_that_cannot_be_unpickled_ends_the_stream(line: Line) -> None:
    call = line.stream(lambda shop: iter([1, CannotUnpickle(SystemExit), 3]), credit=10)
    answer = await line.ear.answer(call)
    assert isinstance(answer.value, PayloadError)
    assert line.ear.items[call] == [1]


async def test_a_running_coroutine_is_cancelled(line: Line, gate: Gate) -> None:
    call = line.send(Shop.hold_async, gate.path)
    await gate.reached()
    line.lane.cancel(call)
    assert isinstance((await line.ear.answer(call)).value, RemoteError)


async def test_a_running_synchronous_call_is_left_alone(line: Line, gate: Gate) -> None:  # G3
    call = line.send(Shop.hold, gate.path)
    await gate.reached()
    line.lane.cancel(call)
    await asyncio.sleep(0.05)
    assert call not in line.ear.answers
    gate.open()
    assert (await line.ear.answer(call)).ending == RETURNED


# ---------------------------------------------------------------------------------------------------------------------
# Death


@pytest.mark.parametrize("how", ["kill", "exit", "segfault"])
async def test_the_death_of_a_worker_is_heard_once(doomed: Line, how: str) -> None:
    call = doomed.send(Shop.end, how)
    await doomed.ear.until(lambda: bool(doomed.ear.lost))
    await doomed.lane.kill()
    await asyncio.sleep(0.6)
    assert len(doomed.ear.lost) == 1
    assert call not in doomed.ear.answers


async def test_the_death_of_an_idle_worker_is_heard(doomed: Line) -> None:
    assert doomed.lane.origin.pid is not None
    os.kill(doomed.lane.origin.pid, signal.SIGKILL)
    await doomed.ear.until(lambda: bool(doomed.ear.lost))


async def test_kill_ends_a_worker_that_holds_the_gil(doomed: Line, gate: Gate) -> None:  # G6
    def hold_the_gil(_: Shop, path: str) -> None:
        leave_mark(path, "begun")
        sum(range(10**11))

    doomed.send(hold_the_gil, gate.path)
    await gate.reached()
    began = time.monotonic()
    await doomed.lane.kill()
    assert time.monotonic() - began < 3
    assert doomed.lane.origin.pid is not None
    assert not is_alive(doomed.lane.origin.pid)


async def test_kill_may_be_called_again_and_at_once(doomed: Line) -> None:
    await asyncio.gather(doomed.lane.kill(), doomed.lane.kill())
    await doomed.lane.kill()
    doomed.send(Shop.echo, 1)  # does nothing, and raises nothing
    doomed.lane.cancel(1)
    doomed.lane.credit(1, 1)
    assert not doomed.ear.lost


# ---------------------------------------------------------------------------------------------------------------------
# Start


def construct(how: str) -> NoReturn:
    if how == "raise":
        raise ValueError("no weights")
    if how == "die":
        os._exit(3)
    if how == "interrupt":
        raise KeyboardInterrupt
    sys.exit("not today")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("raise", "no weights"),
        ("exit", "SystemExit: not today"),
        ("interrupt", "KeyboardInterrupt"),
        ("die", "died while"),
    ],
)
async def test_a_start_that_fails_says_why(how: str, says: str) -> None:  # G8
    launcher = HostLauncher(functools.partial(construct, how))
    await launcher.open(Ear())
    with pytest.raises(StartFailed, match=says) as caught:
        await launcher.launch(1)
    if how == "raise":
        assert type(caught.value.__cause__) is ValueError
        assert "no weights" in str(caught.value.__cause__.__cause__)
    await launcher.aclose()


async def test_a_failed_start_that_is_given_up_while_its_worker_is_ended_waits_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # G12
    kill, is_ending, may_end = HostLane._kill, asyncio.Event(), asyncio.Event()  # noqa: SLF001

    async def kill_late(lane: HostLane, timeout: float) -> None:
        is_ending.set()
        await may_end.wait()
        await kill(lane, timeout)

    monkeypatch.setattr(HostLane, "_kill", kill_late)
    before = asyncio.all_tasks()
    launcher = HostLauncher(functools.partial(construct, "raise"))
    await launcher.open(Ear())
    start = asyncio.ensure_future(launcher.launch(1))
    await is_ending.wait()
    start.cancel()
    asyncio.get_running_loop().call_later(0.05, may_end.set)
    await asyncio.wait({start})
    assert start.cancelled()
    assert asyncio.all_tasks() <= before
    await launcher.aclose()


async def test_a_factory_that_cannot_be_pickled_is_named() -> None:
    lock = threading.Lock()
    launcher = HostLauncher(lambda: lock)
    with pytest.raises(PayloadError, match="the factory"):
        await launcher.open(Ear())


async def test_a_factory_that_cannot_be_unpickled_is_named() -> None:
    odd = CannotUnpickle(SystemExit)
    launcher = HostLauncher(lambda: odd)
    await launcher.open(Ear())
    with pytest.raises(StartFailed, match="the factory"):
        await launcher.launch(1)
    await launcher.aclose()


async def test_a_big_factory_is_deposited_once() -> None:
    weights = np.arange(1_000_000)
    ear = Ear()
    launcher, lane = await launch(ear, lambda: weights)
    assert isinstance(launcher._packed, ray.ObjectRef)  # noqa: SLF001
    assert await Line(lane, ear).run(lambda array: int(array[-1])) == 999_999
    await lane.kill()
    await launcher.aclose()


async def test_a_cancelled_start_leaves_nothing(gate: Gate) -> None:  # G12
    def construct_slowly(path: str = gate.path) -> None:
        wait_at(path, os.getpid())

    launcher = HostLauncher(construct_slowly)
    await launcher.open(Ear())
    start = asyncio.create_task(launcher.launch(1))
    (pid,) = await gate.reached()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await launcher.aclose()
    async with asyncio.timeout(PATIENCE):
        while is_alive(int(pid)):
            await asyncio.sleep(0.01)


async def test_a_start_that_waits_for_room_can_be_cancelled_and_names_the_resource() -> None:
    launcher = HostLauncher(Shop, ray_options={"resources": {"room": 1000}})
    await launcher.open(Ear())
    assert await launcher.shortage() is None
    start = asyncio.create_task(launcher.launch(1))
    await asyncio.sleep(0.1)
    shortage = await launcher.shortage()
    assert shortage is not None
    assert shortage.startswith("room: each worker needs 1000")
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await launcher.aclose()
