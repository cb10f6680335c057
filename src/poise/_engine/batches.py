"""Batches on their way: several calls that travel to a worker as one, whose argument is a bundle of their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from poise._answers import NOT_BEGUN, RAISED, RETURNED, Answer
from poise._lanes.lane import Parcel
from poise._protocol.bundles import Bundle, Outcomes
from poise._protocol.codec import pack, packed_part, unpack_part
from poise._protocol.exceptions import pack_exception, unpack_exception
from poise._protocol.headers import joined
from poise._protocol.words import type_name
from poise.errors import BatchError, PayloadError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poise._core.calls import CallRecord
    from poise._engine.call import Call
    from poise._protocol.bundles import Part
    from poise._protocol.messages import Headers
    from poise._protocol.payloads import Packed


class SentBatch:
    """One batch that a worker holds."""

    __slots__ = ("awaited", "call_ids", "name", "worker_id")

    def __init__(self, worker_id: int, call_ids: Sequence[int], name: str) -> None:
        self.worker_id = worker_id
        self.call_ids = call_ids
        """Its calls in the order of the values. The batch travels under the number of the first."""
        self.name = name
        self.awaited = set(call_ids)
        """Those that were not given up."""


class Batches:
    """Makes one parcel of a batch, and of what comes back an answer for each call."""

    _bundles: ClassVar[type[Bundle]] = Bundle

    def __init__(self) -> None:
        """Know of no batch."""
        self.sent: dict[int, SentBatch] = {}
        """The batch of each call that is in one."""

    def parcels(
        self, worker_id: int, calls: Sequence[tuple[CallRecord, Call[Any]]]
    ) -> tuple[list[Parcel], list[Answer]]:
        """Make a parcel of these calls, if any can be sent; and answer for those whose value cannot be pickled."""
        parts: list[Packed] = []
        headers: list[Headers | None] = []
        call_ids: list[int] = []
        refused: list[Answer] = []
        for record, call in calls:
            try:
                packed, given = self._packed(call), call.headers(record)
                parts.append(packed)
                headers.append(given)
                call_ids.append(record.id)
            except PayloadError as error:
                refused.append(Answer(record.id, RAISED, error))
        if not parts:
            return [], refused
        call = calls[0][1]
        self.sent.update(dict.fromkeys(call_ids, SentBatch(worker_id, call_ids, call.name)))
        return [Parcel(call_ids[0], call.function, (self._bundles(parts),), {}, headers=joined(headers))], refused

    def given_up(self, call_id: int) -> int | None:
        """Nobody waits for this call: what to tell the worker of, None while others of its batch are awaited."""
        batch = self.sent.get(call_id)
        if batch is None:
            return call_id
        batch.awaited.discard(call_id)
        return None if batch.awaited else batch.call_ids[0]

    def lost(self, worker_id: int) -> None:
        """The worker is gone, and what it held is settled."""
        self.sent = {call_id: batch for call_id, batch in self.sent.items() if batch.worker_id != worker_id}

    def opened(self, answers: Sequence[Answer]) -> list[Answer]:
        """The same answers, with those for batches taken apart."""
        opened: list[Answer] = []
        for answer in answers:
            batch = self.sent.get(answer.call_id)
            if batch is None:
                opened.append(answer)
                continue
            for call_id in batch.call_ids:
                del self.sent[call_id]
            opened += self._apart(answer, batch)
        return opened

    def _packed(self, call: Call[Any]) -> Packed:
        """The value of a call.

        Raises:
            PayloadError: it cannot be pickled.
        """
        return pack(call.args[0], "argument 1", started=False)

    def _apart(self, answer: Answer, batch: SentBatch) -> list[Answer]:
        """What the answer for a batch means for each of its calls."""
        return _answers(answer, batch)


def _answers(answer: Answer, batch: SentBatch) -> list[Answer]:
    """What the answer for a batch means for each of its calls, which share the time that it took."""
    call_ids = batch.call_ids
    value: Any = answer.value
    share = answer.service_time / len(call_ids)
    if answer.ending == NOT_BEGUN:
        return [Answer(call_id, NOT_BEGUN, None) for call_id in call_ids]
    if answer.ending == RETURNED and type(value) is Outcomes and len(value.parts) == len(call_ids):
        each = zip(call_ids, value.codes, value.parts, strict=True)
        return [_answer(call_id, code, part, share) for call_id, code, part in each]
    error: Exception = answer.value
    if answer.ending == RETURNED:  # the workers' class has another function of that name
        error = BatchError(batch.name, len(call_ids), None, f"{type_name(value)} (in the worker it is not batched)")
    packed = pack_exception(error)  # so that each caller has an error of his own
    errors = [error, *(unpack_exception(packed) for _ in call_ids[1:])]
    return [Answer(call_id, RAISED, error, share) for call_id, error in zip(call_ids, errors, strict=True)]


def _answer(call_id: int, code: int, part: Part, service_time: float) -> Answer:
    if code != RETURNED:
        return Answer(call_id, RAISED, unpack_exception(packed_part(part)), service_time)
    try:
        return Answer(call_id, RETURNED, unpack_part(part, "the result", started=True), service_time)
    except PayloadError as error:
        return Answer(call_id, RAISED, error, service_time)
