"""Exceptions and values whose classes do their worst: each ends its own call, and the worker lives (G1, G9, G10)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from poise._protocol.words import class_name
from tests.protocol import hostile
from tests.protocol.hostile import HOSTILE, causes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import poise
    from tests.contract.conftest import OpenPool, SharePool

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Villain:
    def fail(self, number: int, *, behind: bool = False) -> NoReturn:
        error = HOSTILE[number]()
        raise causes(error) if behind else error

    async def fail_async(self, number: int, *, behind: bool = False) -> None:
        self.fail(number, behind=behind)

    def fail_later(self, number: int, *, behind: bool = False) -> Iterator[int]:
        yield 1
        self.fail(number, behind=behind)

    async def fail_later_async(self, number: int, *, behind: bool = False) -> AsyncIterator[int]:
        yield 1
        self.fail(number, behind=behind)

    def give(self, name: str) -> Any:
        return getattr(hostile, name)()

    async def give_async(self, name: str) -> Any:
        return getattr(hostile, name)()

    async def cancel_the_next(self) -> str:
        """Cancel whatever is on this loop, as a careless shutdown of the user's would."""
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()
        return "done"

    def bad_factory(self, _: asyncio.AbstractEventLoop, *__: Any, **___: Any) -> NoReturn:
        raise ValueError("no tasks today")

    async def forbid_tasks(self) -> None:
        asyncio.get_running_loop().set_task_factory(self.bad_factory)

    def fine(self) -> str:
        return "fine"


async def ending(pool: poise.Pool[Any], function: str, *args: Any, **kwargs: Any) -> Any:
    """What a call, or a stream, ends with."""

    async def consume() -> None:
        async for _ in pool.stream(function, *args, **kwargs):
            pass

    async with asyncio.timeout(60):
        try:
            return await (consume() if "later" in function else pool.run(function, *args, **kwargs))
        except Exception as error:  # noqa: BLE001 - any of them, or a call that never ends
            return error


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_hostile_exceptions_end_their_calls_and_leave_the_worker_whole(
    share_pool: SharePool, concurrency: int
) -> None:
    async with share_pool(Villain, size=1, concurrency=concurrency) as pool:
        for number, kind in enumerate(HOSTILE):
            for function in ("fail", "fail_async", "fail_later", "fail_later_async"):
                error = await ending(pool, function, number)
                assert class_name(type(error)) in {class_name(kind), "RemoteError"}, (class_name(kind), function)
                assert type(await ending(pool, function, number, behind=True)) is ValueError
        (worker,) = pool.stats().workers
        assert worker.running == 0
        assert await pool.run(Villain.fine) == "fine"


@pytest.mark.parametrize("function", ["give", "give_async"])
async def test_hostile_values_end_their_calls(share_pool: SharePool, function: str) -> None:
    async with share_pool(Villain, size=1, concurrency=1) as pool:
        assert isinstance(await ending(pool, function, "HidesItself"), Exception)
        assert isinstance(await ending(pool, function, "LiesAboutItself"), Exception)
        assert await pool.run(Villain.fine) == "fine"


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_loop_whose_tasks_cannot_be_made_ends_each_call(open_pool: OpenPool, concurrency: int) -> None:
    async with open_pool(Villain, size=1, concurrency=concurrency) as pool:
        await pool.run(Villain.forbid_tasks)
        for _ in range(concurrency + 1):
            assert "no tasks today" in str(await ending(pool, "give_async", "HidesItself"))
        assert await pool.run(Villain.fine) == "fine"


async def test_a_coroutine_that_others_cancel_before_its_first_step_is_answered(open_pool: OpenPool) -> None:
    async with open_pool(Villain, size=1, concurrency=8) as pool:
        calls = [pool.submit(Villain.cancel_the_next) for _ in range(400)]
        done, left = await asyncio.wait(calls, timeout=60)
        assert not left
        assert {"done"} <= {call.exception() or call.result() for call in done}
        assert await pool.run(Villain.fine) == "fine"


class _Odd(type):
    def __instancecheck__(cls, instance: object) -> NoReturn:
        raise ValueError("who knows")


class Odd(Exception, metaclass=_Odd):
    pass


async def test_a_class_that_cannot_be_asked_is_not_retried_and_hurts_nobody_else(share_pool: SharePool) -> None:
    async with share_pool(Villain, size=1, concurrency=1) as pool:
        before = pool.stats().retried
        odd = pool.options(retries=2, retry_on=(Odd,))
        calls = [odd.submit("fail", 2), pool.submit("fine"), odd.submit("fail", 2), pool.submit("fine")]
        done, left = await asyncio.wait(calls, timeout=60)
        assert len(done) == 4
        assert not left
        assert [calls[1].result(), calls[3].result()] == ["fine", "fine"]
        assert pool.stats().retried == before
        for call in done:
            call.exception()
