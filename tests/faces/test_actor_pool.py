"""The drop-in for `ray.util.ActorPool`: beside the original where that is right, and alone where it is not."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import gc
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import ray
from ray.util.actor_pool import ActorPool as OriginalPool

import poise
from tests.gate import Gate, leave_mark, wait_at
from tests.untrue import EmptyError, FalseError, fail_untruly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Spawn = Callable[..., list[Any]]

pytestmark = pytest.mark.usefixtures("shared_ray")

WITHIN = 60.0
"""Seconds in which whatever is waited for must come."""


class Actor:
    def double(self, value: int) -> int:
        return 2 * value

    def echo(self, value: Any) -> Any:
        return value

    def who(self, _: object) -> int:
        return os.getpid()

    def hold(self, gate: str) -> str:
        wait_at(gate)
        return gate

    def mark(self, gate: str) -> None:
        leave_mark(gate, "called")

    def fail(self, value: Any) -> NoReturn:
        raise ValueError(value)

    def fail_untruly(self, error: type[Exception]) -> NoReturn:
        fail_untruly(error)

    def die(self, _: object) -> NoReturn:
        os._exit(1)


class Plain:
    """Something that can be watched with a weak reference."""


@pytest.fixture(scope="module")
def shared_actors(shared_ray: None) -> Iterator[list[Any]]:
    """For tests that leave them alive and idle."""
    actors: list[Any] = [ray.remote(Actor).options(num_cpus=0).remote() for _ in range(2)]
    yield actors
    for actor in actors:
        ray.kill(actor)


@pytest.fixture
def actors(shared_actors: list[Any]) -> Iterator[list[Any]]:
    yield list(shared_actors)
    ray.get([actor.echo.remote(0) for actor in shared_actors], timeout=WITHIN)  # idle again


@pytest.fixture
def spawn(shared_ray: None) -> Iterator[Spawn]:
    """Make actors that the test may kill."""
    made: list[Any] = []

    def spawn_them(count: int, **options: Any) -> list[Any]:
        new = [ray.remote(Actor).options(num_cpus=0, **options).remote() for _ in range(count)]
        made.extend(new)
        return new

    yield spawn_them
    for actor in made:
        ray.kill(actor)


@pytest.fixture(autouse=True)
def no_threads_left(make_gate: Any) -> Iterator[None]:
    yield
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("poise")]
    for thread in threads:
        thread.join(WITHIN)
    assert not [thread.name for thread in threads if thread.is_alive()]


@pytest.fixture(params=[OriginalPool, poise.ActorPool], ids=["ray", "poise"])
def pool_type(request: pytest.FixtureRequest) -> Any:
    """The original and ours: what is tested with this is true of both."""
    return request.param


def double(actor: Any, value: int) -> Any:
    return actor.double.remote(value)


def echo(actor: Any, value: Any) -> Any:
    return actor.echo.remote(value)


def hold(actor: Any, gate: str) -> Any:
    return actor.hold.remote(gate)


def fail(actor: Any, value: Any) -> Any:
    return actor.fail.remote(value)


def die(actor: Any, value: Any) -> Any:
    return actor.die.remote(value)


def reached(gate: Gate, count: int = 1) -> None:
    asyncio.run(gate.reached(count))


# ---------------------------------------------------------------- like the original


def test_idle_actors_take_turns(actors: list[Any]) -> None:
    pool = poise.ActorPool(actors)
    came = [pool.submit(lambda actor, value: actor.who.remote(value), n).result(WITHIN) for n in range(6)]
    assert came[:2] * 3 == came
    assert len(set(came)) == 2


def test_map_gives_results_in_order(pool_type: Any, actors: list[Any]) -> None:
    pool = pool_type(actors)
    assert list(pool.map(double, range(20))) == [2 * n for n in range(20)]
    assert list(pool.map(double, [])) == []


def test_map_unordered_gives_all_results(pool_type: Any, actors: list[Any]) -> None:
    pool = pool_type(actors)
    assert sorted(pool.map_unordered(double, range(20))) == [2 * n for n in range(20)]


def test_submissions_are_collected_in_order(pool_type: Any, actors: list[Any]) -> None:
    pool = pool_type(actors)
    assert not pool.has_next()
    for number in range(5):
        pool.submit(double, number)
    collected = []
    while pool.has_next():
        collected.append(pool.get_next())
    assert collected == [0, 2, 4, 6, 8]


def test_submissions_are_collected_as_they_end(pool_type: Any, actors: list[Any], gate: Gate) -> None:
    pool = pool_type(actors)
    pool.submit(hold, gate.path)
    pool.submit(double, 4)
    assert pool.get_next_unordered(timeout=WITHIN) == 8
    gate.open()
    assert pool.get_next_unordered() == gate.path
    assert not pool.has_next()


@pytest.mark.parametrize("get", ["get_next", "get_next_unordered"])
def test_collecting_from_an_empty_pool_stops(pool_type: Any, actors: list[Any], get: str) -> None:
    with pytest.raises(StopIteration, match="No more results to get"):
        getattr(pool_type(actors), get)()


@pytest.mark.parametrize("get", ["get_next", "get_next_unordered"])
def test_a_result_that_times_out_is_still_to_be_collected(
    pool_type: Any, actors: list[Any], gate: Gate, get: str
) -> None:
    pool = pool_type(actors)
    pool.submit(hold, gate.path)
    with pytest.raises(TimeoutError, match=r"^Timed out waiting for result$"):
        getattr(pool, get)(timeout=0.01)
    assert pool.has_next()
    gate.open()
    assert getattr(pool, get)(timeout=WITHIN) == gate.path


def test_a_result_that_is_ignored_when_it_times_out_is_not_collected(
    pool_type: Any, actors: list[Any], gate: Gate
) -> None:
    pool = pool_type(actors)
    pool.submit(hold, gate.path)
    with pytest.raises(
        TimeoutError, match=r"Timed out waiting for result\. The task ObjectRef\(\w+\) has been ignored\."
    ):
        pool.get_next(timeout=0.01, ignore_if_timedout=True)
    assert not pool.has_next()
    pool.submit(double, 2)
    gate.open()
    assert pool.get_next() == 4


def test_get_next_cannot_go_back_behind_what_was_collected_unordered(
    pool_type: Any, actors: list[Any], gate: Gate
) -> None:
    pool = pool_type(actors)
    pool.submit(hold, gate.path)
    pool.submit(double, 1)
    assert pool.get_next_unordered(timeout=WITHIN) == 2
    with pytest.raises(ValueError, match=r"It is not allowed to call get_next\(\) after get_next_unordered\(\)\."):
        pool.get_next()
    pool.submit(double, 3)
    assert pool.get_next(timeout=WITHIN) == 6
    gate.open()
    assert pool.get_next_unordered() == gate.path


def test_an_exception_is_raised_in_its_turn_and_the_actor_goes_on(pool_type: Any, actors: list[Any]) -> None:
    pool = pool_type(actors[:1])
    pool.submit(fail, "no")
    pool.submit(double, 1)
    with pytest.raises(ValueError, match="no") as caught:
        pool.get_next()
    assert isinstance(caught.value, ray.exceptions.RayTaskError)
    assert pool.get_next() == 2


def test_idle_actors_are_popped_and_pushed(pool_type: Any, actors: list[Any]) -> None:
    pool = pool_type(actors[:1])
    pool.submit(double, 1)
    assert pool.get_next() == 2
    assert pool.has_free()
    assert pool.pop_idle() == actors[0]
    assert not pool.has_free()
    assert pool.pop_idle() is None
    pool.push(actors[1])
    assert pool.has_free()
    pool.submit(double, 2)
    assert pool.get_next() == 4


def test_a_busy_actor_is_not_popped(pool_type: Any, actors: list[Any], gate: Gate) -> None:
    pool = pool_type(actors[:1])
    pool.submit(hold, gate.path)
    assert not pool.has_free()
    assert pool.pop_idle() is None
    gate.open()
    assert pool.get_next() == gate.path
    assert pool.pop_idle() == actors[0]


def test_an_actor_is_pushed_only_once(pool_type: Any, actors: list[Any], gate: Gate) -> None:
    pool = pool_type(actors)
    with pytest.raises(ValueError, match="Actor already belongs to current ActorPool"):
        pool.push(actors[0])
    pool.submit(hold, gate.path)
    with pytest.raises(ValueError, match="Actor already belongs to current ActorPool"):
        pool.push(actors[1])
    gate.open()
    assert pool.get_next() == gate.path


def test_an_actor_that_is_pushed_takes_what_waits(pool_type: Any, actors: list[Any], gate: Gate) -> None:
    pool = pool_type(actors[:1])
    pool.submit(hold, gate.path)
    pool.submit(double, 3)
    pool.push(actors[1])
    assert pool.get_next_unordered(timeout=WITHIN) == 6
    gate.open()
    assert pool.get_next_unordered() == gate.path


def test_a_pool_without_actors_has_nothing_to_collect_until_one_is_pushed(pool_type: Any, actors: list[Any]) -> None:
    pool = pool_type([])
    pool.submit(double, 3)
    assert not pool.has_next()
    with pytest.raises(StopIteration):
        pool.get_next()
    assert list(pool.map(double, [])) == []
    pool.push(actors[0])
    if pool_type is OriginalPool:  # which hands out what it was told to give up
        assert pool.get_next() == 6
    pool.submit(double, 4)
    assert pool.get_next() == 8


def test_map_gives_up_earlier_submissions(pool_type: Any, actors: list[Any], gate: Gate) -> None:
    pool = pool_type(actors)
    pool.submit(hold, gate.path)
    results = pool.map(double, range(4))
    gate.open()
    assert list(results) == [0, 2, 4, 6]


def test_fn_may_return_a_list_of_references(pool_type: Any, actors: list[Any]) -> None:
    pool = pool_type(actors)
    results = pool.map(lambda actor, value: [actor.double.remote(value), actor.echo.remote(value)], range(4))
    assert list(results) == [[0, 0], [2, 1], [4, 2], [6, 3]]


def test_an_actor_that_died_fails_its_call_and_leaves_the_pool(pool_type: Any, spawn: Spawn) -> None:
    pool = pool_type(spawn(2))
    pool.submit(die, None)
    with pytest.raises(ray.exceptions.ActorDiedError):
        pool.get_next()
    assert list(pool.map(double, range(6))) == [2 * n for n in range(6)]
    assert pool.pop_idle() is not None
    assert pool.pop_idle() is None


# ---------------------------------------------------------------- unlike the original


def test_an_ignored_call_keeps_its_actor_busy_until_it_has_ended(actors: list[Any], gate: Gate) -> None:  # G3
    pool = poise.ActorPool(actors[:1])
    pool.submit(hold, gate.path)
    with pytest.raises(TimeoutError, match="has been ignored"):
        pool.get_next(timeout=0.01, ignore_if_timedout=True)
    assert not pool.has_free()
    assert pool.pop_idle() is None
    gate.open()
    assert pool.submit(double, 2).result(WITHIN) == 4
    assert pool.pop_idle() == actors[0]


def test_ignoring_takes_the_oldest_where_any_would_do(actors: list[Any], make_gate: Callable[[str], Gate]) -> None:
    first, second = make_gate("first"), make_gate("second")
    pool = poise.ActorPool(actors)
    pool.submit(hold, first.path)
    pool.submit(hold, second.path)
    with pytest.raises(TimeoutError, match=r"The task ObjectRef\(\w+\) has been ignored\."):
        pool.get_next_unordered(timeout=0.01, ignore_if_timedout=True)
    first.open()
    second.open()
    assert pool.get_next_unordered() == second.path
    assert not pool.has_next()


def test_ignoring_a_call_that_waits_lets_it_run_all_the_same(actors: list[Any], gate: Gate, tmp_path: Any) -> None:
    log = Gate(tmp_path / "log")
    pool = poise.ActorPool(actors[:1])
    held, waiting = pool.submit(hold, gate.path), pool.submit(lambda actor, path: actor.mark.remote(path), log.path)
    for _ in range(2):
        with pytest.raises(TimeoutError, match="has been ignored"):
            pool.get_next(timeout=0, ignore_if_timedout=True)
    assert not pool.has_next()
    gate.open()
    cf.wait([held, waiting])
    assert log.marks == ["called"]


def test_the_end_of_a_call_frees_the_actor_and_not_its_collection(actors: list[Any]) -> None:
    pool = poise.ActorPool(actors[:1])
    calls = [pool.submit(double, number) for number in range(5)]
    cf.wait(calls)  # nobody has collected anything
    assert pool.has_free()
    assert [pool.get_next() for _ in range(5)] == [0, 2, 4, 6, 8]


def test_a_call_gives_its_result_in_a_thread_whether_or_not_an_actor_was_free(actors: list[Any], gate: Gate) -> None:
    pool = poise.ActorPool(actors[:1])
    held, waiting = pool.submit(hold, gate.path), pool.submit(double, 3)
    assert held.running()
    assert not waiting.running()
    with pytest.raises(TimeoutError):
        waiting.result(timeout=0)
    gate.open()
    assert (held.result(WITHIN), waiting.result(WITHIN)) == (gate.path, 6)


async def test_calls_are_awaited_from_an_event_loop(actors: list[Any]) -> None:
    pool = poise.ActorPool(actors)
    assert await pool.submit(double, 3) == 6
    assert await asyncio.gather(*(pool.submit(double, n) for n in range(50))) == [2 * n for n in range(50)]
    with pytest.raises(ValueError, match="no"):
        await pool.submit(fail, "no")


async def test_two_tasks_may_await_one_call(actors: list[Any], gate: Gate) -> None:
    call = poise.ActorPool(actors).submit(hold, gate.path)

    async def wait() -> Any:
        return await call

    tasks = [asyncio.create_task(wait()) for _ in range(2)]
    await gate.reached()
    gate.open()
    assert await asyncio.gather(*tasks) == [gate.path] * 2


async def test_a_call_that_is_awaited_is_not_collected(actors: list[Any]) -> None:
    pool = poise.ActorPool(actors)
    calls = [pool.submit(double, number) for number in range(6)]
    assert await calls[0] == 0
    assert calls[2].result(WITHIN) == 4
    assert calls[5].exception(WITHIN) is None
    assert [pool.get_next(), pool.get_next()] == [2, 6]
    assert pool.get_next_unordered() == 8
    assert not pool.has_next()


async def test_awaiting_and_collecting_are_mixed_on_one_pool(actors: list[Any]) -> None:
    pool = poise.ActorPool(actors)

    async def await_some() -> list[int]:
        return [await pool.submit(double, number) for number in range(100, 150)]

    awaiting = asyncio.create_task(await_some())
    collected = await asyncio.to_thread(lambda: list(pool.map(double, range(50))))
    assert await awaiting == [2 * n for n in range(100, 150)]
    assert sorted(set(collected) & {2 * n for n in range(50)}) == [2 * n for n in range(50)]


def test_threads_share_a_pool(actors: list[Any]) -> None:
    pool = poise.ActorPool(actors)
    with cf.ThreadPoolExecutor(8) as threads:
        results = threads.map(lambda n: pool.submit(double, n).result(WITHIN), range(400))
        assert list(results) == [2 * n for n in range(400)]
    assert not pool.has_next()


@pytest.mark.parametrize("get", [poise.ActorPool.get_next, poise.ActorPool.get_next_unordered])
def test_threads_that_collect_get_each_result_once(actors: list[Any], get: Callable[..., int]) -> None:
    pool = poise.ActorPool(actors)
    for number in range(200):
        pool.submit(echo, number)

    def collect() -> list[int]:
        collected: list[int] = []
        while True:
            try:
                collected.append(get(pool, WITHIN))
            except StopIteration:
                return collected

    with cf.ThreadPoolExecutor(4) as threads:
        parts = [threads.submit(collect) for _ in range(4)]
    assert sorted(number for part in parts for number in part.result()) == list(range(200))


def test_a_call_that_waits_can_be_cancelled_and_never_runs(actors: list[Any], gate: Gate, tmp_path: Any) -> None:
    log = Gate(tmp_path / "log")
    pool = poise.ActorPool(actors[:1])
    held = pool.submit(hold, gate.path)
    waiting, last = pool.submit(lambda actor, path: actor.mark.remote(path), log.path), pool.submit(double, 1)
    assert not held.cancel()
    assert waiting.cancel()
    assert cf.wait([waiting]) == ({waiting}, set())
    gate.open()
    assert [pool.get_next(), pool.get_next()] == [gate.path, 2]
    assert last.done()
    assert not pool.has_next()
    assert log.marks == []


async def test_cancelling_the_await_cancels_a_call_that_waits(actors: list[Any], gate: Gate) -> None:
    pool = poise.ActorPool(actors[:1])
    held, waiting = pool.submit(hold, gate.path), pool.submit(double, 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waiting, 0.01)
    assert waiting.cancelled()
    gate.open()
    assert await held == gate.path


def test_an_error_of_fn_is_raised_at_once_and_costs_no_actor(actors: list[Any]) -> None:
    pool = poise.ActorPool(actors[:1])
    for _ in range(3):
        with pytest.raises(AttributeError):
            pool.submit(lambda actor, _: actor.no_such_method.remote(), 1)
    assert not pool.has_next()
    assert pool.submit(double, 1).result(WITHIN) == 2


def test_an_error_of_fn_comes_with_the_call_if_that_had_to_wait(actors: list[Any], gate: Gate) -> None:
    pool = poise.ActorPool(actors[:1])
    pool.submit(hold, gate.path)
    failed, last = pool.submit(lambda actor, _: actor.no_such_method.remote(), 1), pool.submit(double, 1)
    gate.open()
    assert last.result(WITHIN) == 2
    assert pool.get_next() == gate.path
    with pytest.raises(AttributeError):
        pool.get_next()
    assert isinstance(failed.exception(), AttributeError)


@pytest.mark.parametrize("error", [FalseError, EmptyError])  # Ray itself ends an actor that raises the third
async def test_an_exception_that_is_not_true_is_raised(actors: list[Any], error: type[Exception]) -> None:
    pool = poise.ActorPool(actors[:1])

    def call(actor: Any, value: Any) -> Any:
        return actor.fail_untruly.remote(value)

    with pytest.raises(error):
        pool.submit(call, error).result(WITHIN)
    with pytest.raises(error):
        await pool.submit(call, error)
    with pytest.raises(error):
        list(pool.map(call, [error]))
    with pytest.raises(error):
        pool.submit(lambda _, value: fail_untruly(value), error)
    assert pool.submit(double, 1).result(WITHIN) == 2


@pytest.mark.parametrize(
    ("returned", "error"), [(5, ValueError), (None, ValueError), ((), ValueError), ([5], TypeError)], ids=repr
)
def test_fn_must_return_references(actors: list[Any], returned: Any, error: type[Exception]) -> None:
    pool = poise.ActorPool(actors)
    with pytest.raises(error, match="must return an ObjectRef or a list of them"):
        pool.submit(lambda actor, _: returned, 1)
    assert pool.submit(lambda actor, _: [], 1).result() == []
    assert pool.has_free()


def test_fn_may_wait_for_ray_itself(actors: list[Any]) -> None:
    pool = poise.ActorPool(actors)

    def store(actor: Any, value: int) -> Any:
        ref = ray.put(bytes(value))
        assert ray.get(ref, timeout=WITHIN) == bytes(value)
        return actor.echo.remote(ref)

    calls = [pool.submit(store, 1_000_000) for _ in range(10)]
    assert [len(call.result(WITHIN)) for call in calls] == [1_000_000] * 10


def test_a_list_frees_its_actor_when_all_of_it_has_ended(actors: list[Any], gate: Gate) -> None:
    pool = poise.ActorPool(actors[:1])
    other = actors[1]
    call = pool.submit(lambda actor, path: [actor.fail.remote("no"), other.hold.remote(path)], gate.path)
    reached(gate)
    assert not pool.has_free()
    gate.open()
    assert isinstance(call.exception(WITHIN), ValueError)
    assert pool.has_free()


def test_a_call_that_fails_because_of_another_actor_leaves_its_own_in_the_pool(spawn: Spawn, actors: list[Any]) -> None:
    (other,) = spawn(1)
    pool = poise.ActorPool(actors[:1])
    call = pool.submit(lambda actor, _: actor.echo.remote(other.die.remote(1)), 1)
    assert call.exception(WITHIN) is not None
    assert pool.submit(double, 1).result(WITHIN) == 2


def test_with_the_last_actor_dead_the_calls_that_wait_fail(spawn: Spawn, actors: list[Any]) -> None:  # G8
    pool = poise.ActorPool(spawn(1))
    results = pool.map(lambda actor, value: die(actor, value) if value == 1 else double(actor, value), range(4))
    assert next(results) == 0
    with pytest.raises(ray.exceptions.ActorDiedError):
        next(results)
    with pytest.raises(poise.PoolBroken, match=r"no actor is left \(1 died\)"):
        pool.get_next()
    call = pool.submit(double, 1)
    assert isinstance(call.exception(0), poise.PoolBroken)
    assert isinstance(pool.submit(double, 1).exception(0), poise.PoolBroken)
    pool.push(actors[0])
    assert pool.submit(double, 1).result(WITHIN) == 2


def test_a_restarting_actor_stays_in_the_pool(spawn: Spawn) -> None:
    pool = poise.ActorPool(spawn(1, max_restarts=1))
    assert pool.submit(die, None).exception(WITHIN) is not None
    assert pool.has_free()
    deadline = time.monotonic() + WITHIN
    while (error := pool.submit(double, 2).exception(WITHIN)) is not None:  # unavailable while it restarts
        assert isinstance(error, ray.exceptions.ActorUnavailableError)
        assert time.monotonic() < deadline


def test_nothing_is_kept_of_a_call_that_was_awaited(actors: list[Any]) -> None:
    pool = poise.ActorPool(actors)
    call = pool.submit(lambda actor, value: actor.echo.remote(value), Plain())
    watch, watch_result = weakref.ref(call), weakref.ref(call.result(WITHIN))
    del call
    gc.disable()
    try:
        deadline = time.monotonic() + WITHIN
        while watch() is not None or watch_result() is not None:  # Ray's thread may not have let go yet
            assert time.monotonic() < deadline, gc.get_referrers(watch() or watch_result())
            time.sleep(0.001)
    finally:
        gc.enable()
