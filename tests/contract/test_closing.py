"""What the factory made is closed when its worker is not wanted any more, on the thread or loop of the calls (G12)."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

import poise
from poise.testing import LocalPool
from tests.gate import Gate, leave_mark, wait_at
from tests.untrue import UNTRUE, fail_untruly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.contract.conftest import Crash, OpenPool

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def other_gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "other")
    yield gate
    gate.open()


class Kept:
    """Leaves a mark for whatever happens to it."""

    def __init__(self, gate: str) -> None:
        self.gate = gate
        self.thread = threading.get_ident()

    def note(self, what: str) -> None:
        where = "" if threading.get_ident() == self.thread else " on another thread"
        leave_mark(self.gate, what + where)

    def work(self) -> str:
        return "done"

    async def work_async(self) -> str:
        await asyncio.sleep(0)
        return "done"

    def hold(self, gate: str) -> None:
        wait_at(gate)


class Plain(Kept):
    def close(self) -> None:
        self.note("close")

    def __ray_shutdown__(self) -> None:
        self.note("__ray_shutdown__")


class Async(Kept):
    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.note("aclose")

    def close(self) -> None:
        self.note("close")


class Entered(Kept):
    def __enter__(self) -> Self:
        self.note("enter")
        return self

    def __exit__(self, *error: object) -> None:
        self.note(f"exit {error}")

    def close(self) -> None:
        self.note("close")


class EnteredAsync(Kept):
    task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(asyncio.sleep(3600))
        self.note("aenter")
        return self

    async def __aexit__(self, *error: object) -> None:
        assert not self.task.done(), "the loop of the calls still stands"
        self.task.cancel()
        self.note(f"aexit {error}")

    def __enter__(self) -> None:
        raise TypeError("use async with")

    def __exit__(self, *_: object) -> None: ...


class Wrapper(Kept):
    def __enter__(self) -> Kept:
        return Inner(self.gate)

    def __exit__(self, *_: object) -> None:
        self.note("exit")


class Inner(Kept):
    def work(self) -> str:
        return "inner"


class GivesNone(Kept):
    def __enter__(self) -> None:
        self.note("enter")

    def __exit__(self, *_: object) -> None:
        self.note("exit")


NONE = "(None, None, None)"
KINDS: list[tuple[type[Kept], list[str]]] = [
    (Plain, ["close", "__ray_shutdown__"]),
    (Async, ["aclose"]),
    (Entered, ["enter", f"exit {NONE}"]),
    (EnteredAsync, ["aenter", f"aexit {NONE}"]),
    (GivesNone, ["enter", "exit"]),
    (Kept, []),
]


def made_by(kind: type[Kept], gate: Gate) -> Callable[[], Kept]:
    path = gate.path
    return lambda: kind(path)


@pytest.mark.parametrize(("kind", "marks"), KINDS, ids=[kind.__name__ for kind, _ in KINDS])
async def test_it_is_entered_and_left_or_closed(
    open_pool: OpenPool, gate: Gate, kind: type[Kept], marks: list[str]
) -> None:
    async with open_pool(made_by(kind, gate), size=1) as pool:
        assert await pool.run(Kept.work) == "done"
        assert await pool.run(Kept.work_async) == "done"
    assert gate.marks == marks


async def test_calls_get_what_entering_gives(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(made_by(Wrapper, gate), size=1) as pool:
        assert await pool.run("work") == "inner"
    assert gate.marks == ["exit"]


async def test_with_several_slots_coroutines_close_on_the_loop_of_the_calls(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(made_by(EnteredAsync, gate), size=1, concurrency=4) as pool:
        await pool.run(Kept.work_async)
    assert [mark.partition(" on ")[0] for mark in gate.marks] == ["aenter", f"aexit {NONE}"]


async def test_a_worker_that_is_not_wanted_any_more_closes(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(made_by(Plain, gate), size=2) as pool:
        await pool.until_ready()
        await pool.resize(1)
        await gate.reached(2)
        assert await pool.run(Kept.work) == "done"
        assert gate.marks == ["close", "__ray_shutdown__"]
    assert len(gate.marks) == 4


async def test_a_retiring_worker_finishes_its_call_before_it_closes(
    open_pool: OpenPool, gate: Gate, other_gate: Gate
) -> None:
    async with open_pool(made_by(Plain, gate), size=2) as pool:
        await pool.until_ready()
        calls = [pool.submit(Kept.hold, other_gate.path) for _ in range(2)]
        await other_gate.reached(2)
        await pool.resize(1)
        assert gate.marks == []
        other_gate.open()
        await asyncio.gather(*calls)
        await gate.reached(2)


async def test_nothing_is_closed_after_a_death(open_pool: OpenPool, crash: Crash, gate: Gate) -> None:
    async with open_pool(made_by(Plain, gate), size=1) as pool:
        (worker,) = pool.stats().workers
        crash(pool, worker.id)
        async with asyncio.timeout(60):
            while worker.id in [each.id for each in pool.stats().workers]:
                await asyncio.sleep(0.01)
        await pool.until_ready()
        assert gate.marks == []
    assert gate.marks == ["close", "__ray_shutdown__"], "of its replacement"


async def test_a_worker_that_is_killed_for_an_overrun_closes_nothing(
    open_pool: OpenPool, gate: Gate, other_gate: Gate
) -> None:
    async with open_pool(made_by(Plain, gate), size=1, kill_after=0) as pool:
        (worker,) = pool.stats().workers
        with pytest.raises(poise.DeadlineExceeded):
            await pool.options(timeout=0.05).run(Kept.hold, other_gate.path)
        async with asyncio.timeout(60):
            while worker.id in [each.id for each in pool.stats().workers]:
                await asyncio.sleep(0.01)
        assert gate.marks == []
        other_gate.open()


async def test_what_still_runs_when_the_pool_is_closed_is_killed_and_the_others_close(
    open_pool: OpenPool, gate: Gate, other_gate: Gate
) -> None:
    pool = open_pool(made_by(Plain, gate), size=2)
    await pool.open()
    await pool.until_ready()
    call = pool.submit(Kept.hold, other_gate.path)
    await other_gate.reached()
    await pool.aclose()
    with pytest.raises(poise.WorkerLost):
        await call
    assert gate.marks == ["close", "__ray_shutdown__"]
    other_gate.open()


class Fails(Plain):
    def close(self) -> None:
        raise ValueError("stuck drawer")


async def test_closing_that_raises_is_logged_in_one_line_and_the_rest_is_done(
    open_pool: OpenPool, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_pool(made_by(Fails, gate), size=1) as pool:
        await pool.run(Kept.work)
    assert gate.marks == ["__ray_shutdown__"]
    (record,) = [each for each in caplog.records if "stuck drawer" in each.getMessage()]
    assert record.levelname == "WARNING"
    assert "Fails raised ValueError: stuck drawer" in record.getMessage()
    assert "\n" not in record.getMessage()


class Hangs(Plain):
    def close(self) -> None:
        wait_at(self.gate + ".hang")


async def test_closing_that_hangs_is_bounded_for_all_workers_together(
    open_pool: OpenPool, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_pool(made_by(Hangs, gate), size=2, close_timeout=0.2) as pool:
        await pool.until_ready()
    assert len([each for each in caplog.records if "close_timeout=0.2 s" in each.getMessage()]) == 2
    Gate(Path(gate.path + ".hang")).open()  # lets threads of this process go


async def test_no_time_to_close_is_no_closing(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(made_by(Plain, gate), size=1, close_timeout=0) as pool:
        await pool.run(Kept.work)
    assert gate.marks == []


class FailsToEnter(Kept):
    def __enter__(self) -> None:
        raise ValueError("no way in")

    def __exit__(self, *_: object) -> None:
        self.note("exit")


async def test_a_failure_to_enter_is_a_failure_to_start(open_pool: OpenPool, gate: Gate) -> None:
    with pytest.raises(poise.PoolBroken, match="no way in"):
        async with open_pool(made_by(FailsToEnter, gate), size=1, start_timeout=30):
            pass
    assert gate.marks == []


class EntersUntruly(Kept):
    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    async def __aenter__(self) -> None:
        fail_untruly(self.error)

    async def __aexit__(self, *_: object) -> None: ...


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("error", UNTRUE)
async def test_a_failure_that_is_not_true_is_a_failure_to_enter(
    open_pool: OpenPool, error: type[Exception], concurrency: int
) -> None:
    with pytest.raises(poise.PoolBroken, match=f"{error.__name__}: no") as caught:
        async with open_pool(lambda: EntersUntruly(error), size=1, concurrency=concurrency, start_timeout=30):
            pass
    assert type(caught.value.__cause__) is error


class Pretends(Kept):
    """Has every attribute that one asks for, as a proxy or a mock has."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda: self.note(name)


async def test_what_an_object_only_pretends_to_have_is_not_called(open_pool: OpenPool, gate: Gate) -> None:
    async with open_pool(made_by(Pretends, gate), size=1) as pool:
        await pool.run(Kept.work)
    assert gate.marks == []


class AtExit(Kept):
    def __init__(self, gate: str) -> None:
        import atexit

        super().__init__(gate)
        atexit.register(leave_mark, gate, "atexit")

    def close(self) -> None:
        self.note("close")


async def test_atexit_functions_run_in_worker_processes(open_pool: OpenPool, gate: Gate) -> None:
    pool = open_pool(made_by(AtExit, gate), size=1)
    if isinstance(pool, LocalPool):
        pytest.skip("its workers are no processes")
    async with pool:
        await pool.run(Kept.work)
    assert gate.marks == ["close", "atexit"]


@pytest.mark.parametrize("value", [-1, float("inf"), float("nan"), None, "5"])
async def test_the_time_to_close_is_finite(value: Any) -> None:
    with pytest.raises(poise.ConfigError, match="close_timeout"):
        poise.Pool(dict, close_timeout=value)
