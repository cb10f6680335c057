"""The runner: what runs where, how many at once, and that every call ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from poise._answers import RAISED, RETURNED, Answer
from poise._lanes.book import FunctionBook
from poise._protocol.codec import pack_arguments, unpack
from poise._protocol.exceptions import unpack_exception
from poise._protocol.functions import type_names
from poise._protocol.messages import CALL, CallMessage
from poise._worker.inbox import Arrival, Inbox
from poise._worker.runner import Runner
from poise._worker.shelf import FunctionShelf
from poise.errors import PayloadError, RemoteError
from tests.protocol.odd import CannotPickle, CannotSpeak, CannotUnpickle, OddArguments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from poise._protocol.payloads import Packed

PATIENCE = 20.0


class Shop:
    """What the calls run on."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.now = 0
        self.most = 0
        self.notes: list[Any] = []
        self._lock = threading.Lock()

    def _enter(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def _leave(self) -> None:
        with self._lock:
            self.now -= 1

    def echo(self, value: Any) -> Any:
        return value

    def thread(self) -> int:
        return threading.get_ident()

    def wait(self, value: Any = None) -> Any:
        self._enter()
        self.gate.wait(PATIENCE)
        self._leave()
        return value

    async def wait_async(self, value: Any = None) -> Any:
        self._enter()
        try:
            while not self.gate.is_set():
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.notes.append("cancelled")
            raise
        finally:
            self._leave()
        return value

    def wait_later(self, value: Any) -> Any:
        """A plain function that returns a coroutine."""
        return self.wait_async(value)

    def fail(self, error: BaseException) -> NoReturn:
        raise error

    async def fail_async(self, error: BaseException) -> NoReturn:
        await asyncio.sleep(0)
        raise error

    async def leave_a_bomb(self) -> None:
        async def bomb() -> NoReturn:
            sys.exit(3)

        self.notes.append(asyncio.ensure_future(bomb()))
        await asyncio.sleep(0.01)

    def count(self, end: int) -> Iterator[int]:
        for number in range(end):
            self.notes.append(number)
            yield number

    async def count_async(self, end: int) -> AsyncIterator[int]:
        for number in range(end):
            await asyncio.sleep(0)
            self.notes.append(number)
            yield number

    def endless(self) -> Iterator[int]:
        self.notes.append(threading.get_ident())
        try:
            yield from itertools.count()
        finally:
            self.notes.append(("closed", threading.get_ident()))

    async def endless_async(self) -> AsyncIterator[int]:
        try:
            for number in itertools.count():
                await asyncio.sleep(0.001)
                yield number
        finally:
            await asyncio.sleep(0.001)
            self.notes.append("closed")

    async def stuck_async(self) -> AsyncIterator[int]:
        try:
            yield 0
            await asyncio.sleep(1000)
        finally:
            self.notes.append("closed")

    async def rows(self) -> list[int]:
        await asyncio.sleep(0)
        return [1, 2, 3]

    def break_off(self) -> Iterator[Any]:
        yield 1
        raise ValueError("in the middle")

    def yield_odd(self) -> Iterator[Any]:
        yield 1
        try:
            yield CannotPickle()
        finally:
            self.notes.append("closed")


class Counter:
    """A running Shop."""

    def __init__(self, concurrency: int) -> None:
        self.shop = Shop()
        self.replies: dict[int, Answer] = {}
        self.items: dict[int, list[Any]] = {}
        self.news = threading.Condition()
        self.inbox = Inbox()
        self.book = FunctionBook(type_names(self.shop))
        self.runner = Runner(self.inbox, FunctionShelf(self.shop), self, concurrency, "poise-test")
        self.ids = itertools.count(1)
        self.serving = threading.Thread(target=self.runner.run, name="poise-test-serve")
        self.serving.start()

    def reply(self, reply: Answer) -> None:
        with self.news:
            assert reply[0] not in self.replies, "answered twice"
            self.replies[reply[0]] = reply
            self.news.notify_all()

    def retire(self) -> None:
        raise AssertionError

    def item(self, call_id: int, item: Packed) -> None:
        with self.news:
            self.items.setdefault(call_id, []).append(unpack(item))
            self.news.notify_all()

    def send(self, function: Callable[..., Any] | str, *args: Any, credit: int | None = None) -> int:
        call_id = next(self.ids)
        self.inbox.put(
            [Arrival(CallMessage(CALL, call_id, self.book.target(function), pack_arguments(args, {}), credit))]
        )
        return call_id

    def until(self, predicate: Callable[[], Any]) -> None:
        with self.news:
            deadline = time.monotonic() + PATIENCE
            while not predicate():
                assert time.monotonic() < deadline, "waited in vain"
                self.news.wait(0.005)

    def answer(self, call_id: int) -> Any:
        """The result, or the exception."""
        self.until(lambda: call_id in self.replies)
        _, code, packed, seconds = self.replies[call_id]
        assert seconds >= 0
        if code == RAISED:
            assert packed is not None
            return unpack_exception(packed)
        assert code == RETURNED
        return None if packed is None else unpack(packed)

    def run(self, function: Callable[..., Any] | str, *args: Any) -> Any:
        return self.answer(self.send(function, *args))

    def threads(self) -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("poise-test")]


