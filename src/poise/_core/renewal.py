"""A renewal: the record of one worker that lives and is to be replaced."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from poise._core.states import WorkerState

if TYPE_CHECKING:
    from poise._core.workers import WorkerRecord


class Order(enum.Enum):
    """Who goes first."""

    NEW_FIRST = enum.auto()
    """The new one is ready before the old one is given nothing more."""
    AT_ONCE = enum.auto()
    """The old one is given nothing more from now on, and the new one starts now."""
    OLD_FIRST = enum.auto()
    """The new one starts when the old one is gone, and with it what room it took."""


class Renewal:
    """One worker on its way to be replaced, from the decision until another is ready."""

    __slots__ = ("cause", "failure", "heir", "is_recycling", "is_sick", "old", "persists", "yields")

    def __init__(
        self,
        old: WorkerRecord,
        heir: WorkerRecord,
        *,
        is_recycling: bool,
        is_sick: bool,
        persists: bool,
        yields: bool,
    ) -> None:
        self.old: WorkerRecord | None = old
        """The one that works; None once it is given nothing more. Invariant: it is READY."""
        self.heir: WorkerRecord = heir
        """The one that starts, or is to; or that has started."""
        self.is_recycling: bool = is_recycling
        """Whether the policy asks for it."""
        self.is_sick: bool = is_sick
        """Whether that is because the old one is sick."""
        self.persists: bool = persists
        """Whether another heir is tried where one cannot start."""
        self.yields: bool = yields
        """Whether the old one leaves first where there is no room for both."""
        self.failure: str | None = None
        """Why the old one stays."""
        self.cause: BaseException | None = None
        """The constructor's exception, if that is why."""
        old.renewal = heir.renewal = self

    @property
    def is_over(self) -> bool:
        """Whether the new one is ready, or none is to be expected."""
        return self.failure is not None or self.heir.state > WorkerState.STARTING

    def part(self) -> WorkerRecord:
        """The old one leaves, or is lost: the heir counts towards the size from now on. Return the old one."""
        assert self.old is not None
        old, self.old = self.old, None
        old.renewal = None
        return old

    def gives_up(self, reason: str, cause: BaseException | None) -> bool:
        """The heir could not start: whether that is the end of it, and the old one stays."""
        if self.old is None or self.persists:
            return False
        self.failure, self.cause = reason, cause
        self.part()
        return True

    def pass_on(self, heir: WorkerRecord) -> None:
        """The heir could not start, and this one is tried next."""
        self.heir.renewal = None
        self.heir = heir
        heir.renewal = self
