"""What caller and worker share beside their connection: marks, the journal, and the caller's book of what it sent."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from poise._answers import NOT_BEGUN, RETURNED, Answer
from poise._lanes.ahead import SentAhead
from poise._protocol.frames import FrameReader
from poise._protocol.journal import JOURNAL_SIZE, Journal, JournalReader
from poise._protocol.marks import MARKS, MARKS_SIZE, UNMARKED, Marks
from poise._protocol.memory import SIZE, join_memory, make_memory, marks_of

if TYPE_CHECKING:
    from pathlib import Path

WORKER = """
import sys
from poise._protocol.marks import MARKS, Marks
from poise._protocol.memory import join_memory, marks_of

marks = Marks(marks_of(join_memory(sys.argv[1])))
print("ready", flush=True)
for _ in sys.stdin:
    print(*(int(marks.begin(mark)) for mark in range(MARKS)), flush=True)
"""


@pytest.fixture
def marks() -> Marks:
    return Marks(memoryview(bytearray(MARKS_SIZE)))


def returned(*call_ids: int) -> list[Answer]:
    return [Answer(call_id, RETURNED, None) for call_id in call_ids]


def not_begun(*call_ids: int) -> list[Answer]:
    return [Answer(call_id, NOT_BEGUN, None) for call_id in call_ids]


# ---------------------------------------------------------------- marks


def test_a_call_begins_or_is_withdrawn_whoever_is_first(marks: Marks) -> None:  # G2
    assert marks.begin(0)
    assert marks.withdraw([0, 1]) == [False, True]
    assert not marks.begin(1)
    marks.clear(1)
    assert marks.begin(1)


def test_no_call_begins_in_one_process_and_is_withdrawn_by_another(tmp_path: Path) -> None:  # G2
    path = str(tmp_path / "memory")
    marks = Marks(marks_of(make_memory(path)))
    command = [sys.executable, "-c", WORKER, path]
    both, seen = 0, {False: 0, True: 0}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        os.unlink(path)
        for _ in range(50):
            for mark in range(MARKS):
                marks.clear(mark)
            worker.stdin.write("begin\n")
            worker.stdin.flush()
            withdrawn = [marks.withdraw([mark])[0] for mark in reversed(range(MARKS))]
            begun = [word == "1" for word in worker.stdout.readline().split()]
            both += sum(a and b for a, b in zip(begun, reversed(withdrawn), strict=True))
            for is_begun in begun:
                seen[is_begun] += 1
        worker.stdin.close()
    assert both == 0
    assert seen[True] + seen[False] == 50 * MARKS


def test_shared_memory_is_for_this_user_and_one_pool(tmp_path: Path) -> None:  # G11
    path = str(tmp_path / "memory")
    mine = make_memory(path)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(path).st_size == SIZE
    theirs = join_memory(path)
    with pytest.raises(FileExistsError):
        make_memory(path)
    os.unlink(path)
    mine[7] = 1
    assert theirs[7] == 1


# ---------------------------------------------------------------- the journal


def test_what_was_said_can_be_read_before_and_not_after_it_was_written() -> None:
    memory = memoryview(bytearray(JOURNAL_SIZE))
    journal, reader = Journal(memory), JournalReader(memory)
    assert reader.read() == (0, [])
    assert journal.append([5, 1, 0, b"one", 0.5])
    assert journal.append([8])
    assert reader.read() == (0, [[5, 1, 0, b"one", 0.5], [8]])
    assert len(journal) == 2
    journal.written()
    assert reader.read() == (2, [])
    journal.written(1)  # one that never stood here
    assert journal.append([5, 2, 0, b"two", 0.5])
    assert reader.read() == (3, [[5, 2, 0, b"two", 0.5]])


def test_the_journal_is_a_frame() -> None:
    journal = Journal(memoryview(bytearray(JOURNAL_SIZE)))
    said = [[5, number, 0, b"value", 0.25] for number in range(300)]
    for message in said:
        assert journal.append(message)
    frame = journal.frame()
    reader = FrameReader()
    reader.buffer()[: len(frame)] = frame
    assert reader.received(len(frame)) == [(said, [])]


def test_a_journal_that_is_full_refuses_and_keeps_what_it_has() -> None:
    memory = memoryview(bytearray(JOURNAL_SIZE))
    journal = Journal(memory)
    count = 0
    while journal.append([5, count, 0, bytes(1000), 0.5]):
        count += 1
    assert count > 50
    said = JournalReader(memory).read()
    assert said is not None
    assert len(said[1]) == count == len(journal)
    assert journal.append([8])


def test_a_journal_that_is_written_while_it_is_read_is_not_believed() -> None:
    memory = memoryview(bytearray(JOURNAL_SIZE))
    journal = Journal(memory)
    journal.append([8])

    reader = JournalReader(memory, fence=journal.written)
    assert reader.read() is None


# ---------------------------------------------------------------- the caller's book


def test_what_was_withdrawn_is_not_heard_of_again(marks: Marks) -> None:  # G2
    ahead = SentAhead(marks)
    first, second = ahead.mark(1), ahead.mark(2)
    assert marks.begin(first)
    assert ahead.withdraw([1, 2, 99]) == [2]
    assert not marks.begin(second)
    assert [answer.call_id for answer in ahead.heard([*returned(1), *not_begun(2), *returned(99)])] == [1, 99]


def test_a_cancelled_call_does_not_begin_and_its_end_is_heard(marks: Marks) -> None:  # G6
    ahead = SentAhead(marks)
    mark = ahead.mark(1)
    ahead.forbid(1)
    ahead.forbid(99)
    assert not marks.begin(mark)
    assert [answer.call_id for answer in ahead.heard(not_begun(1))] == [1]


def test_a_worker_has_let_go_when_it_has_answered_all_and_returned_the_rest(marks: Marks) -> None:  # G2
    ahead = SentAhead(marks)
    ahead.mark(1)
    assert not ahead.has_let_go()
    ahead.recalled()
    assert ahead.withdraw([1]) == [1]
    ahead.recalled()
    ahead.recall_answered()
    assert not ahead.has_let_go()
    ahead.recall_answered()
    assert not ahead.has_let_go()
    ahead.heard(not_begun(1))
    assert ahead.has_let_go()
    assert not ahead.has_let_go()


def test_marks_are_used_again_and_a_call_without_one_cannot_be_withdrawn(marks: Marks) -> None:
    ahead = SentAhead(marks)
    given = {ahead.mark(call_id) for call_id in range(MARKS)}
    assert given == set(range(MARKS))
    assert ahead.mark(MARKS) == UNMARKED
    assert ahead.withdraw([MARKS]) == []
    ahead.heard(returned(5))
    assert ahead.mark(MARKS + 1) in given
    assert SentAhead().mark(1) == UNMARKED
    assert SentAhead().withdraw([1]) == []