@pytest.fixture(params=[1, 4], ids=["one", "four"])
def counter(request: pytest.FixtureRequest) -> Iterator[Counter]:
    with opened(request.param) as counter:
        yield counter


@pytest.fixture
def one() -> Iterator[Counter]:
    with opened(1) as counter:
        yield counter


@pytest.fixture
def four() -> Iterator[Counter]:
    with opened(4) as counter:
        yield counter


@contextlib.contextmanager
def opened(concurrency: int) -> Iterator[Counter]:
    counter = Counter(concurrency)
    yield counter
    counter.shop.gate.set()
    counter.runner.close()
    counter.until(lambda: not counter.threads())  # G12


def test_calls_return_their_results(counter: Counter) -> None:
    assert counter.run("echo", [1, 2]) == [1, 2]
    assert counter.run(lambda shop, x: x + 1, 1) == 2
    counter.shop.gate.set()
    assert counter.run(Shop.wait_async, 5) == 5


def test_every_synchronous_call_runs_on_the_serving_thread(one: Counter) -> None:
    one.shop.gate.set()
    threads = {one.run(Shop.thread), one.run(Shop.wait_async), one.run(Shop.thread), one.run(lambda s: s.thread())}
    assert threads == {one.serving.ident, None}


@pytest.mark.parametrize("function", [Shop.wait, Shop.wait_async, Shop.wait_later])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_never_more_than_the_slots_run_at_once(function: Any, concurrency: int) -> None:  # G3
    with opened(concurrency) as counter:
        calls = [counter.send(function, number) for number in range(12)]
        counter.until(lambda: counter.shop.now == concurrency)
        time.sleep(0.05)
        assert counter.shop.now == concurrency
        counter.shop.gate.set()
        assert [counter.answer(call) for call in calls] == list(range(12))
        assert counter.shop.most == concurrency


def test_threads_and_coroutines_share_the_slots(four: Counter) -> None:  # G3
    calls = [four.send(function, n) for n, function in enumerate([Shop.wait, Shop.wait_async, Shop.wait_later] * 4)]
    four.until(lambda: four.shop.now == 4)
    time.sleep(0.05)
    four.shop.gate.set()
    assert [four.answer(call) for call in calls] == list(range(12))
    assert four.shop.most == 4


def test_many_coroutines_need_few_threads() -> None:
    with opened(500) as counter:
        calls = [counter.send(Shop.wait_async, number) for number in range(500)]
        counter.until(lambda: counter.shop.now == 500)
        assert len(counter.threads()) <= 3
        counter.shop.gate.set()
        assert [counter.answer(call) for call in calls] == list(range(500))


def test_threads_are_started_only_as_they_are_needed(four: Counter) -> None:
    assert len(four.threads()) == 1
    four.run(Shop.echo, 1)
    assert len(four.threads()) <= 2


@pytest.mark.parametrize("fail", [Shop.fail, Shop.fail_async])
def test_an_exception_is_the_answer(counter: Counter, fail: Any) -> None:
    error = counter.run(fail, ValueError("no"))
    assert type(error) is ValueError
    assert "_worker" not in str(error.__cause__), "our own frames are no news to users"


@pytest.mark.parametrize("fail", [Shop.fail, Shop.fail_async])
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, StopIteration])
def test_what_ends_threads_and_loops_does_not_end_the_workers(counter: Counter, fail: Any, error: Any) -> None:  # G9
    def raise_it(shop: Shop, name: str) -> Any:
        return shop.fail(error()) if name == "fail" else shop.fail_async(error())

    assert isinstance(counter.run(raise_it, fail.__name__), RemoteError | RuntimeError)
    counter.shop.gate.set()
    assert [counter.run(Shop.echo, 1), counter.run(Shop.wait_async, 2)] == [1, 2]


def test_a_task_of_the_users_that_exits_does_not_end_the_loop(counter: Counter) -> None:
    counter.run(Shop.leave_a_bomb)
    counter.shop.gate.set()
    assert counter.run(Shop.wait_async, 2) == 2
    assert isinstance(counter.shop.notes.pop().exception(), SystemExit)


@pytest.mark.parametrize("odd", [CannotPickle, CannotSpeak])
def test_what_cannot_be_pickled_ends_its_call_alone(counter: Counter, odd: Any) -> None:  # G1, G9
    def give(shop: Shop) -> Any:
        return odd() if odd is CannotPickle else threading.Lock()

    error = counter.run(give)
    assert isinstance(error, PayloadError)
    assert error.what == "the result"
    assert error.started
    assert counter.run(Shop.echo, 1) == 1


def test_arguments_that_cannot_be_unpickled_end_their_call_alone(counter: Counter) -> None:
    error = counter.run(Shop.echo, CannotUnpickle(SystemExit))
    assert isinstance(error, PayloadError)
    assert not error.started
    assert counter.run(Shop.echo, 1) == 1


