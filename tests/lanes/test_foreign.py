"""The lane to actors that somebody else has made."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import pytest_asyncio
import ray

from poise._answers import RETURNED
from poise._lanes.foreign import ForeignLauncher
from poise._lanes.lane import StartFailed
from poise.errors import ConfigError, PayloadError, RemoteError
from tests.gate import Gate, leave_mark
from tests.lanes.ear import Ear, Line
from tests.protocol.odd import CannotPickle, OddArguments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("shared_ray")]


class Shop:
    def __init__(self) -> None:
        self.total = 0

    def add(self, amount: int) -> int:
        self.total += amount
        return self.total

    def echo(self, value: Any) -> Any:
        return value

    def fail(self) -> NoReturn:
        raise ValueError("no")

    def fail_oddly(self) -> NoReturn:
        raise OddArguments(3, where="here")

    def die(self) -> None:
        os._exit(1)

    def count(self, end: int, gate: str) -> Iterator[int]:
        for number in range(end):
            leave_mark(gate, number)
            yield number

    def break_off(self) -> Iterator[int]:
        yield 1
        raise ValueError("in the middle")


RemoteShop: Any = ray.remote(Shop)


@pytest.fixture
def actor(shared_ray: None) -> Iterator[Any]:
    actor = RemoteShop.remote()
    yield actor
    ray.kill(actor)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def line(shared_ray: None) -> AsyncIterator[Line]:
    """An actor for all cases that leave it alive."""
    actor = RemoteShop.remote()
    async with opened(actor) as line:
        yield line
        assert not line.ear.lost
    ray.kill(actor)


@contextlib.asynccontextmanager
async def opened(actor: Any) -> AsyncIterator[Line]:
    ear = Ear()
    launcher = ForeignLauncher([actor])
    await launcher.open(ear)
    lane = await launcher.launch(1)
    yield Line(lane, ear)
    await lane.kill()
    await launcher.aclose()


async def test_methods_run_by_name_and_as_unbound_methods(line: Line) -> None:
    before = await line.run(Shop.add, 0)
    totals = [await line.run(method, 1) for method in ("add", Shop.add, RemoteShop.add)]
    assert totals == [before + 1, before + 2, before + 3]


async def test_other_functions_are_refused(line: Line) -> None:
    error = await line.error(lambda shop: shop.total)
    assert isinstance(error, PayloadError)
    assert "only their own methods" in str(error)
    assert not error.started
    assert "did you mean 'add'" in str(await line.error("addd"))


async def test_errors_arrive_as_themselves(line: Line) -> None:  # G10
    error = await line.error(Shop.fail)
    assert type(error) is ValueError
    assert "fail" in str(error.__cause__)
    assert isinstance(await line.error(Shop.fail_oddly), RemoteError)


async def test_what_cannot_be_pickled_is_named(line: Line) -> None:
    error = await line.error(Shop.echo, CannotPickle())
    assert isinstance(error, PayloadError)
    assert error.what == "argument 1"
    assert await line.run(Shop.echo, 1) == 1


async def test_an_object_ref_argument_is_resolved(line: Line) -> None:
    assert await line.run(Shop.echo, ray.put(5)) == 5


async def test_a_stream_comes_as_its_credit_allows(line: Line, gate: Gate) -> None:
    call = line.stream(Shop.count, 10, gate.path, credit=3)
    await line.ear.until(lambda: line.ear.items.get(call) == [0, 1, 2])
    line.lane.credit(call, 100)
    assert (await line.ear.answer(call)).ending == RETURNED
    assert line.ear.items[call] == list(range(10))


async def test_a_stream_that_raises_ends_with_the_exception(line: Line) -> None:
    call = line.stream(Shop.break_off, credit=10)
    assert type((await line.ear.answer(call)).value) is ValueError
    assert line.ear.items[call] == [1]


async def test_a_stream_that_nobody_reads_any_more_gives_its_slot_back(line: Line, gate: Gate) -> None:
    call = line.stream(Shop.count, 1000, gate.path, credit=3)
    await line.ear.until(lambda: len(line.ear.items.get(call, [])) == 3)
    line.lane.cancel(call)
    await line.ear.answer(call)
    assert line.ear.items[call] == [0, 1, 2]
    assert await line.run(Shop.echo, 1) == 1


async def test_a_generator_where_a_value_was_asked_for_says_what_to_use(line: Line, gate: Gate) -> None:
    error = await line.error(Shop.count, 3, gate.path)
    assert isinstance(error, PayloadError)
    assert "stream()" in error.reason
    assert await line.run(Shop.echo, 1) == 1


async def test_closing_lets_the_actor_live(actor: Any) -> None:
    async with opened(actor) as line:
        await line.lane.kill()
        await line.lane.kill()
    assert await actor.add.remote(1) == 1


async def test_death_is_heard_with_the_call(actor: Any) -> None:
    async with opened(actor) as line:
        call = line.send(Shop.die)
        await line.ear.until(lambda: bool(line.ear.lost))
        assert call not in line.ear.answers


async def test_a_dead_actor_is_a_failed_start(actor: Any) -> None:
    ray.kill(actor)
    launcher = ForeignLauncher([actor])
    await launcher.open(Ear())
    with pytest.raises(StartFailed, match="dead"):
        await launcher.launch(1)
    with pytest.raises(StartFailed, match="makes no others"):
        await launcher.launch(2)
    await launcher.aclose()


async def test_what_is_no_handle_is_refused(actor: Any) -> None:
    for handles in ([], [3], [actor, actor], [RemoteShop]):
        with pytest.raises(ConfigError, match="handles"):
            ForeignLauncher(handles)


async def test_a_launch_can_be_cancelled(actor: Any) -> None:
    launcher = ForeignLauncher([actor])
    await launcher.open(Ear())
    start = asyncio.create_task(launcher.launch(1))
    await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    lane = await launcher.launch(2)
    await lane.kill()
    await launcher.aclose()
