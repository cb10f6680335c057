"""What workers log, and what comes of it at the caller, without workers."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, cast

import pytest

from poise._lanes.logs import AT_ONCE, Logs, levels_here
from poise._lanes.logs import MOST_RECORDS as MOST_HEARD
from poise._protocol.frames import FrameError
from poise._protocol.messages import log_batch
from poise._protocol.records import pack_record, unpack_record
from poise._worker.logs import MOST_RECORDS, Forwarder

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("tests.logs")


class Wire:
    """A connection that takes what it is to take, and tells the test."""

    def __init__(self) -> None:
        self.is_open = True
        self.takes_now = True
        self.may_write = threading.Event()
        self.batches: list[tuple[list[bytes], int]] = []

    def log_at_once(self, rows: list[bytes]) -> bool:
        if self.takes_now:
            self.batches.append((rows, 0))
        return self.takes_now

    def log(self, rows: list[bytes], dropped: int) -> None:
        self.may_write.wait()
        self.batches.append((rows, dropped))

    @property
    def rows(self) -> int:
        return sum(len(rows) for rows, _ in self.batches)

    @property
    def dropped(self) -> int:
        return sum(dropped for _, dropped in self.batches)


@pytest.fixture
def forwarder() -> Iterator[Forwarder]:
    root, level, disabled = logging.getLogger(), log.level, logging.root.manager.disable
    handler = Forwarder((0, {"tests.logs": logging.INFO}))
    log.propagate = False
    root.removeHandler(handler)
    log.addHandler(handler)
    yield handler
    if handler._link is not None:  # noqa: SLF001 - its thread is to end
        cast("Any", handler._link).is_open = False  # noqa: SLF001
        handler.end()
    log.removeHandler(handler)
    log.propagate = True
    log.setLevel(level)
    logging.disable(disabled)


def test_what_the_connection_takes_is_written_by_the_thread_that_logs(forwarder: Forwarder) -> None:
    wire: Any = Wire()
    forwarder.use(wire)
    log.info("one")
    assert wire.rows == 1


def test_who_logs_never_waits_and_what_finds_no_room_is_counted(forwarder: Forwarder) -> None:  # G7
    wire: Any = Wire()
    wire.takes_now = False
    forwarder.use(wire)
    for number in range(MOST_RECORDS + 1000):
        log.info("%d", number)
    wire.may_write.set()
    forwarder.flush()
    assert wire.rows + wire.dropped == MOST_RECORDS + 1000
    assert wire.dropped > 0
    wire.takes_now = True
    log.info("there is room again")
    forwarder.flush()
    assert wire.rows + wire.dropped == MOST_RECORDS + 1001


def test_before_there_is_a_connection_ray_brings_them(forwarder: Forwarder) -> None:
    log.info("one")
    log.info("two")
    assert [len(rows) for rows, _ in (forwarder.pull() or ([], 0),)] == [2]
    log.info("three")
    wire: Any = Wire()
    wire.may_write.set()
    forwarder.use(wire)
    assert forwarder.pull() is None
    forwarder.flush()
    assert wire.rows == 1


def test_the_rest_comes_before_the_end(forwarder: Forwarder) -> None:
    log.info("one")
    forwarder.end()
    assert forwarder.pull() is not None
    assert forwarder.pull() is None


def test_levels_that_are_told_are_followed_and_others_are_left_alone(forwarder: Forwarder) -> None:
    log.setLevel(logging.DEBUG)  # by the worker's own code
    forwarder.set_levels((0, {"tests.logs": logging.INFO}))
    assert log.level == logging.DEBUG
    forwarder.set_levels((logging.INFO, {"tests.logs": logging.ERROR}))
    assert (log.level, logging.root.manager.disable) == (logging.ERROR, logging.INFO)
    forwarder.set_levels((0, {}))
    assert log.level == logging.NOTSET


def test_the_levels_of_rays_loggers_are_its_own() -> None:
    log.setLevel(logging.ERROR)
    try:
        disabled, levels = levels_here()
    finally:
        log.setLevel(logging.NOTSET)
    assert disabled == logging.root.manager.disable
    assert levels["tests.logs"] == logging.ERROR
    assert levels[""] == logging.getLogger().level
    assert not [name for name in levels if name.startswith("ray")]


async def test_a_record_that_cannot_be_handled_costs_none_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        if record.getMessage() == "bad":
            raise LookupError("a filter of the user's")
        return True

    record = logging.LogRecord("tests.logs", logging.ERROR, __file__, 1, "bad", (), None)
    good = logging.LogRecord("tests.logs", logging.ERROR, __file__, 1, "good", (), None)
    log.addFilter(refuse)
    try:
        logs = Logs()
        logs.hear(3, ([b"no pickle", pack_record(record, ""), pack_record(good, "f")], 17))
        await logs.settle()
    finally:
        log.removeFilter(refuse)
    texts = [each.getMessage() for each in caplog.records if each.name in ("tests.logs", "poise")]
    assert [text for text in texts if text.startswith("what worker 3 has logged could not be handled")] == texts[:2]
    assert texts[2:] == ["good", "worker 3 logged faster than it could be heard: 17 of its records were dropped"]


async def test_a_record_keeps_its_time_and_its_place(caplog: pytest.LogCaptureFixture) -> None:
    record = logging.LogRecord("tests.logs", logging.ERROR, "model.py", 12, "%s", ("x",), None, "f")
    record.created, record.process = time.time() - 100, 4711
    Logs().hear(3, ([pack_record(record, "Model.f")], 0))
    (heard,) = (each for each in caplog.records if each.name == "tests.logs")
    assert (heard.created, heard.process, heard.lineno, heard.pathname) == (record.created, 4711, 12, "model.py")


async def test_many_records_let_the_loop_turn_between_them(caplog: pytest.LogCaptureFixture) -> None:
    rows = [pack_record(logging.LogRecord("tests.logs", 40, "", 1, "%d", (n,), None), "") for n in range(MOST_HEARD)]
    logs = Logs()

    def texts() -> list[str]:  # without those of asyncio, which finds the test slow
        return [each.getMessage() for each in caplog.records if each.name in ("tests.logs", "poise")]

    logs.hear(3, (rows, 0))
    assert len(texts()) == AT_ONCE
    logs.hear(3, (rows[:AT_ONCE], 0))
    await asyncio.sleep(0)
    assert len(texts()) == 2 * AT_ONCE
    logs.hear(4, (rows, 5))
    await logs.settle()
    heard = texts()
    assert heard[:MOST_HEARD] == [str(n) for n in range(MOST_HEARD)]
    dropped = MOST_HEARD - AT_ONCE + 5
    assert len(heard) == MOST_HEARD + 2 * AT_ONCE + 1
    assert heard[-1].startswith("worker 4 logged faster")
    assert heard[-1].endswith(f"{dropped} of its records were dropped")


@pytest.mark.parametrize("fields", [(None, 0), ([1], 0), ([b"x"], -1), (b"x", 0), ([b"x"], "1")])
def test_what_is_no_batch_of_records_is_refused(fields: tuple[Any, Any]) -> None:  # G11
    with pytest.raises(FrameError):
        log_batch(*fields)


class Told:
    """An actor."""

    def __init__(self) -> None:
        self.levels: list[Any] = []

    def tell(self, method: str, levels: Any) -> None:
        assert method == "set_levels"
        self.levels.append(levels)


async def test_workers_are_told_of_levels_for_as_long_as_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:  # G12
    monkeypatch.setattr("poise._lanes.logs.LEVELS_EVERY", 0.001)
    logs = Logs()
    first: Any = Told()
    second: Any = Told()
    logs.add(first)
    logs.add(second)
    assert len(first.levels) == 1
    log.setLevel(logging.CRITICAL)
    try:
        while len(first.levels) == 1:
            await asyncio.sleep(0.001)
    finally:
        log.setLevel(logging.NOTSET)
    assert first.levels[1][1]["tests.logs"] == logging.CRITICAL
    logs.remove(second)
    del first
    there = weakref.ref(logs)
    del logs
    while there() is not None:  # nobody but its timer has kept it, and that ends with the last worker
        gc.collect()
        await asyncio.sleep(0.001)


def test_a_child_that_the_users_code_has_forked_writes_to_nobody_elses_connection(
    forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wire: Any = Wire()
    forwarder.use(wire)
    monkeypatch.setattr("os.getpid", lambda: -1)
    log.info("not for the terminal")
    log.warning("from a child")
    assert capsys.readouterr().err == "from a child\n"
    assert wire.rows == 0


def test_what_logs_while_a_record_is_packed_is_left_out(forwarder: Forwarder) -> None:
    class Talkative:
        def __str__(self) -> str:
            log.info("being shown")
            return "shown"

    wire: Any = Wire()
    forwarder.use(wire)
    forwarder.handle(logging.LogRecord("tests.logs", logging.INFO, "", 1, "%s", (Talkative(),), None))
    assert [unpack_record(row).getMessage() for rows, _ in wire.batches for row in rows] == ["shown"]