def test_an_exception_with_odd_arguments_arrives_as_text(counter: Counter) -> None:
    def fail(shop: Shop) -> NoReturn:
        raise OddArguments(3, where="here")

    error = counter.run(fail)
    assert isinstance(error, RemoteError)
    assert error.text == "3 at here"


def test_a_generator_where_a_value_was_asked_for_says_what_to_use(counter: Counter) -> None:
    for function in (Shop.count, Shop.count_async):
        error = counter.run(function, 3)
        assert isinstance(error, PayloadError)
        assert "stream()" in error.reason


def test_a_running_coroutine_is_cancelled(counter: Counter) -> None:
    call = counter.send(Shop.wait_async)
    counter.until(lambda: counter.shop.now == 1)
    assert not counter.inbox.cancel(call)
    assert isinstance(counter.answer(call), RemoteError)
    assert counter.shop.notes == ["cancelled"]


def test_a_coroutine_that_is_cancelled_as_it_begins_answers(counter: Counter) -> None:  # G1
    for _ in range(200):
        call = counter.send(Shop.wait_async)
        while not counter.inbox.cancel(call) and call not in counter.replies:
            pass
    counter.until(lambda: counter.shop.now == 0)
    counter.shop.gate.set()
    assert counter.run(Shop.wait_async, 1) == 1


def test_a_running_synchronous_call_is_left_alone(counter: Counter) -> None:  # G3
    call = counter.send(Shop.wait, 7)
    counter.until(lambda: counter.shop.now == 1)
    counter.inbox.cancel(call)
    counter.shop.gate.set()
    assert counter.answer(call) == 7


# ---------------------------------------------------------------------------------------------------------------------
# Streams


@pytest.mark.parametrize("function", [Shop.count, Shop.count_async])
def test_a_stream_sends_what_its_credit_allows(counter: Counter, function: Any) -> None:
    call = counter.send(function, 10, credit=3)
    counter.until(lambda: counter.items.get(call) == [0, 1, 2])
    time.sleep(0.02)
    assert counter.shop.notes == [0, 1, 2], "nothing is made that nobody asked for"
    counter.inbox.credit(call, 2)
    counter.until(lambda: len(counter.items[call]) == 5)
    counter.inbox.credit(call, 100)
    assert counter.answer(call) is None
    assert counter.items[call] == list(range(10))


def test_any_iterable_is_a_stream(counter: Counter) -> None:
    for function in (lambda s: [1, 2, 3], lambda s: (n for n in (1, 2, 3)), Shop.rows):
        call = counter.send(function, credit=10)
        assert counter.answer(call) is None
        assert counter.items[call] == [1, 2, 3]


def test_a_stream_of_no_iterable_is_a_type_error(counter: Counter) -> None:
    for function in (lambda s: 7, Shop.wait_async):
        counter.shop.gate.set()
        error = counter.answer(counter.send(function, credit=1))
        assert type(error) is TypeError
        assert "use run()" in str(error)


@pytest.mark.parametrize("credit", [1, 1000])
def test_a_cancelled_stream_is_closed_on_its_own_thread_and_frees_its_slot(counter: Counter, credit: int) -> None:
    call = counter.send(Shop.endless, credit=credit)
    counter.until(lambda: counter.items.get(call))
    counter.inbox.cancel(call)
    assert counter.answer(call) is None
    assert counter.shop.notes[1] == ("closed", counter.shop.notes[0])
    assert counter.run(Shop.echo, 1) == 1


@pytest.mark.parametrize("function", [Shop.endless_async, Shop.stuck_async])
@pytest.mark.parametrize("credit", [1, 1000])
def test_a_cancelled_asynchronous_stream_is_closed_and_frees_its_slot(
    counter: Counter, function: Any, credit: int
) -> None:
    call = counter.send(function, credit=credit)
    counter.until(lambda: counter.items.get(call))
    counter.inbox.cancel(call)
    counter.answer(call)
    assert counter.shop.notes == ["closed"]
    assert counter.run(Shop.echo, 1) == 1


@pytest.mark.parametrize("function", [Shop.endless, Shop.endless_async])
def test_a_stream_that_is_cancelled_as_it_begins_ends(counter: Counter, function: Any) -> None:  # G1
    for _ in range(100):
        call = counter.send(function, credit=2)
        while not counter.inbox.cancel(call) and call not in counter.replies:
            pass
    assert counter.run(Shop.echo, 1) == 1


def test_a_stream_that_raises_ends_with_the_exception(counter: Counter) -> None:
    call = counter.send(Shop.break_off, credit=10)
    assert type(counter.answer(call)) is ValueError
    assert counter.items[call] == [1]


def test_an_item_that_cannot_be_pickled_ends_the_stream(counter: Counter) -> None:
    call = counter.send(Shop.yield_odd, credit=10)
    error = counter.answer(call)
    assert isinstance(error, PayloadError)
    assert error.what == "an item of the stream"
    assert counter.shop.notes == ["closed"]
