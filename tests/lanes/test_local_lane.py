"""The in-process lane: it must fail as a real one does."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, NoReturn

import pytest

from poise._answers import NOT_BEGUN, RAISED, RETURNED
from poise._lanes.lane import Parcel, StartFailed
from poise.testing.lane import LocalLane
from poise.testing.launcher import LocalLauncher
from tests.lanes.ear import Ear, Line
from tests.protocol.odd import CannotUnpickle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Shop:
    def __init__(self) -> None:
        self.gate = threading.Event()

    def echo(self, value: object) -> object:
        return value

    def wait(self) -> None:
        self.gate.wait(20)

    def odd_items(self) -> list[object]:
        return [1, CannotUnpickle(SystemExit), 2]


@pytest.fixture
async def ear() -> Ear:
    return Ear()


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    shop = Shop()
    yield shop
    shop.gate.set()


@pytest.fixture
async def launcher(ear: Ear, shop: Shop) -> AsyncIterator[LocalLauncher]:
    launcher = LocalLauncher(lambda: shop)
    await launcher.open(ear)
    yield launcher
    shop.gate.set()
    for lane in list(launcher.lanes.values()):
        await lane.kill()
    for thread in threading.enumerate():
        if thread.name.startswith("poise-local"):
            thread.join(10)  # a thread in user code ends when that returns, which nobody waited for
    assert not threads()


@pytest.fixture
async def line(launcher: LocalLauncher, ear: Ear) -> Line:
    return Line(await launcher.launch(1), ear)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("poise-local")]


async def test_a_call_is_announced_and_answered(line: Line) -> None:
    call = line.send(Shop.echo, 5)
    assert (await line.ear.answer(call)).value == 5
    assert line.ear.heard == [("begun", [call]), ("answer", call)]


async def test_recall_gives_back_what_has_not_begun_and_then_says_so(line: Line, shop: Shop) -> None:  # G4
    running = line.send(Shop.wait)
    await line.ear.until(lambda: running in line.ear.begun)
    waiting = [line.send(Shop.echo, number) for number in range(3)]
    line.lane.recall([running, *waiting[1:]])
    await line.ear.until(lambda: ("recalled", 1) in line.ear.heard)
    assert line.ear.heard[-3:] == [("answer", waiting[1]), ("answer", waiting[2]), ("recalled", 1)]
    assert line.ear.answers[waiting[1]].ending == NOT_BEGUN
    shop.gate.set()
    assert (await line.ear.answer(waiting[0])).value == 0
    assert (await line.ear.answer(running)).ending == RETURNED


async def test_what_has_not_begun_can_be_withdrawn_from_a_worker_that_says_nothing(
    line: Line, shop: Shop
) -> None:  # G4
    assert isinstance(line.lane, LocalLane)
    running, *ahead = range(101, 105)
    line.lane.send([Parcel(running, Shop.wait, (), {})])
    await line.ear.until(lambda: running in line.ear.begun)
    line.lane.hold()
    line.lane.send([Parcel(call_id, Shop.echo, (call_id,), {}, is_ahead=True) for call_id in ahead])
    line.lane.recall(ahead[:2])
    line.lane.withdraw([running, *ahead])
    assert {call_id: answer.ending for call_id, answer in line.ear.answers.items()} == dict.fromkeys(ahead, NOT_BEGUN)
    assert "recalled" not in dict(line.ear.heard)
    shop.gate.set()
    line.lane.let_go()
    await line.ear.until(lambda: running in line.ear.answers and ("recalled", 1) in line.ear.heard)
    line.lane.send([Parcel(ahead[0] + 100, Shop.echo, (5,), {}, is_ahead=True)])
    assert (await line.ear.answer(ahead[0] + 100)).value == 5
    assert [what for what, _ in line.ear.heard].count("recalled") == 1


async def test_a_crashed_worker_says_that_it_is_lost_and_nothing_after_that(line: Line, shop: Shop) -> None:
    assert isinstance(line.lane, LocalLane)
    line.send(Shop.wait)
    await line.ear.until(lambda: bool(line.ear.begun))
    line.lane.crash("by the test")
    await line.ear.until(lambda: bool(line.ear.lost))
    shop.gate.set()
    await asyncio.sleep(0.01)
    assert line.ear.lost == ["by the test"]
    assert not line.ear.answers
    await line.lane.kill()


async def test_kill_does_not_wait_for_user_code(line: Line, shop: Shop) -> None:
    line.send(Shop.wait)
    await line.ear.until(lambda: bool(line.ear.begun))
    began = time.monotonic()
    await line.lane.kill()
    await line.lane.kill()
    assert time.monotonic() - began < 5
    assert threads()
    shop.gate.set()


async def test_a_constructor_that_raises_is_the_cause(ear: Ear) -> None:
    def construct() -> NoReturn:
        raise ZeroDivisionError("no")

    launcher = LocalLauncher(construct)
    await launcher.open(ear)
    with pytest.raises(StartFailed) as caught:
        await launcher.launch(1)
    assert type(caught.value.__cause__) is ZeroDivisionError
    assert not launcher.lanes


async def test_a_launch_waits_for_room_and_says_so(launcher: LocalLauncher) -> None:
    launcher.room = 1
    first = await launcher.launch(1)
    assert await launcher.shortage() is None
    second = asyncio.create_task(launcher.launch(2))
    await asyncio.sleep(0)
    assert await launcher.shortage() == "slots: each worker needs 1, 0 of 1 are free"
    await first.kill()
    await second
    assert await launcher.shortage() is None


async def test_a_launch_can_be_refused_and_held(launcher: LocalLauncher) -> None:
    launcher.refuse(1, ValueError("by the test"))
    with pytest.raises(StartFailed):
        await launcher.launch(1)
    launcher.hold()
    launch = asyncio.create_task(launcher.launch(2))
    await asyncio.sleep(0.01)
    assert not launch.done()
    launcher.let_go()
    await launch


async def test_an_item_that_cannot_be_unpickled_ends_the_stream(line: Line) -> None:
    call = line.stream(Shop.odd_items, credit=10)
    answer = await line.ear.answer(call)
    assert answer.ending == RAISED
    assert line.ear.items[call] == [1]
