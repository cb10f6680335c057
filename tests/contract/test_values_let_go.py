"""Values die when their call is over, on both sides, while the pool is idle and without the collector."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

import poise
from tests.contract.desk import Desk, is_idle
from tests.gate import leave_mark, wait_at_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from tests.contract.conftest import SharePool
    from tests.gate import Gate

    Way = Callable[[poise.Pool[Desk], str], Awaitable[set[str]]]

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Load:
    """Leaves a mark when it dies. Each time that it travels its name gets a dash."""

    def __init__(self, gate: str, name: str, size: int = 1000) -> None:
        self.gate = gate
        self.name = name
        self.ballast = bytes(size)
        weakref.finalize(self, leave_mark, gate, name).atexit = False

    def __reduce__(self) -> tuple[type[Load], tuple[str, str, int]]:
        return Load, (self.gate, f"{self.name}-", len(self.ballast))


# ---------------------------------------------------------------- what the workers do


def no_collector(_: Desk) -> None:
    gc.collect()
    gc.disable()


def fail(_: Desk, load: Load) -> NoReturn:
    held = [load]
    raise ValueError(len(held))


async def fail_later(_: Desk, load: Load) -> NoReturn:
    await asyncio.sleep(0)
    raise ValueError(load.name)


async def hold(_: Desk, load: Load) -> None:
    await wait_at_async(f"{load.gate}.never", load.name)


def lock(_: Desk, load: Load) -> Any:
    return threading.Lock(), load


def loads(_: Desk, load: Load, count: int) -> Iterator[Load]:
    for number in range(count):
        yield Load(load.gate, f"item {number}")


async def async_loads(_: Desk, load: Load, count: int) -> AsyncIterator[Load]:
    for number in range(count):
        yield Load(load.gate, f"item {number}")


# ---------------------------------------------------------------- ways, and whose death is to be seen


async def returned(pool: poise.Pool[Desk], gate: str) -> set[str]:
    await pool.run(Desk.echo, Load(gate, "a"))
    return {"a", "a-", "a--"}


async def returned_through_ray(pool: poise.Pool[Desk], gate: str) -> set[str]:
    await pool.run(Desk.echo, Load(gate, "a", 17 << 20))
    return {"a", "a-", "a--"}


async def returned_later(pool: poise.Pool[Desk], gate: str) -> set[str]:
    call = pool.submit(Desk.async_echo, Load(gate, "a"))
    await call
    return {"a", "a-", "a--"}


async def raised(pool: poise.Pool[Desk], gate: str) -> set[str]:
    for function, name in ((fail, "a"), (fail_later, "b")):
        with pytest.raises(ValueError):  # noqa: PT011 - the message is of no interest
            await pool.run(function, Load(gate, name))
    return {"a", "a-", "b", "b-"}


async def cannot_come_back(pool: poise.Pool[Desk], gate: str) -> set[str]:
    with pytest.raises(poise.PayloadError):
        await pool.run(lock, Load(gate, "a"))
    return {"a", "a-"}


async def cancelled(pool: poise.Pool[Desk], gate: str) -> set[str]:
    call = pool.submit(hold, Load(gate, "a"))
    while not pool.stats().in_flight:
        await asyncio.sleep(0)
    call.cancel()
    return {"a"}  # it may not have begun


async def expired(pool: poise.Pool[Desk], gate: str) -> set[str]:
    with pytest.raises(poise.DeadlineExceeded):
        await pool.options(timeout=0.05).run(hold, Load(gate, "a"))
    return {"a", "a-"}


async def given_up_in_the_queue(pool: poise.Pool[Desk], gate: str) -> set[str]:
    calls = [pool.submit(Desk.slow, Load(gate, f"{number}"), 0.01) for number in range(6)]
    for call in calls[1:]:
        call.cancel()
    await calls[0]
    return {f"{number}" for number in range(6)} | {"0-", "0--"}


async def streamed(pool: poise.Pool[Desk], gate: str) -> set[str]:
    for function, name in ((loads, "a"), (async_loads, "b")):
        async for item in pool.stream(function, Load(gate, name), 3):
            del item
    return {"a", "a-", "b", "b-", "item 0", "item 1", "item 2", "item 0-", "item 1-", "item 2-"}


async def left(pool: poise.Pool[Desk], gate: str) -> set[str]:
    async for item in pool.stream(loads, Load(gate, "a"), 100):
        if item.name == "item 2-":
            break
    return {"a", "a-", *(f"item {number}{dashes}" for number in range(3) for dashes in ("", "-"))}


async def mapped(pool: poise.Pool[Desk], gate: str) -> set[str]:
    async for result in pool.map(Desk.echo, (Load(gate, f"{number}") for number in range(4))):
        del result
    return {f"{number}{dashes}" for number in range(4) for dashes in ("", "-", "--")}


async def leased(pool: poise.Pool[Desk], gate: str) -> set[str]:
    async with pool.lease() as worker:
        await worker.run(Desk.echo, Load(gate, "a"))
    return {"a", "a-", "a--"}


WAYS: list[Any] = [
    returned,
    returned_through_ray,
    returned_later,
    raised,
    cannot_come_back,
    cancelled,
    expired,
    given_up_in_the_queue,
    streamed,
    left,
    mapped,
    leased,
]


@pytest.mark.parametrize("way", WAYS)
async def test_values_die_with_their_call(share_pool: SharePool, gate: Gate, way: Way) -> None:
    gc.collect()
    gc.disable()
    expected: set[str] = set()
    try:
        async with share_pool(Desk, size=1) as pool:
            await pool.run(no_collector)
            expected = await way(pool, gate.path)
            await is_idle(pool)
            async with asyncio.timeout(20):
                while not expected <= set(gate.marks):
                    await gate.reached(len(gate.marks) + 1)
    except TimeoutError:
        pytest.fail(f"these live on: {expected - set(gate.marks)}")
    finally:
        gc.enable()
