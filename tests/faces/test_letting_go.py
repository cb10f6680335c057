"""The other faces let errors go as the pool does: see `tests/contract/test_letting_go.py`."""

from __future__ import annotations

import asyncio
import collections
import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import ray

import poise
from poise._web.requests import Watched
from poise.testing import LocalPool
from tests.gate import wait_at

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.gate import Gate

WITHIN = 20.0
"""Seconds in which whatever is waited for must come."""


class Ballast:
    """What a caller's frame holds."""


class Trouble(Exception):
    """Unlike the exceptions that are built in it can be watched."""


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """What is in a cycle stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def watch(watched: object, gone: list[threading.Event]) -> None:
    event = threading.Event()
    gone.append(event)
    weakref.finalize(watched, event.set)


def suffer(way: Callable[..., object], *args: Any) -> list[threading.Event]:
    """Let a call fail, and give what is set when the error, and what its caller held, are gone."""
    ballast = Ballast()
    gone: list[threading.Event] = []
    try:
        way(*args)
    except Exception as error:  # noqa: BLE001 - whichever it is
        watch(ballast, gone)
        if type(error).__module__ not in {"builtins", "concurrent.futures._base"}:
            watch(error, gone)
        return gone
    raise AssertionError("nothing has failed")


async def suffer_awaiting(way: Callable[[], Awaitable[object]]) -> list[threading.Event]:
    """The same for what is awaited."""
    ballast = Ballast()
    gone: list[threading.Event] = []
    try:
        await way()
    except Trouble as error:
        watch(ballast, gone)
        watch(error, gone)
        return gone
    raise AssertionError("nothing has failed")


def are_gone(watched: list[threading.Event]) -> bool:
    """Whether all of it goes without the collector: a thread may be about to let go of it."""
    return all(event.wait(WITHIN) for event in watched)


# ---------------------------------------------------------------- the executor


class LocalExecutor(poise.Executor[Any]):
    """An executor whose workers live in this process."""

    def _make_pool(self, factory: Any, **options: Any) -> poise.Pool[Any]:
        return LocalPool(factory, **options)


def fail(error: BaseException) -> NoReturn:
    raise error


def result(executor: poise.Executor[None], gate: Gate) -> None:
    executor.submit(fail, Trouble("x")).result(WITHIN)


def exception(executor: poise.Executor[None], gate: Gate) -> None:
    failed: list[Any] = [executor.submit(fail, Trouble("x")).exception(WITHIN)]
    raise failed.pop()


def timed_out(executor: poise.Executor[None], gate: Gate) -> None:
    held = executor.submit(wait_at, gate.path)
    try:
        held.result(0.01)
    finally:
        gate.open()


def mapped(executor: poise.Executor[None], gate: Gate) -> None:
    collections.deque[None](executor.map(fail, [Trouble(n) for n in range(5)]))


def mapped_in_chunks(executor: poise.Executor[None], gate: Gate) -> None:
    collections.deque[None](executor.map(fail, [Trouble(n) for n in range(5)], chunksize=2, buffersize=1))


def cannot_travel(executor: poise.Executor[None], gate: Gate) -> None:
    executor.submit(list, (n for n in range(3))).result(WITHIN)


def cannot_come_back(executor: poise.Executor[None], gate: Gate) -> None:
    executor.submit(threading.Lock).result(WITHIN)


def refused(executor: poise.Executor[None], gate: Gate) -> None:
    calls = [executor.submit(wait_at, gate.path) for _ in range(20)]
    try:
        calls.pop().result(WITHIN)
    finally:
        calls.clear()
        gate.open()


def shut(executor: poise.Executor[None], gate: Gate) -> None:
    executor.shutdown()
    executor.submit(fail, Trouble("x"))


EXECUTOR_WAYS = [
    result,
    exception,
    timed_out,
    mapped,
    mapped_in_chunks,
    cannot_travel,
    cannot_come_back,
    refused,
    shut,
]


@pytest.mark.parametrize("way", EXECUTOR_WAYS)
@pytest.mark.parametrize("kind", [LocalExecutor, poise.Executor])
def test_an_error_of_an_executor_dies_with_its_last_name(
    shared_ray: None, kind: type[poise.Executor[None]], way: Callable[..., None], gate: Gate
) -> None:
    with kind(1, backlog=6) as executor:
        assert are_gone(suffer(way, executor, gate))


def test_the_error_of_an_executor_that_cannot_start_dies_with_its_last_name(gate: Gate) -> None:
    with LocalExecutor(2, initializer=fail, initargs=(Trouble("x"),)) as executor:
        assert are_gone(suffer(result, executor, gate))


async def test_an_error_of_an_awaited_future_dies_with_its_last_name() -> None:
    with LocalExecutor(2) as executor:
        gone = await suffer_awaiting(lambda: asyncio.wrap_future(executor.submit(fail, Trouble("x"))))
        await asyncio.sleep(0)
        assert are_gone(gone)


# ---------------------------------------------------------------- the pool of actors


class Actor:
    def echo(self, value: Any) -> Any:
        return value

    def fail(self, error: BaseException) -> NoReturn:
        raise error


def refuse(_: object, number: int) -> NoReturn:
    raise Trouble(number)


def nothing(_: object, __: int) -> None:
    """It should return an ObjectRef."""


def asked(pool: poise.ActorPool) -> None:
    pool.submit(lambda actor, error: actor.fail.remote(error), Trouble("x")).result(WITHIN)


def collected(pool: poise.ActorPool) -> None:
    pool.submit(lambda actor, error: actor.fail.remote(error), Trouble("x"))
    pool.get_next(WITHIN)


def collected_unordered(pool: poise.ActorPool) -> None:
    for n in range(3):
        pool.submit(lambda actor, error: actor.fail.remote(error), Trouble(n))
    pool.get_next_unordered(WITHIN)


def mapped_over_actors(pool: poise.ActorPool) -> None:
    list(pool.map(lambda actor, error: actor.fail.remote(error), [Trouble(n) for n in range(3)]))


def refused_at_once(pool: poise.ActorPool) -> None:
    pool.submit(refuse, 1)


def refused_in_its_turn(pool: poise.ActorPool) -> None:
    pool.submit(lambda actor, value: actor.echo.remote(value), 1)
    pool.submit(refuse, 1).result(WITHIN)


def of_no_reference(pool: poise.ActorPool) -> None:
    pool.submit(nothing, 1)


ACTOR_WAYS = [
    asked,
    collected,
    collected_unordered,
    mapped_over_actors,
    refused_at_once,
    refused_in_its_turn,
    of_no_reference,
]


@pytest.fixture(scope="module")
def actor(shared_ray: None) -> Iterator[Any]:
    actor: Any = ray.remote(Actor).options(num_cpus=0).remote()
    yield actor
    ray.kill(actor)  # pyright: ignore[reportUnknownMemberType]


@pytest.mark.parametrize("way", ACTOR_WAYS)
def test_an_error_of_an_actor_pool_dies_with_its_last_name(actor: Any, way: Callable[..., None]) -> None:
    assert are_gone(suffer(way, poise.ActorPool([actor])))


async def test_an_error_of_an_awaited_actor_call_dies_with_its_last_name(actor: Any) -> None:
    pool = poise.ActorPool([actor])

    async def call() -> None:
        await pool.submit(lambda actor, error: actor.fail.remote(error), Trouble("x"))

    gone = await suffer_awaiting(call)
    await asyncio.sleep(0)
    assert are_gone(gone)


# ---------------------------------------------------------------- applications


async def served(app: Callable[..., Awaitable[None]], receive: Callable[[], Awaitable[Any]]) -> None:
    """One request, in a task of its own, as servers do it."""

    async def send(message: Any) -> None:
        pass

    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    await asyncio.ensure_future(app(scope, receive, send))


async def never() -> NoReturn:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


async def broken() -> NoReturn:
    raise Trouble("the connection")


async def fails(scope: Any, receive: Any, send: Any) -> None:
    raise Trouble("the application")


async def reads(scope: Any, receive: Any, send: Any) -> None:
    await receive()


@pytest.mark.parametrize(("app", "receive"), [(fails, never), (reads, broken)])
async def test_an_error_of_an_application_dies_with_its_last_name(app: Any, receive: Any) -> None:
    async def request(scope: Any, receive: Any, send: Any) -> None:
        current: Any = None  # asked only when the client has gone
        await Watched(app, current, scope, receive, send).run()

    gone = await suffer_awaiting(lambda: served(request, receive))
    await asyncio.sleep(0)  # the task that has watched the connection ends
    await asyncio.sleep(0)
    assert are_gone(gone)
