"""Batches in the owner of a shared pool: of calls that may be of several clients, and that nobody here unpacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from poise._answers import NOT_BEGUN, RAISED, RETURNED, Answer
from poise._core.batches import Batching
from poise._engine.batches import Batches, SentBatch
from poise._protocol.bundles import Arguments, Outcomes
from poise._protocol.codec import packed_part, unpack
from poise._protocol.exceptions import pack_exception
from poise._protocol.payloads import Packed, Payload
from poise._protocol.words import describe, type_name
from poise.errors import BatchError, PayloadError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poise._protocol.functions import Target

REMEMBERED: Final = 1024
"""Batched functions that are known at a time."""


class BatchedFunctions:
    """What batched functions ask for: the same for the same function, whichever client calls it."""

    def __init__(self) -> None:
        self._known: dict[Any, Batching] = {}

    def batching(self, function: Target, most: int, wait: float) -> Batching:
        """What a function asks for that is called so."""
        key = function if isinstance(function, str) else function.digest, most, wait
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= REMEMBERED:
                del self._known[next(iter(self._known))]
            known = self._known[key] = Batching(most, wait)
        return known


class RelayBatches(Batches):
    """Puts packed arguments together, and takes packed outcomes apart."""

    _bundles = Arguments

    def _packed(self, call: Any) -> Packed:
        packed: Packed = call.arguments
        return packed

    def _apart(self, answer: Answer, batch: SentBatch) -> list[Answer]:
        call_ids: Sequence[int] = batch.call_ids
        if answer.ending == NOT_BEGUN:
            return [Answer(call_id, NOT_BEGUN, None) for call_id in call_ids]
        share = answer.service_time / len(call_ids)
        packed: Any = answer.value
        if answer.ending == RETURNED:
            outcomes = _outcomes(packed)
            if type(outcomes) is Outcomes and len(outcomes.parts) == len(call_ids):
                each = zip(call_ids, outcomes.codes, outcomes.parts, strict=True)
                return [Answer(call_id, _verdict(code), _as_packed(part), share) for call_id, code, part in each]
            if not isinstance(outcomes, PayloadError):  # the workers' class has another function of that name
                kind = f"{type_name(outcomes)} (in the worker it is not batched)"
                outcomes = BatchError(batch.name, len(call_ids), None, kind)
            packed = pack_exception(outcomes)
        return [Answer(call_id, RAISED, packed, share) for call_id in call_ids]


def _as_packed(part: Any) -> Packed:
    """A part as lanes carry it on: one that is large has come as a view of what was received."""
    packed: Any = packed_part(part)
    return Payload(bytes(packed)) if type(packed) is memoryview else packed


def _verdict(code: int) -> Any:
    return RETURNED if code == RETURNED else RAISED


def _outcomes(packed: Packed) -> Any:
    """What a worker has returned for a batch: `Outcomes`, in which all that is a client's is packed once more."""
    try:
        return unpack(packed)
    except BaseException as error:  # noqa: BLE001 - it was no batch to the worker, so this is a client's after all
        return PayloadError("the result", describe(error), started=True)
