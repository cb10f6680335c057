"""With `concurrency=1` the constructor, plain methods, coroutines and streams share one thread."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.gate import leave_mark

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.contract.conftest import OpenPool, SharePool
    from tests.gate import Gate

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Shop:
    """Holds what belongs to the thread that made it, and what asyncio makes outside of a loop."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.books = sqlite3.connect(":memory:")  # refuses every other thread
        self.books.execute("create table sold (what)")
        self.lock = asyncio.Lock()
        self.news: asyncio.Queue[str] = asyncio.Queue()
        self.loops: set[int] = set()
        self.tasks: list[asyncio.Task[None]] = []

    def sell(self, what: str) -> int:
        self.books.execute("insert into sold values (?)", [what])
        return threading.get_ident() - self.thread

    async def sell_async(self, what: str) -> int:
        self.loops.add(id(asyncio.get_running_loop()))
        async with self.lock:
            await asyncio.sleep(0)
            return self.sell(what)

    def sold(self) -> Iterator[str]:
        for (what,) in self.books.execute("select what from sold order by what"):
            yield what

    async def sold_async(self) -> AsyncIterator[str]:
        for what in self.sold():
            await asyncio.sleep(0)
            yield what

    def sell_in_a_loop_of_its_own(self, what: str) -> int:
        async def sell() -> int:
            await asyncio.sleep(0)
            return self.sell(what)

        return asyncio.run(sell())

    def count_loops(self) -> int:
        return len(self.loops)

    async def tell(self, news: str) -> None:
        await self.news.put(news)

    async def hear(self) -> str:
        return await self.news.get()

    # ---------------------------------------------------------------- tasks that outlive their call

    async def open_late(self, gate: str) -> None:
        """Leave a task behind that opens a gate, after several turns of the loop."""

        async def work() -> None:
            for _ in range(5):
                await asyncio.sleep(0.001)
            leave_mark(gate, "late")

        self.tasks.append(asyncio.create_task(work()))

    async def tick(self, gate: str) -> None:
        async def work() -> None:
            while True:
                await asyncio.sleep(0)
                leave_mark(gate, "tick")

        self.tasks.append(asyncio.create_task(work()))

    def spin(self, gate: str) -> int:
        with open(gate + ".marks") as marks:
            return len(marks.readlines())

    async def leave_a_bomb(self) -> None:
        async def bomb() -> None:
            raise SystemExit("a bomb")

        self.tasks.append(asyncio.create_task(bomb()))

    async def stop_the_loop(self) -> str:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.001)
        return "went on"


async def test_every_kind_of_call_uses_what_the_constructor_made(open_pool: OpenPool) -> None:
    async with open_pool(Shop, size=1) as pool:
        assert await pool.run(Shop.sell, "a") == 0
        assert await pool.run(Shop.sell_async, "b") == 0
        assert await pool.run(Shop.sell_in_a_loop_of_its_own, "c") == 0
        assert await pool.run(Shop.sell_async, "d") == 0
        assert [what async for what in pool.stream(Shop.sold)] == ["a", "b", "c", "d"]
        assert [what async for what in pool.stream(Shop.sold_async)] == ["a", "b", "c", "d"]
        assert await pool.run(Shop.count_loops) == 1, "every coroutine runs on the same loop"


async def test_many_calls_of_every_kind_take_turns(share_pool: SharePool) -> None:
    kinds: list[Any] = [Shop.sell, Shop.sell_async, Shop.sell_in_a_loop_of_its_own]
    async with share_pool(Shop, size=1) as pool:
        before = len([what async for what in pool.stream(Shop.sold_async)])
        calls = [pool.submit(kinds[number % 3], str(number)) for number in range(300)]
        assert set(await asyncio.gather(*calls)) == {0}
        assert len([what async for what in pool.stream(Shop.sold_async)]) == before + 300


async def test_what_asyncio_made_in_the_constructor_works_in_coroutines(share_pool: SharePool) -> None:
    async with share_pool(Shop, size=1) as pool:
        await pool.run(Shop.tell, "news")
        assert await pool.run(Shop.hear) == "news"


async def test_a_running_coroutine_is_cancelled_and_the_next_call_runs(share_pool: SharePool) -> None:
    async with share_pool(Shop, size=1) as pool:
        call = pool.submit(Shop.hear)
        async with asyncio.timeout(60):
            while not pool.stats().running:
                await asyncio.sleep(0.001)
            call.cancel()
            assert await pool.run(Shop.sell, "a") == 0
            assert await pool.run(Shop.sell_async, "b") == 0


async def test_tasks_of_the_users_go_on_while_the_worker_waits(share_pool: SharePool, gate: Gate) -> None:
    async with share_pool(Shop, size=1) as pool:
        await pool.run(Shop.open_late, gate.path)
        await gate.reached()  # though no further call is made


async def test_tasks_of_the_users_go_on_between_plain_calls(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(Shop, size=1) as pool:
        await pool.run(Shop.tick, gate.path)
        await gate.reached()
        async with asyncio.timeout(60):
            first = await pool.run(Shop.spin, gate.path)
            while len(set(await asyncio.gather(*(pool.run(Shop.spin, gate.path) for _ in range(50))))) == 1:
                pass
            assert await pool.run(Shop.spin, gate.path) > first


async def test_what_stops_loops_does_not_stop_the_worker(open_pool: OpenPool) -> None:
    async with open_pool(Shop, size=1) as pool:
        await pool.run(Shop.leave_a_bomb)
        assert await pool.run(Shop.sell_async, "a") == 0
        assert await pool.run(Shop.stop_the_loop) == "went on"
        assert await pool.run(Shop.sell, "b") == 0
        assert len(pool.stats().workers) == 1
        assert pool.stats().workers[0].id == 0


async def test_streams_that_are_left_free_the_thread(share_pool: SharePool) -> None:
    async with share_pool(Shop, size=1) as pool:
        for number in range(40):
            await pool.run(Shop.sell, f"{number:02}")
        for _ in range(3):
            async for _ in pool.stream(Shop.sold_async):
                break
            assert await pool.run(Shop.sell_async, "x") == 0
