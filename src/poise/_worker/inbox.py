"""What has arrived at a worker and not begun, in order; recall and cancellation of it.

Many threads put, recall and cancel, and any number of runner threads take. There is no lock: a call is claimed by
popping it from `_waiting`, which is one atomic step of the interpreter, so exactly one of taking and recalling gets it.
A call that has a mark may also be withdrawn by the caller itself, at any time before it begins: see `_protocol.marks`.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from itertools import islice
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from poise._protocol.credit import Credit
from poise._protocol.marks import UNMARKED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from poise._protocol.marks import Marks
    from poise._protocol.messages import CallMessage

MISSED: Final = 4096
"""Recalls and cancellations of unknown calls that are remembered."""
ANNOUNCED_AT_ONCE: Final = 32
"""How many calls one announcement covers: a death leaves at most so many in doubt that had not begun."""


class Arrival:
    """One call that has arrived at the worker."""

    __slots__ = (
        "announced",
        "arguments",
        "awaited",
        "call_id",
        "cancelled",
        "credit",
        "headers",
        "is_dropped",
        "mark",
        "stop",
        "target",
    )

    def __init__(self, message: CallMessage, awaited: Sequence[Any] = ()) -> None:
        """Hold a call.

        Args:
            message: what the caller says of it.
            awaited: the values of `arguments.awaited`.
        """
        _, self.call_id, self.target, self.arguments, credit, self.mark, self.headers = message
        self.awaited = awaited
        self.credit = None if credit is None else Credit(credit)
        self.cancelled = False
        self.stop: Callable[[], object] | None = None
        self.announced = False
        self.is_dropped = False


class Inbox:
    """Calls that have arrived, from their arrival to their end."""

    def __init__(self, announce: Callable[[Sequence[int]], bool] | None = None) -> None:
        """Be empty.

        Args:
            announce: called on a runner thread, before any of these calls begins, with calls that may begin from now
                on. Returns whether it could be said: if not, the caller takes them not to have begun, and they must
                not begin. None if the caller takes every call that it has sent to have begun.
        """
        self._announce = announce
        self.marks: Marks | None = None
        """Those of the calls that arrive, if the caller can see them."""
        self.give_back: Callable[[int], object] = lambda call_id: None  # noqa: ARG005 (there are no marks)
        """Called on any thread with a call that is not to begin: it was withdrawn, or the worker retires."""
        self._queue: SimpleQueue[Arrival | None] = SimpleQueue()
        # Invariant: a call is in `_live` from its arrival to its end, and in `_waiting` until it is claimed.
        self._live: dict[int, Arrival] = {}
        self._waiting: dict[int, Arrival] = {}
        self._gives_back = False
        """Whether the worker retires, so that what was sent ahead is not for it any more."""
        self.on_news: Callable[[], object] | None = None
        """Called on any thread when something has come for a thread that waits otherwise than in `take`."""
        self.lead: Callable[[], object] | None = None
        """How the one thread that takes waits, if it reads what comes itself."""
        self._missed: OrderedDict[int, None] = OrderedDict()
        """What was recalled or cancelled and is not here: it has ended, or comes by a slower way."""

    def __len__(self) -> int:
        """How many calls have not begun."""
        return len(self._waiting)

    def put(self, calls: Iterable[Arrival]) -> None:
        """Add calls at the end."""
        if self._gives_back:
            calls = self._to_be_run(calls)
        live, waiting, put = self._live, self._waiting, self._queue.put
        for call in calls:
            live[call.call_id] = waiting[call.call_id] = call
            put(call)
        if self.on_news is not None:
            self._tell_news()

    @property
    def is_quiet(self) -> bool:
        """Whether `take` would have to wait."""
        return self._queue.empty()

    def is_to_announce(self) -> bool:
        """Whether the next call will be announced when it is taken."""
        try:
            return not next(iter(self._waiting.values())).announced
        except (StopIteration, RuntimeError):  # empty, or another thread changed the dict meanwhile
            return False

    def take(self, wait: Callable[[], object] | None = None) -> Arrival | None:
        """Wait for the next call and claim it, or return None once the inbox is closed.

        Args:
            wait: called before each look, to wait otherwise.
        """
        while True:
            if wait is not None:
                wait()
            elif self.lead is not None:
                self.lead()
            call = self._queue.get()
            if call is None:
                self._queue.put(None)  # for the next thread
                return None
            if call.is_dropped:  # the same call may be here again, further behind
                continue
            if self._announce is not None and not call.announced and not self._announce_next(call):
                self.close()
                return None
            claimed = self._waiting.pop(call.call_id, None)
            if claimed is None:
                continue
            # If it is another it was recalled and sent again just now, and the other record will be passed over.
            if not (claimed.announced or self._announce is None or self._announce([claimed.call_id])):
                self.close()
                return None
            if claimed.mark is None or self._may_begin(claimed, claimed.mark):
                return claimed

    def ended(self, call_id: int) -> None:
        """Forget a call that was taken and has ended."""
        del self._live[call_id]

    def recall(self, call_ids: Iterable[int]) -> list[int]:
        """Remove those of the calls that have not begun, and say which they were."""
        removed: list[int] = []
        for call_id in call_ids:
            if self._waiting.pop(call_id, None) is not None:
                self._drop(call_id)
                removed.append(call_id)
            elif call_id not in self._live:
                self._miss(call_id)
        return removed

    def retire(self) -> None:
        """Give back what was sent ahead and has not begun, now and later: others are to do it."""
        self._gives_back = True
        for call_id in self.recall([call_id for call_id, call in list(self._waiting.items()) if call.mark is not None]):
            self.give_back(call_id)

    def _to_be_run(self, calls: Iterable[Arrival]) -> list[Arrival]:
        """Those of the calls that hold a slot, for which a worker that retires is there still."""
        kept: list[Arrival] = []
        for call in calls:
            if call.mark is None:
                kept.append(call)
            else:
                self.give_back(call.call_id)
        return kept

    def has_missed(self, call_id: int) -> bool:
        """Whether this call was recalled or cancelled before it was put; asked once, after that."""
        return self._missed.pop(call_id, False) is None

    def cancel(self, call_id: int) -> bool:
        """Remove the call if it has not begun and return True; otherwise tell it to stop if it can."""
        if self._waiting.pop(call_id, None) is not None:
            self._drop(call_id)
            return True
        call = self._live.get(call_id)
        if call is not None:
            # The runner sets `stop` and then looks at `cancelled`; here it is the other way round, so one sees it.
            call.cancelled = True
            if call.credit is not None:
                call.credit.stop()
            if call.stop is not None:
                call.stop()
        else:
            self._miss(call_id)
        return False

    def credit(self, call_id: int, items: int) -> None:
        """Let a stream send more items."""
        call = self._live.get(call_id)
        if call is not None and call.credit is not None:
            call.credit.add(items)

    def close(self) -> None:
        """Let every `take` return None from now on, and stop what can be stopped. Calls that wait are dropped."""
        self.recall(list(self._waiting))
        self._queue.put(None)
        self._tell_news()
        for call_id in list(self._live):
            self.cancel(call_id)

    def _tell_news(self) -> None:
        tell = self.on_news  # another thread may take it back at any time
        if tell is not None:
            tell()

    def _may_begin(self, call: Arrival, mark: int) -> bool:
        if mark == UNMARKED or self.marks is None or self.marks.begin(mark):
            return True
        del self._live[call.call_id]
        self.give_back(call.call_id)
        return False

    def _miss(self, call_id: int) -> None:
        self._missed[call_id] = None
        while len(self._missed) > MISSED:
            with contextlib.suppress(KeyError):  # another thread was faster
                self._missed.popitem(last=False)

    def _drop(self, call_id: int) -> None:
        call = self._live.pop(call_id)
        call.is_dropped = True
        call.arguments = b""  # the record stays in the queue until it is reached
        call.awaited = ()

    def _announce_next(self, first: Arrival) -> bool:
        """Announce the call and those behind it. Those may still be recalled: only a death makes the difference."""
        assert self._announce is not None
        while True:
            try:
                calls = list(islice(self._waiting.values(), ANNOUNCED_AT_ONCE))
                break
            except RuntimeError:  # another thread changed the dict meanwhile
                continue
        if first.call_id in self._waiting and first not in calls:
            calls.insert(0, first)
        fresh = [call for call in calls if not call.announced]
        if fresh and not self._announce([call.call_id for call in fresh]):
            return False
        for call in fresh:  # only now: another thread may begin them as soon as they are marked
            call.announced = True
        return True
