"""What an observed call tells: its steps, and its times. `witness.py` holds the stories of random lives to the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from poise._answers import NOT_BEGUN, RAISED, Answer
from poise._core.batches import Batching
from poise._core.calls import CallRecord, TenantCallRecord
from poise._core.observed import CALL_EVENTS, Observed, ObservedCall, Telling, note_company, observe
from poise._core.states import CallEvent, CallState, IllegalTransitionError
from poise.errors import Overloaded, WorkerLost
from poise.events import CallAdmitted, CallBegun, CallEnded, CallGranted, CallPutBack, CallRefused, CallReleased
from tests.core.scene import SHORT, Scene

if TYPE_CHECKING:
    from poise.events import Event


class Told:
    """A scene in which calls are observed, and what they told."""

    def __init__(self, wanted: frozenset[type[Any]] = CALL_EVENTS, count: Any = None, **options: Any) -> None:
        self.scene = Scene(**options)
        self.events: list[Any] = []
        telling = Telling("pool", lambda: self.scene.now, self.events.append, self._take_back)
        telling.listen(wanted, count)
        observe(self.scene.pool.shares, telling)

    def _take_back(self, event: Event) -> None:
        assert self.events.pop() is event

    def submit(self, call_id: int = 1, function: Any = "f", **fields: Any) -> CallRecord:
        call = self.scene.pool.shares.nobodys_call(call_id, function, name=str(function), **fields)
        self.scene.act(self.scene.pool.submit(call, self.scene.now))
        return call

    def answer(self, call: CallRecord, seconds: float = 0.0, ending: int = 0, value: Any = None) -> None:
        assert call.worker is not None
        answers = [Answer(call.id, ending, value, seconds)]
        self.scene.act(self.scene.pool.finished(call.worker.id, answers, self.scene.now))

    def kinds(self) -> list[type[Any]]:
        return [type(event) for event in self.events]


def times(event: CallEnded) -> tuple[float, float, float]:
    return event.waiting, event.travelling, event.running


def test_a_call_that_finds_a_free_worker() -> None:
    told = Told()
    call = told.submit()
    told.scene.now = 5.0
    told.answer(call, seconds=4.0)
    assert told.events == [
        CallAdmitted(0.0, "pool", 1, "f"),
        CallGranted(0.0, "pool", 1, "f", 0, 1, is_ahead=False),
        CallBegun(0.0, "pool", 1, "f", 0, 1),
        CallEnded(5.0, "pool", 1, "f", 0, 1, "returned", None, 0.0, 1.0, 4.0, is_abandoned=False),
    ]


def test_a_call_that_waits_and_raises() -> None:
    told = Told(wanted=frozenset({CallEnded}))
    first, second = told.submit(1), told.submit(2)
    told.scene.now = 3.0
    told.answer(first, seconds=3.0)
    told.scene.now = 5.0
    told.answer(second, 1.5, RAISED, LookupError("no such thing"))
    one, other = told.events
    assert times(one) == (0.0, 0.0, 3.0)
    assert (times(other), other.outcome, other.error) == ((3.0, 0.5, 1.5), "raised", LookupError)


def test_a_call_that_is_sent_ahead_waits_until_it_runs() -> None:
    told = Told(sends_ahead=True)
    told.scene.learn_pace()
    told.events.clear()
    first, second = told.submit(101, SHORT), told.submit(102, SHORT)
    assert told.kinds() == [CallAdmitted, CallGranted, CallBegun, CallAdmitted, CallGranted]
    assert told.events[-1].is_ahead
    told.events.clear()
    told.scene.now += 2.0
    told.answer(first, 1.0)
    told.scene.now += 1.0
    told.answer(second, 1.0)
    assert told.kinds() == [CallEnded, CallBegun, CallEnded]
    assert times(told.events[2]) == (2.0, 0.0, 1.0)


def test_a_call_that_is_answered_before_the_pool_knew_that_it_had_begun() -> None:
    told = Told(wanted=frozenset({CallEnded}), sends_ahead=True)
    told.scene.learn_pace()
    told.events.clear()
    first, second = told.submit(101, SHORT), told.submit(102, SHORT)
    told.scene.now += 3.0
    answers = [Answer(first.id, 0, None, 1.0), Answer(second.id, 0, None, 1.5)]
    told.scene.act(told.scene.pool.finished(0, answers, told.scene.now))
    assert [times(end) for end in told.events] == [(0.0, 2.0, 1.0), (1.5, 0.0, 1.5)]


def test_a_call_that_is_tried_again_and_lost() -> None:
    told = Told(size=2, ready=2)
    call = told.submit(retries=1)
    told.scene.now = 2.0
    assert call.worker is not None
    told.scene.act(told.scene.pool.worker_lost(call.worker.id, "it died", 2.0))
    told.scene.now = 3.0
    told.scene.act(told.scene.pool.tick(3.0))
    told.scene.now = 7.0
    assert call.worker is not None
    told.scene.act(told.scene.pool.worker_lost(call.worker.id, "it died", 7.0))
    assert told.kinds() == [
        *(CallAdmitted, CallGranted, CallBegun, CallPutBack),
        *(CallGranted, CallBegun, CallEnded),
    ]
    assert told.events[3].is_retry
    end = told.events[-1]
    assert (end.attempt, end.outcome, end.error) == (2, "lost", WorkerLost)
    assert end.waiting + end.running == 7.0
    assert end.running == 2.0 + 7.0 - told.events[4].at


def test_a_call_that_is_given_up_while_it_runs_and_one_that_is_taken_back() -> None:
    told = Told()
    call = told.submit()
    told.scene.now = 2.0
    told.scene.act(told.scene.pool.cancel(call, 2.0))
    end = told.events[-1]
    assert (end.outcome, end.is_abandoned, times(end)) == ("cancelled", True, (0.0, 0.0, 2.0))
    told.scene.now = 3.0
    told.answer(call, 2.5)
    assert told.events[-1] == CallReleased(3.0, "pool", 1, "f", 0, 1, 2.5)
    other = told.submit(2)
    told.answer(other, ending=NOT_BEGUN)
    assert told.kinds()[-3:] == [CallPutBack, CallGranted, CallBegun]
    assert not told.events[-3].is_retry


def test_a_call_that_is_refused_was_never_admitted() -> None:
    told = Told(backlog=0)
    told.submit(1)
    call = told.scene.pool.shares.new_record("somebody", 1.0)(2, "f")
    with pytest.raises(Overloaded) as caught:
        told.scene.pool.submit(call, 0.0)
    call.refused(caught.value)
    assert told.events[-1] == CallRefused(0.0, "pool", "f", Overloaded)
    assert [event.call for event in told.events if isinstance(event, CallAdmitted)] == [1]


def test_what_nobody_wants_is_not_told() -> None:
    told = Told(wanted=frozenset(), backlog=0)
    call = told.submit(1, retries=1)
    told.answer(call, ending=NOT_BEGUN)
    refused = told.scene.pool.shares.nobodys_call(2, "f")
    refused.refused(Overloaded(0, 0, 1.0))
    told.scene.act(told.scene.pool.cancel(call, 0.0))
    told.answer(call)
    assert told.events == []


def test_who_wants_to_hear_of_refusals_alone_hears_of_no_end() -> None:
    told = Told(wanted=frozenset({CallRefused}))
    told.answer(told.submit())
    assert told.events == []


@pytest.mark.parametrize("kind", [CallAdmitted, CallGranted, CallBegun])
def test_each_step_can_be_heard_of_by_itself(kind: type[Any]) -> None:
    told = Told(wanted=frozenset({kind}))
    told.answer(told.submit(1))
    told.answer(told.submit(2))
    assert told.kinds() == [kind, kind]
    told.scene.pool.shares.nobodys_call(3, "f").refused(Overloaded(0, 0, 1.0))
    assert told.kinds() == [kind, kind], "what was admitted is taken back"


def test_ends_are_counted_without_an_event() -> None:
    figures: list[Any] = []
    told = Told(wanted=frozenset(), count=lambda *these: figures.append(these))
    first, second = told.submit(1), told.submit(2)
    told.scene.now = 3.0
    told.answer(first, seconds=2.5)
    told.scene.act(told.scene.pool.cancel(second, 4.0))
    told.scene.now = 5.0
    third = told.submit(3)
    told.answer(second, ending=NOT_BEGUN)
    told.scene.now = 7.0
    told.answer(third, 2.0, RAISED, LookupError())
    assert figures == [
        ("f", "returned", 1, 0.0, 2.5),
        ("f", "cancelled", 1, 3.0, 0.0),
        ("f", "raised", 1, 0.0, 2.0),
    ]
    assert told.events == []


def test_an_observed_call_moves_as_any_other() -> None:
    call = Told().submit()
    with pytest.raises(IllegalTransitionError, match="call 1: RESUME while RUNNING"):
        call.step(CallEvent.RESUME)
    assert call.state is CallState.RUNNING


def test_who_observes_again_has_calls_of_the_same_class() -> None:
    told = Told(wanted=frozenset({CallEnded}))
    telling: Any = type(told.submit(1)).telling  # type: ignore[attr-defined]
    observe(told.scene.pool.shares, None)
    observe(told.scene.pool.shares, telling)
    assert type(told.submit(2)).telling is telling  # type: ignore[attr-defined]


def test_each_call_of_a_batch_ran_as_long_as_the_batch() -> None:
    told = Told(wanted=frozenset({CallEnded}))
    together = Batching(4, 0.0)
    first, *calls = [told.submit(number, together) for number in range(3)]
    told.answer(first, 1.0)
    note_company(calls)
    told.scene.now = 4.0
    for call in calls:
        told.answer(call, 2.0)
    assert [end.running for end in told.events] == [0.0, 4.0, 4.0], "no longer than there was time"


def test_a_batch_that_is_observed_in_part() -> None:
    told = Told()
    observed = told.submit(1)
    plain = CallRecord(2, "f")
    note_company([plain, observed])
    note_company([observed, plain])
    assert isinstance(observed, ObservedCall)
    assert observed.recall().together == 2


def test_calls_are_as_any_other_when_nobody_observes_any_more() -> None:
    told = Told()
    shares = told.scene.pool.shares
    assert isinstance(shares.nobodys_call(1, "f"), ObservedCall)
    tenants = shares.new_record("somebody", 1.0)(2, "f")
    assert isinstance(tenants, Observed)
    assert tenants.tenant is not None
    observe(shares, None)
    assert type(shares.nobodys_call(3, "f")) is CallRecord
    assert type(shares.new_record("somebody", 1.0)(4, "f")) is TenantCallRecord
