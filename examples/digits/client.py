"""The demo's side of the wire: sends the images, compares the answers, keeps the count."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import httpx

from poise import Stats, WorkerStats

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from examples.digits.classifier import Answer, Image
    from examples.digits.traffic import Plan

PATIENCE = 30.0
"""Seconds after which a request without an answer is given up as lost. The service's own limit is far below."""

RELOAD_WITHIN = 90.0
"""Seconds for the service to replace its workers; each trains a classifier on a busy machine."""

SAME = 1e-6
"""Scores no further apart than this are the same. Those of two images differ by 0.2 at least."""


class Outcome(Enum):
    """How a request ended."""

    ANSWERED = "answered"
    """With the digit and the scores that this very image has in a single process."""
    REFUSED = "refused"
    """Properly: 503 with Retry-After, or 504."""
    WRONG = "wrong"
    """With an answer, but not the one for this image."""
    LOST = "lost"
    """Any other way: another status, a broken connection, no answer at all."""


def judge(response: httpx.Response, expected: Answer) -> Outcome:
    """Compare what came with what should have come."""
    if response.status_code == 200:
        return Outcome.ANSWERED if _is_same(response, expected) else Outcome.WRONG
    if response.status_code == 504 or (response.status_code == 503 and "retry-after" in response.headers):
        return Outcome.REFUSED
    return Outcome.LOST


def _is_same(response: httpx.Response, expected: Answer) -> bool:
    try:
        body = response.json()
        digit, scores = body["digit"], body["scores"]
        return digit == expected.digit and all(
            abs(got - wanted) <= SAME for got, wanted in zip(scores, expected.scores, strict=True)
        )
    except (ValueError, TypeError, KeyError):  # it is no answer of ours
        return False


@dataclass(slots=True)
class Tally:
    """What has become of the requests so far."""

    sent: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter[Outcome])
    latencies: list[float] = field(default_factory=list[float])
    """Seconds from the moment a request was to be sent until its answer, for those that were answered."""
    complaints: list[str] = field(default_factory=list[str])
    """What was lost or wrong, in words."""

    @property
    def open(self) -> int:
        """Requests that have not ended."""
        return self.sent - self.outcomes.total()

    @property
    def is_clean(self) -> bool:
        """Whether every request has ended, and none was lost or answered wrongly."""
        return not (self.open or self.outcomes[Outcome.LOST] or self.outcomes[Outcome.WRONG])

    def latency(self, part: float) -> float:
        """The latency that this part of the answered requests did not exceed; nan if there is none."""
        ranked = sorted(self.latencies)
        return ranked[max(0, math.ceil(part * len(ranked)) - 1)] if ranked else math.nan


class Visitor:
    """Sends images to the service as a plan says, each in a request of its own, whether others are answered or not."""

    def __init__(
        self,
        url: str,
        images: Sequence[Image],
        expected: Sequence[Answer],
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Know where the service is, and the answers that it ought to give; a test hands in a transport of its own."""
        self.tally = Tally()
        self._bodies = [{"pixels": image} for image in images]
        self._expected = expected
        # Each request has a connection of its own, as if each came from somebody else.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._http = httpx.AsyncClient(
            base_url=url, limits=limits, timeout=PATIENCE, trust_env=False, transport=transport
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def stats(self) -> Stats | None:
        """What the service says about its pool; None if it does not say."""
        try:
            body = (await self._http.get("/stats")).raise_for_status().json()
        except httpx.HTTPError:
            return None
        body["workers"] = tuple(WorkerStats(**worker) for worker in body["workers"])
        return Stats(**body)

    async def reload(self) -> str | None:
        """Have the service replace its classifiers; None when that is done, or why it is not."""
        try:
            response = await self._http.post("/reload", timeout=RELOAD_WITHIN)
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        return None if response.is_success else f"{response.status_code} {response.text[:200]}"

    async def replay(self, plan: Plan) -> None:
        """Send every request at its time, and return when each has ended."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        async with asyncio.TaskGroup() as tasks:
            for number, arrival in enumerate(plan.arrivals):
                await asyncio.sleep(start + arrival - loop.time())
                tasks.create_task(self._send(number % len(self._bodies), start + arrival))

    async def _send(self, which: int, due: float) -> None:
        self.tally.sent += 1
        try:
            response = await self._http.post("/classify", json=self._bodies[which])
        except httpx.HTTPError as error:
            self._note(Outcome.LOST, f"image {which}: {type(error).__name__}: {error}")
            return
        outcome = judge(response, self._expected[which])
        if outcome is Outcome.ANSWERED:
            self.tally.latencies.append(asyncio.get_running_loop().time() - due)
        self._note(outcome, f"image {which}: {response.status_code} {response.text[:200]}")

    def _note(self, outcome: Outcome, what: str) -> None:
        self.tally.outcomes[outcome] += 1
        if outcome in {Outcome.LOST, Outcome.WRONG}:
            self.tally.complaints.append(f"{outcome.value}: {what}")
