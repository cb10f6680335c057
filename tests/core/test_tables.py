"""The tables of calls and workers: every state with every event."""

import itertools

import pytest

from poise._core.calls import CallRecord
from poise._core.states import (
    CALL_TRANSITIONS,
    JOINT,
    WORKER_TRANSITIONS,
    CallEvent,
    CallState,
    Duty,
    Hold,
    IllegalTransitionError,
    WorkerEvent,
    WorkerState,
)
from poise._core.workers import WorkerRecord

S, E = CallState, CallEvent
LEGAL_CALLS = {
    S.PARKED: {E.ADMIT: S.WAITING, E.END: S.DONE},
    S.WAITING: {E.PARK: S.PARKED, E.GRANT: S.RUNNING, E.SEND_AHEAD: S.AHEAD, E.END: S.DONE},
    S.PAUSED: {E.RESUME: S.WAITING},
    S.AHEAD: {E.BEGIN: S.RUNNING, E.RETURN: S.WAITING, E.PAUSE: S.PAUSED, E.ABANDON: S.ABANDONED, E.END: S.DONE},
    S.RUNNING: {E.RETURN: S.WAITING, E.PAUSE: S.PAUSED, E.ABANDON: S.ABANDONED, E.END: S.DONE},
    S.ABANDONED: {E.END: S.DONE},
    S.DONE: {},
}

W, V = WorkerState, WorkerEvent
LEGAL_WORKERS = {
    W.PENDING: {V.START: W.STARTING, V.RETIRE: W.GONE, V.STOP: W.GONE},
    W.STARTING: {V.READY: W.READY, V.RETIRE: W.GONE, V.LOST: W.GONE, V.STOP: W.GONE},
    W.READY: {V.RETIRE: W.RETIRING, V.LOST: W.GONE, V.STOP: W.GONE},
    W.RETIRING: {V.LOST: W.GONE, V.STOP: W.GONE},
    W.GONE: {},
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(CallState, CallEvent)))
def test_a_call_takes_legal_events_and_an_illegal_one_raises_and_changes_nothing(
    state: CallState, event: CallEvent
) -> None:
    call = CallRecord(1, "f")
    call.state = state
    if event in LEGAL_CALLS[state]:
        call.step(event)
        assert call.state is LEGAL_CALLS[state][event]
    else:
        with pytest.raises(IllegalTransitionError, match=f"call 1: {event.name} while {state.name}"):
            call.step(event)
        assert call.state is state


@pytest.mark.parametrize(("state", "event"), list(itertools.product(WorkerState, WorkerEvent)))
def test_a_worker_takes_legal_events_and_an_illegal_one_raises_and_changes_nothing(
    state: WorkerState, event: WorkerEvent
) -> None:
    worker = WorkerRecord(7, slots=1, start_at=1.0)
    worker.state = state
    if event in LEGAL_WORKERS[state]:
        worker.step(event, 5.0)
        assert (worker.state, worker.since) == (LEGAL_WORKERS[state][event], 5.0)
    else:
        with pytest.raises(IllegalTransitionError, match=f"worker 7: {event.name} while {state.name}"):
            worker.step(event, 5.0)
        assert (worker.state, worker.since) == (state, 1.0)


def test_the_tables_hold_nothing_else() -> None:
    assert len(CALL_TRANSITIONS) == sum(len(row) for row in LEGAL_CALLS.values())
    assert len(WORKER_TRANSITIONS) == sum(len(row) for row in LEGAL_WORKERS.values())


def test_records_say_what_they_are() -> None:
    call, worker = CallRecord(3, "key", name="Model.predict"), WorkerRecord(0, slots=2, start_at=0.0)
    worker.running[3] = call
    assert repr(call) == "<call 3 Model.predict waiting>"
    assert repr(worker) == "<worker 0 pending running=1/2 ahead=0>"
    assert CallRecord(4, len).name == "<built-in function len>"


def test_a_worker_is_claimed_only_while_it_is_ready_and_answers() -> None:
    claimed = {(state, duty) for state, hold, duty in JOINT if hold is Hold.CLAIMED}
    assert claimed == {(W.READY, Duty.NONE), (W.READY, Duty.RECALLED)}


def test_nobody_has_a_worker_that_has_not_started_and_it_owes_no_answer() -> None:
    starting = {(hold, duty) for state, hold, duty in JOINT if state in (W.PENDING, W.STARTING)}
    assert starting == {(Hold.FREE, Duty.NONE)}
    assert not [state for state, _, _ in JOINT if state is W.GONE]
